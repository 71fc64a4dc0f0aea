"""One depth frame as compiled code: every solid is intersected analytically, with the pixels that it may cover alone.

The ray of a pixel leaves the optical centre along d = (1, u, v) in camera axes, so that its parameter t is its depth.
The kernel keeps w = 1 / t: along a row of pixels the w at which rays meet a plane is linear in u, and the nearest
surface is the one of the largest w. Only the pixels of a solid's rectangle on the screen are tried, that of its
bounding box. Loops over columns run on slices, since the compiler turns only such loops into vector instructions.

Surfaces are those that MuJoCo's rays meet: from outside a solid the nearest one, from inside the one through which the
ray leaves; the ground from above alone, and without end. All arithmetic is float64.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.mujoco.compiled import compiled

KIND, SIZE, BOUND, POSITION, ROTATION, SOLID_COLUMNS = 0, 1, 4, 5, 8, 17
"""Columns of a table of solids: kind (1), MuJoCo's geom size (3), bounding radius (1), position (3), rotation (9)."""
SPHERE, CAPSULE, CYLINDER, BOX = 2, 3, 5, 6
"""Kinds of solids, numbered as MuJoCo does."""
_NEAR = 1e-4
"""Depth, m, at which bounding boxes are cut off before they are projected."""
_LARGE = 1e30
_TINY = 1e-12

Array: TypeAlias = npt.NDArray[np.float64]
Image: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]


@compiled("void(f8[::1], f8, f8, f8)")
def _widen(bounds: Array, x: float, y: float, z: float) -> None:
    """Let bounds (smallest and largest slope u, smallest and largest slope v) take in a point's projection."""
    u, v = y / x, z / x
    bounds[0], bounds[1] = min(bounds[0], u), max(bounds[1], u)
    bounds[2], bounds[3] = min(bounds[2], v), max(bounds[3], v)


