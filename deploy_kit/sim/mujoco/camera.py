"""The depth camera: rays through pixel centres against a track's solids.

`mj_multiRay` tests every ray against every solid of the scene, about a hundred. A frame is therefore cast in tiles, and
each tile against the few solids that reach into it: `TileCaster` keeps a small model whose solids are overwritten
frame by frame. The intersections are the same calls with the same numbers, so frames are bit-identical to those of one
`mj_multiRay` over the whole scene.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import Camera

TILE_GRID = (6, 6)
"""Tiles down and across; must divide the image's rows and columns."""
_FIRST_CAPACITY = 256


def ray_directions(camera: Camera) -> Array:
    """Return one ray a pixel in body axes, shape (rows · columns, 3), row-major, top row first.

    Rays are scaled so that their component along the optical axis is 1: a hit's ray parameter is its depth.
    """
    column, row = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = _pinhole_rays(camera, column, row).reshape(-1, 3)
    return np.ascontiguousarray(rays @ camera_axes(camera).T)


def camera_axes(camera: Camera) -> Array:
    """Return the rotation from camera axes (x along the optical axis, y left, z up) to body axes."""
    cos, sin = np.cos(camera.tilt), np.sin(camera.tilt)
    return np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])


def _pinhole_rays(camera: Camera, column: Array, row: Array) -> Array:
    return np.stack([np.ones_like(column), -(column - camera.cx) / camera.fx, -(row - camera.cy) / camera.fy], axis=-1)


@dataclass(frozen=True, eq=False)
class SolidTable:
    """The solids at rest of one model, in MuJoCo's terms, one row a geom; geom 0 is the ground plane.

    Attributes:
        kind: geom types, shape (G,).
        size: geom sizes, m, shape (G, 3).
        aabb: centre and half extents of the bounding boxes in geom axes, m, shape (G, 6).
        bound: bounding radii, m, shape (G,).
        position: world frame, m, shape (G, 3).
        rotation: geom to world, row-major, shape (G, 9).
        half_axes: half extents along the geoms' axes as world vectors, m, shape (3 · G, 3), three rows a geom.
    """

    kind: npt.NDArray[np.int32]
    size: Array
    aabb: Array
    bound: Array
    position: Array
    rotation: Array
    half_axes: Array

    @classmethod
    def from_model(cls, model: mujoco.MjModel) -> "SolidTable":
        """Return the solids of the model's world body."""
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        rows = np.flatnonzero(model.geom_bodyid == 0)
        rotation = data.geom_xmat[rows]
        aabb = model.geom_aabb[rows].copy()
        return cls(
            kind=model.geom_type[rows].copy(),
            size=model.geom_size[rows].copy(),
            aabb=aabb,
            bound=model.geom_rbound[rows].copy(),
            position=data.geom_xpos[rows],
            rotation=rotation,
            half_axes=(np.swapaxes(rotation.reshape(-1, 3, 3), 1, 2) * aabb[:, 3:, None]).reshape(-1, 3),
        )


class TileCaster:
    """A model with room for solids, each tile's in a run of rows."""

    def __init__(self) -> None:
        self._reserve(_FIRST_CAPACITY)

    def _reserve(self, capacity: int) -> None:
        spec = mujoco.MjSpec()
        for _ in range(capacity):
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[1.0, 0.0, 0.0])
        self.capacity = capacity
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        root = int(self.model.body_bvhadr[0])
        # One bounding box around everything that may be written later.
        self.model.bvh_aabb[root] = [0.0, 0.0, 0.0, 1e4, 1e4, 1e4]

    def load(self, solids: SolidTable, rows: npt.NDArray[np.intp]) -> None:
        """Write the solids of the given rows one after the other."""
        count = len(rows)
        if count > self.capacity:
            self._reserve(2 * count)
        model, data = self.model, self.data
        model.geom_type[:count] = solids.kind[rows]
        model.geom_size[:count] = solids.size[rows]
        model.geom_aabb[:count] = solids.aabb[rows]
        model.geom_rbound[:count] = solids.bound[rows]
        data.geom_xpos[:count] = solids.position[rows]
        data.geom_xmat[:count] = solids.rotation[rows]

    def cast(
        self,
        first: int,
        count: int,
        origin: Array,
        rays: Array,
        ids: npt.NDArray[np.int32],
        hits: Array,
        cutoff: float,
    ) -> None:
        """Cast rays (3 · M,) from one point against a run of solids; ray parameters go to hits (M,), -1 for none."""
        self.model.body_geomadr[0] = first
        self.model.body_geomnum[0] = count
        mujoco.mj_multiRay(self.model, self.data, origin, rays, None, True, -1, ids, hits, None, len(hits), cutoff)


