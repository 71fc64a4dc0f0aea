"""Which points of a drone without colliders are inside solids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import Array, matrix_from_quaternion
from deploy_kit.task.tracks import SolidKind

KINDS: tuple[SolidKind, ...] = ("box", "sphere", "cylinder", "capsule")
"""A solid's kind in `SolidArrays` is its place here."""

_FAR = 1e6


@dataclass(frozen=True, eq=False)
class SolidArrays:
    """The solids of several tracks, one row a track, filled up with spheres far away.

    Attributes:
        kind: place in `KINDS`, shape (T, P).
        size: as `Primitive.size`, filled up with zeros, m, shape (T, P, 3).
        position: centres, m, shape (T, P, 3).
        rotation: local to world, shape (T, P, 3, 3).
        bound: radius of the sphere around the centre that holds the solid, m, shape (T, P).
    """

    kind: npt.NDArray[np.int8]
    size: Array
    position: Array
    rotation: Array
    bound: Array

    @classmethod
    def of(cls, tracks: Sequence[Sequence[Primitive]]) -> "SolidArrays":
        """Return the arrays of tracks, given by their solids."""
        shape = len(tracks), max((len(solids) for solids in tracks), default=0)
        kind = np.full(shape, KINDS.index("sphere"), np.int8)
        size, position, bound = np.zeros((*shape, 3)), np.full((*shape, 3), _FAR), np.zeros(shape)
        rotation = np.tile(np.eye(3), (*shape, 1, 1))
        for row, solids in enumerate(tracks):
            if solids:
                filled = slice(len(solids))
                kind[row, filled] = [KINDS.index(solid.kind) for solid in solids]
                size[row, filled] = [(*solid.size, 0.0, 0.0)[:3] for solid in solids]
                position[row, filled] = [solid.position for solid in solids]
                bound[row, filled] = [solid.bounding_radius for solid in solids]
                rotation[row, filled] = matrix_from_quaternion(np.array([solid.quaternion for solid in solids]))
        return cls(kind, size, position, rotation, bound)


def points_inside(
    position: Array, rotation: Array, offsets: Array, solids: SolidArrays, rows: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Return which body points are inside a solid or under the ground, shape (N, K).

    Args:
        position: of the drones, m, shape (N, 3).
        rotation: body to world, shape (N, 3, 3).
        offsets: the points in body axes, m, shape (K, 3).
        solids: tracks.
        rows: row of `solids` that holds each drone's track, shape (N,).
    """
    points = position[:, None] + offsets @ np.swapaxes(rotation, 1, 2)
    inside: npt.NDArray[np.bool_] = points[..., 2] < 0
    reach = float(np.linalg.norm(offsets, axis=1).max())
    away = solids.position[rows] - position[:, None]
    near = np.einsum("npi,npi->np", away, away) <= (solids.bound[rows] + reach) ** 2
    drone, column = np.nonzero(near)
    row = rows[drone]
    local = np.abs((points[drone] - solids.position[row, column][:, None]) @ solids.rotation[row, column])
    within = _within(local, solids.kind[row, column], solids.size[row, column])
    np.logical_or.at(inside, drone, within)
    return inside


def _within(local: Array, kind: npt.NDArray[np.int8], size: Array) -> npt.NDArray[np.bool_]:
    """Return whether points (M, K, 3), absolute coordinates in solids' axes, lie in the solids, shape (M, K)."""
    along = local[..., 2]
    across = np.hypot(local[..., 0], local[..., 1])
    radius, half = size[:, None, 0], size[:, None, 1]
    ways = (
        (local < size[:, None]).all(axis=-1),
        np.hypot(across, along) < radius,
        (across < radius) & (along < half),
        np.hypot(across, np.maximum(along - half, 0.0)) < radius,
    )
    return np.asarray(np.choose(kind[:, None], ways))