@compiled("b1(f8[::1], f8[::1], f8[:,::1], f8[::1], i8, i8, f8[:,::1], f8[::1], i8[::1])")
def _find_rectangle(
    centre: Array,
    half: Array,
    axes: Array,
    lens: Array,
    rows: int,
    columns: int,
    corners: Array,
    bounds: Array,
    rect: Ints,
) -> bool:
    """Find the pixels that a box may cover: first and end row, first and end column; return whether there are any.

    Args:
        centre: centre of the box, camera axes, m, shape (3,).
        half: half extents, m, shape (3,).
        axes: axes of the box as rows, camera axes, shape (3, 3).
        lens: fx, fy, cx and cy in pixels, range in m.
        rows: rows of the image.
        columns: columns of the image.
        corners: scratch, shape (8, 3).
        bounds: scratch, shape (4,).
        rect: the result, shape (4,).
    """
    nearest, farthest = _LARGE, -_LARGE
    for corner in range(8):
        for axis in range(3):
            at = centre[axis]
            for side in range(3):
                extent = half[side] * axes[side, axis]
                at += extent if (corner >> side) & 1 else -extent
            corners[corner, axis] = at
        nearest, farthest = min(nearest, corners[corner, 0]), max(farthest, corners[corner, 0])
    if farthest <= _NEAR or nearest >= lens[4]:
        return False
    bounds[0] = bounds[2] = _LARGE
    bounds[1] = bounds[3] = -_LARGE
    for corner in range(8):
        x, y, z = corners[corner, 0], corners[corner, 1], corners[corner, 2]
        if x > _NEAR:
            _widen(bounds, x, y, z)
            continue
        # Behind the near plane: the edges to corners before it are cut off there.
        for side in range(3):
            other = corner ^ (1 << side)
            if corners[other, 0] > _NEAR:
                part = (_NEAR - x) / (corners[other, 0] - x)
                _widen(bounds, _NEAR, y + part * (corners[other, 1] - y), z + part * (corners[other, 2] - z))
    # Column c and row r look along u = -(c + 0.5 - cx) / fx and v = -(r + 0.5 - cy) / fy; 1e-6 is for rounding.
    left = max(lens[2] - 0.5 - bounds[1] * lens[0] - 1e-6, 0.0)
    right = min(lens[2] - 0.5 - bounds[0] * lens[0] + 1e-6, columns - 1.0)
    top = max(lens[3] - 0.5 - bounds[3] * lens[1] - 1e-6, 0.0)
    bottom = min(lens[3] - 0.5 - bounds[2] * lens[1] + 1e-6, rows - 1.0)
    # Written so that what is not a number leaves the solid out.
    if not (left <= right and top <= bottom):
        return False
    rect[0], rect[1] = int(np.ceil(top)), int(bottom) + 1
    rect[2], rect[3] = int(np.ceil(left)), int(right) + 1
    return True


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[:,::1], f8[:,::1])")
def _draw_box(
    image: Array, rect: Ints, u: Array, v: Array, eye: Array, half: Array, axes: Array, planes: Array
) -> None:
    """Draw a box, which a ray enters where it has come in between all pairs of sides, and leaves at the first one.

    Args:
        image: largest w so far, shape (rows, columns).
        rect: pixels to try, from `_find_rectangle`.
        u: slopes of the columns.
        v: slopes of the rows.
        eye: optical centre in box axes, m, shape (3,).
        half: half extents, m, shape (3,).
        axes: axes of the box as rows, camera axes, shape (3, 3).
        planes: scratch, shape (9, 3): of three entries and two times three exits, w = p0 + p1·u + p2·v.
    """
    inside = True
    for axis in range(3):
        at, reach = eye[axis], half[axis]
        if abs(at) > reach:
            inside = False
            near = reach if at > 0.0 else -reach
            enter, leave = 1.0 / (near - at), 1.0 / (-near - at)
            leave_too = leave
        else:
            enter, leave, leave_too = 0.0, 1.0 / (reach - at + _TINY), 1.0 / (-reach - at - _TINY)
        for term in range(3):
            planes[axis, term] = axes[axis, term] * enter
            planes[3 + axis, term] = axes[axis, term] * leave
            planes[6 + axis, term] = axes[axis, term] * leave_too
        if enter == 0.0:
            planes[axis, 0] = _LARGE
    au, bu, cu = planes[0, 1], planes[1, 1], planes[2, 1]
    du, eu, fu = planes[3, 1], planes[4, 1], planes[5, 1]
    gu, hu, iu = planes[6, 1], planes[7, 1], planes[8, 1]
    for row in range(rect[0], rect[1]):
        y = v[row]
        a, b, c = planes[0, 0] + planes[0, 2] * y, planes[1, 0] + planes[1, 2] * y, planes[2, 0] + planes[2, 2] * y
        d, e, f = planes[3, 0] + planes[3, 2] * y, planes[4, 0] + planes[4, 2] * y, planes[5, 0] + planes[5, 2] * y
        g, h, i = planes[6, 0] + planes[6, 2] * y, planes[7, 0] + planes[7, 2] * y, planes[8, 0] + planes[8, 2] * y
        line, slopes = image[row, rect[2] : rect[3]], u[rect[2] : rect[3]]
        for column in range(line.size):
            x, w = slopes[column], line[column]
            enter = min(min(a + au * x, b + bu * x), c + cu * x)
            leave = max(max(d + du * x, e + eu * x), f + fu * x)
            leave = max(max(g + gu * x, h + hu * x), max(i + iu * x, leave))
            hit = leave if inside else enter
            line[column] = hit if (enter >= leave) & (hit > w) else w


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8[::1], f8, f8, f8, f8[:,::1], f8, f8, b1, f8, f8)")
def _draw_round(
    image: Array,
    rect: Ints,
    u: Array,
    v: Array,
    x0: float,
    y0: float,
    z0: float,
    axes: Array,
    roundness: float,
    radius: float,
    leaving: bool,
    low: float,
    high: float,
) -> None:
    """Draw the part low ≤ z ≤ high of a sphere or of a cylinder's side: x² + y² + roundness · z² = radius².

    Args:
        image: largest w so far, shape (rows, columns).
        rect: pixels to try, from `_find_rectangle`.
        u: slopes of the columns.
        v: slopes of the rows.
        x0: optical centre in the surface's axes, m.
        y0: its second coordinate.
        z0: its third coordinate.
        axes: axes of the surface as rows, camera axes, shape (3, 3).
        roundness: 1 for a sphere, 0 for a cylinder.
        radius: radius, m.
        leaving: whether rays meet it where they come out, not where they go in.
        low: lower end, m.
        high: upper end, m.
    """
    c = x0 * x0 + y0 * y0 + roundness * z0 * z0 - radius * radius
    if abs(c) < _TINY:
        c = _TINY
    per_c = 1.0 / c
    xu, yu, zu = axes[0, 1], axes[1, 1], axes[2, 1]
    for row in range(rect[0], rect[1]):
        xr = axes[0, 0] + axes[0, 2] * v[row]
        yr = axes[1, 0] + axes[1, 2] * v[row]
        zr = axes[2, 0] + axes[2, 2] * v[row]
        line, slopes = image[row, rect[2] : rect[3]], u[rect[2] : rect[3]]
        for column in range(line.size):
            nearest = line[column]
            x, y, z = xr + xu * slopes[column], yr + yu * slopes[column], zr + zu * slopes[column]
            # The surface is a·t² + 2·b·t + c = 0.
            a = x * x + y * y + roundness * z * z
            b = x0 * x + y0 * y + roundness * z0 * z
            square = b * b - a * c
            q = np.sqrt(max(square, 0.0)) - b
            # Each in the form that does not subtract nearly equal numbers.
            w = a / q if leaving else q * per_c
            at = z0 * w + z
            seen = (square >= 0.0) & (w > nearest) & (at >= low * w) & (at <= high * w)
            line[column] = w if seen else nearest


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[:,::1], f8, f8)")
def _draw_disc(
    image: Array, rect: Ints, u: Array, v: Array, eye: Array, axes: Array, radius: float, height: float
) -> None:
    """Draw a cylinder's end, the disc at z = height in its axes; the other arguments are those of `_draw_box`."""
    per_height = 1.0 / (height - eye[2])
    x0, y0, square = eye[0], eye[1], radius * radius
    xu, yu, wu = axes[0, 1], axes[1, 1], axes[2, 1] * per_height
    for row in range(rect[0], rect[1]):
        xr = axes[0, 0] + axes[0, 2] * v[row]
        yr = axes[1, 0] + axes[1, 2] * v[row]
        wr = (axes[2, 0] + axes[2, 2] * v[row]) * per_height
        line, slopes = image[row, rect[2] : rect[3]], u[rect[2] : rect[3]]
        for column in range(line.size):
            nearest = line[column]
            w = wr + wu * slopes[column]
            x, y = x0 * w + xr + xu * slopes[column], y0 * w + yr + yu * slopes[column]
            line[column] = w if (w > nearest) & (x * x + y * y <= square * w * w) else nearest


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[:,::1], f8, f8)")
def _draw_cylinder(
    image: Array, rect: Ints, u: Array, v: Array, eye: Array, axes: Array, radius: float, half: float
) -> None:
    """Draw a cylinder of a half length; the other arguments are those of `_draw_box`."""
    x, y, z = eye[0], eye[1], eye[2]
    within = x * x + y * y < radius * radius
    inside = within and abs(z) <= half
    if inside or not within:
        _draw_round(image, rect, u, v, x, y, z, axes, 0.0, radius, inside, -half, half)
    # A disc in whose plane the optical centre lies is seen edge on.
    if (inside and z < half) or z > half:
        _draw_disc(image, rect, u, v, eye, axes, radius, half)
    if (inside and z > -half) or z < -half:
        _draw_disc(image, rect, u, v, eye, axes, radius, -half)


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[:,::1], f8, f8)")
def _draw_capsule(
    image: Array, rect: Ints, u: Array, v: Array, eye: Array, axes: Array, radius: float, half: float
) -> None:
    """Draw a capsule of a half length without its caps; the other arguments are those of `_draw_box`."""
    x, y, z = eye[0], eye[1], eye[2]
    across = x * x + y * y
    beyond = max(abs(z) - half, 0.0)
    inside = across + beyond * beyond < radius * radius
    if inside or across >= radius * radius:
        _draw_round(image, rect, u, v, x, y, z, axes, 0.0, radius, inside, -half, half)
    # From inside, what a ray meets beyond a cap's own half of the sphere is within the capsule.
    _draw_round(image, rect, u, v, x, y, z - half, axes, 1.0, radius, inside, 0.0 if inside else -_LARGE, _LARGE)
    _draw_round(image, rect, u, v, x, y, z + half, axes, 1.0, radius, inside, -_LARGE, 0.0 if inside else _LARGE)


