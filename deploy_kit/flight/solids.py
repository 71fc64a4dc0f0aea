"""Surfaces of a track's solids as triangles, for whoever draws them in three dimensions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_quaternion

_AROUND = 16
"""Corners of a round solid's rings."""


@dataclass(frozen=True)
class Surface:
    """Triangles.

    Attributes:
        vertices: (n, 3) world frame, m.
        faces: (m, 3) indices of vertices, anticlockwise seen from outside.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]


def surface_of(primitives: Iterable[Primitive]) -> Surface:
    """Return the surfaces of solids, all in one; round ones are inscribed polyhedra."""
    vertices, faces, count = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0
    for primitive in primitives:
        corners, triangles = _hull(corners_of(primitive))
        vertices.append(corners)
        faces.append(triangles + count)
        count += len(corners)
    return Surface(np.concatenate(vertices), np.concatenate(faces))


def corners_of(primitive: Primitive) -> npt.NDArray[np.float64]:
    """Return points (n, 3), world frame, m, whose convex hull is the solid, or lies within it if it is round."""
    angle = np.linspace(0, 2 * np.pi, _AROUND, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(_AROUND)], axis=1)
    if primitive.kind == "box":
        local = np.array(np.meshgrid(*[(-s, s) for s in primitive.size])).reshape(3, -1).T
    elif primitive.kind == "sphere":
        local = primitive.size[0] * _ball(ring)
    else:
        radius, half = primitive.size
        up = np.array([0.0, 0.0, half])
        if primitive.kind == "cylinder":
            local = np.vstack([radius * ring + up, radius * ring - up])
        else:
            ball = radius * _ball(ring)
            local = np.vstack([ball[ball[:, 2] >= 0] + up, ball[ball[:, 2] <= 0] - up])
    rotation = matrix_from_quaternion(np.asarray(primitive.quaternion))
    return np.asarray(local @ rotation.T + np.asarray(primitive.position))


def _ball(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return points of the unit sphere: rings by latitude, and the poles."""
    latitude = np.radians([-60.0, -30.0, 0.0, 30.0, 60.0])
    rings = [ring * np.cos(angle) + np.array([0.0, 0.0, np.sin(angle)]) for angle in latitude]
    return np.vstack([*rings, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])


def _hull(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    hull = ConvexHull(points)
    faces = hull.simplices.astype(np.int64)
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    # Qhull orders a triangle's corners either way; its equations point outwards.
    inward = np.einsum("ni,ni->n", np.cross(b - a, c - a), hull.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    return points, faces