class DepthCamera:
    """Captures depth frames of one environment after the other; one instance a thread.

    Args:
        camera: intrinsics and mounting.
    """

    def __init__(self, camera: Camera) -> None:
        self._position = np.array(camera.position)
        self._axes = camera_axes(camera)
        self._range = camera.max_range
        down, across = TILE_GRID
        height, width = camera.height // down, camera.width // across
        pixels = np.arange(camera.height * camera.width).reshape(down, height, across, width)
        # Pixels in the order in which tiles hold them.
        self._order = pixels.transpose(0, 2, 1, 3).reshape(-1)
        self._tile_size = height * width
        self._directions = ray_directions(camera)[self._order]
        self._cutoff = camera.max_range * float(np.linalg.norm(self._directions, axis=1).max())
        columns, rows = np.arange(across + 1.0) * width, np.arange(down + 1.0) * height
        self._planes = np.concatenate([self._column_planes(camera, columns), self._row_planes(camera, rows)])
        column, row = np.meshgrid(columns, rows)
        self._corners = _pinhole_rays(camera, column, row)
        count = len(self._directions)
        self._rays = np.empty((count, 3))
        self._hits = np.empty(count)
        self._ids = np.empty(count, np.int32)
        self._caster = TileCaster()

    @staticmethod
    def _column_planes(camera: Camera, columns: Array) -> Array:
        """Return planes through the optical centre and a column, normals towards larger columns, camera axes."""
        slope = (columns - camera.cx) / camera.fx
        return np.stack([-slope, -np.ones_like(slope), np.zeros_like(slope)], axis=-1)

    @staticmethod
    def _row_planes(camera: Camera, rows: Array) -> Array:
        slope = (rows - camera.cy) / camera.fy
        return np.stack([-slope, np.zeros_like(slope), -np.ones_like(slope)], axis=-1)

    def capture(self, solids: SolidTable, position: Array, rotation: Array, out: npt.NDArray[np.float32]) -> None:
        """Write the depth in m, clipped to the camera's range, of every pixel to `out`, shape (rows · columns,).

        Args:
            solids: scene.
            position: of the drone's centre, world frame, m.
            rotation: body to world, shape (3, 3).
            out: where to write.
        """
        np.matmul(self._directions, rotation.T, out=self._rays)
        origin = position + rotation @ self._position
        seen = self.seen(solids, origin, rotation @ self._axes)
        tiles, rows = np.nonzero(seen)
        self._caster.load(solids, rows)
        first = 0
        for tile, count in enumerate(np.bincount(tiles, minlength=len(seen)).tolist()):
            part = slice(tile * self._tile_size, (tile + 1) * self._tile_size)
            if count:
                self._caster.cast(
                    first, count, origin, self._rays[part].reshape(-1), self._ids[part], self._hits[part], self._cutoff
                )
            else:
                self._hits[part] = -1.0
            first += count
        self._hits[self._hits < 0] = self._range
        out[self._order] = np.minimum(self._hits, self._range)

    def seen(self, solids: SolidTable, origin: Array, axes: Array) -> npt.NDArray[np.bool_]:
        """Return which solid may be seen in which tile, shape (tiles, G): no solid that is seen is left out.

        Args:
            solids: scene.
            origin: optical centre, world frame, m.
            axes: camera to world.
        """
        normals = np.vstack([self._planes, [1.0, 0.0, 0.0]]) @ axes.T
        centre = (solids.position - origin) @ normals.T
        reach = np.abs(solids.half_axes @ normals.T).reshape(-1, 3, len(normals)).sum(axis=1)
        above, below = centre + reach >= 0, centre - reach <= 0
        across, down = TILE_GRID[1], TILE_GRID[0]
        in_column = above[:, :across] & below[:, 1 : across + 1]
        in_row = above[:, across + 1 : across + 1 + down] & below[:, across + 2 : across + 2 + down]
        in_depth = above[:, -1] & (centre[:, -1] - reach[:, -1] <= self._range)
        seen = in_row.T[:, None] & in_column.T[None] & in_depth
        # The ground has no bounding box; a tile sees it if any of its corners looks down.
        downwards = self._corners @ axes[2] < 0
        seen[:, :, 0] = downwards[:-1, :-1] | downwards[:-1, 1:] | downwards[1:, :-1] | downwards[1:, 1:]
        flat: npt.NDArray[np.bool_] = seen.reshape(down * across, -1)
        return flat