@compiled("void(f8[:,::1], f8[::1], f8[::1], f8, f8, f8, f8, f8)")
def _draw_ground(
    image: Array, u: Array, v: Array, up_x: float, up_y: float, up_z: float, height: float, range_w: float
) -> None:
    """Fill the image with the ground's w, or the range's where the ground is not seen.

    Args:
        image: where to write.
        u: slopes of the columns.
        v: slopes of the rows.
        up_x: what is up, along the optical axis.
        up_y: along the camera's second axis.
        up_z: along its third axis.
        height: of the optical centre, m.
        range_w: w at the camera's range, 1/m.
    """
    per_height = -1.0 / height if height > 0.0 else 0.0
    wu = up_y * per_height
    for row in range(image.shape[0]):
        wr = (up_x + up_z * v[row]) * per_height
        for column in range(image.shape[1]):
            image[row, column] = max(wr + wu * u[column], range_w)


@compiled("void(f8[:,::1], i8, f8[::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8[:,::1], f4[:,::1])")
def draw_frame(
    solids: Array, count: int, eye: Array, camera: Array, lens: Array, u: Array, v: Array, image: Array, depth: Image
) -> None:
    """Write the depth in m, clipped to the camera's range, of every pixel.

    Args:
        solids: table of solids, shape (at least `count`, SOLID_COLUMNS).
        count: number of solids.
        eye: optical centre, world frame, m, shape (3,).
        camera: camera to world, shape (3, 3).
        lens: fx, fy, cx and cy in pixels, range in m.
        u: slopes of the columns, ascending or descending, shape (columns,).
        v: slopes of the rows, shape (rows,).
        image: scratch, shape (rows, columns).
        depth: where to write, shape (rows, columns).
    """
    rows, columns = image.shape
    centre, half, origin, bounds = np.empty(3), np.empty(3), np.empty(3), np.empty(4)
    axes, corners, planes, rect = np.empty((3, 3)), np.empty((8, 3)), np.empty((9, 3)), np.empty(4, np.int64)
    left, right = max(u[0], u[columns - 1]), min(u[0], u[columns - 1])
    top, bottom = max(v[0], v[rows - 1]), min(v[0], v[rows - 1])
    _draw_ground(image, u, v, camera[2, 0], camera[2, 1], camera[2, 2], eye[2], 1.0 / lens[4])
    for index in range(count):
        solid = solids[index]
        for axis in range(3):
            centre[axis] = 0.0
            for step in range(3):
                centre[axis] += camera[step, axis] * (solid[POSITION + step] - eye[step])
        x, y, z, bound = centre[0], centre[1], centre[2], solid[BOUND]
        # Left out: what lies behind, beyond the range, or wholly on the far side of one of the view's four sides.
        if x + bound <= _NEAR or x - bound >= lens[4]:
            continue
        if y - left * x > bound * np.sqrt(1.0 + left * left) or right * x - y > bound * np.sqrt(1.0 + right * right):
            continue
        if z - top * x > bound * np.sqrt(1.0 + top * top) or bottom * x - z > bound * np.sqrt(1.0 + bottom * bottom):
            continue
        kind, radius, length = int(solid[KIND]), solid[SIZE], solid[SIZE + 1]
        for axis in range(3):
            origin[axis] = 0.0
            for step in range(3):
                axes[axis, step] = 0.0
                for world in range(3):
                    axes[axis, step] += solid[ROTATION + 3 * world + axis] * camera[world, step]
                origin[axis] -= axes[axis, step] * centre[step]
        half[0] = half[1] = half[2] = radius
        if kind == BOX:
            half[1], half[2] = length, solid[SIZE + 2]
        elif kind == CYLINDER:
            half[2] = length
        elif kind == CAPSULE:
            half[2] = length + radius
        if not _find_rectangle(centre, half, axes, lens, rows, columns, corners, bounds, rect):
            continue
        if kind == BOX:
            _draw_box(image, rect, u, v, origin, half, axes, planes)
        elif kind == CYLINDER:
            _draw_cylinder(image, rect, u, v, origin, axes, radius, length)
        elif kind == CAPSULE:
            _draw_capsule(image, rect, u, v, origin, axes, radius, length)
        else:
            inside = origin[0] ** 2 + origin[1] ** 2 + origin[2] ** 2 < radius * radius
            _draw_round(image, rect, u, v, origin[0], origin[1], origin[2], axes, 1.0, radius, inside, -_LARGE, _LARGE)
    for row in range(rows):
        for column in range(columns):
            depth[row, column] = np.float32(1.0 / image[row, column])


@compiled(
    "void(b1[::1], i8, i8, f8[:,:,::1], i8[::1], f8[:,::1], f8[:,:,::1], f8[::1], f8[::1], f8[::1], f4[:,:,::1],"
    "f4[:,::1], i8)"
)
def draw_frames(
    wanted: Flags,
    first: int,
    end: int,
    solids: Array,
    counts: Ints,
    eyes: Array,
    cameras: Array,
    lens: Array,
    u: Array,
    v: Array,
    depth: Image,
    images: Image,
    start: int,
) -> None:
    """Write the frames of those of some environments that want one.

    Args:
        wanted: which environments want one, shape (N,).
        first: first environment.
        end: the one after the last.
        solids: tables of solids, shape (N, most solids, SOLID_COLUMNS).
        counts: number of solids of each environment, shape (N,).
        eyes: optical centres, world frame, m, shape (N, 3).
        cameras: camera to world, shape (N, 3, 3).
        lens: fx, fy, cx and cy in pixels, range in m.
        u: slopes of the columns, shape (columns,).
        v: slopes of the rows, shape (rows,).
        depth: where to write, m, shape (N, rows, columns).
        images: where to write depth over range, shape (N, start + pixels).
        start: column of `images` where a frame begins.
    """
    image, scale = np.empty((v.size, u.size)), np.float32(1.0 / lens[4])
    for index in range(first, end):
        if wanted[index]:
            draw_frame(solids[index], counts[index], eyes[index], cameras[index], lens, u, v, image, depth[index])
            frame, line = depth[index].reshape(-1), images[index, start:]
            for pixel in range(line.size):
                line[pixel] = frame[pixel] * scale
