"""The tracks of an Isaac Lab environment: a pool, each in a cell of its own on one common ground.

Isaac Lab has one mesh for all environments, so tracks cannot be made while flying. An environment whose options ask for
new tracks draws them from the pool.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deploy_kit.sim.isaaclab.racing.meshes import TriangleMesh, concatenate, ground_mesh, solids_mesh
from deploy_kit.sim.levels import TrackGrid, grid_columns, moved
from deploy_kit.sim.options import EnvOptions, track_seed
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.rules.containment import SolidArrays
from deploy_kit.sim.tracks import Track, make_track
from deploy_kit.task.racing import RACING_TASK, Levels
from deploy_kit.task.tracks import NUM_GATES

CELL = 60.0
"""Side of a cell, m. The longest track reaches 20 m from its middle, and the camera sees 10 m."""

LARGEST_POOL = 512
"""Tracks in a pool unless the options say otherwise: some five million triangles."""

FRESH_TRACKS = 64
"""Least tracks in a pool from which new tracks are drawn."""


@dataclass(frozen=True, eq=False)
class TrackPool:
    """Tracks side by side.

    Attributes:
        tracks: each in its own frame; with levels, level after level.
        origins: where each track's frame lies in the world, m, shape (T, 3).
        mesh: all solids and the ground, world frame.
        columns: with levels, tracks of each level; 0 without.
        neighbours: whether solids of other tracks may come close.
    """

    tracks: tuple[Track, ...]
    origins: Array
    mesh: TriangleMesh
    columns: int = 0
    neighbours: bool = False

    def gates(self, cyclic: bool) -> Array:
        """Return gate centres in flight order and what follows the last one, in the tracks' frames, (T, 9, 3).

        Args:
            cyclic: whether the first gate follows the last one on open tracks too.
        """
        gates = np.empty((len(self.tracks), NUM_GATES + 1, 3))
        for index, track in enumerate(self.tracks):
            gates[index, :NUM_GATES] = track.gate_positions
            gates[index, NUM_GATES] = track.gate_positions[0] if track.closed or cyclic else track.exit_point
        return gates

    def solids(self) -> SolidArrays:
        """Return the solids that a drone on each track may meet, in the tracks' frames."""
        if not self.neighbours:
            return SolidArrays.of([track.primitives for track in self.tracks])
        near = [np.flatnonzero(np.abs(self.origins - origin).max(axis=1) < CELL) for origin in self.origins]
        return SolidArrays.of(
            [
                [moved(solid, self.origins[other] - origin) for other in row for solid in self.tracks[other].primitives]
                for origin, row in zip(self.origins, near, strict=True)
            ]
        )


def pool_size(options: EnvOptions, levels: Levels = RACING_TASK.levels) -> int:
    """Return how many tracks an environment's pool holds."""
    if options.levels:
        return levels.count * grid_columns(options, levels)
    if options.track_pool is not None:
        return options.track_pool
    wanted = max(options.num_envs, FRESH_TRACKS) if options.episodes_per_track else options.num_envs
    return min(wanted, LARGEST_POOL)


@lru_cache(maxsize=1)
def build_pool(options: EnvOptions, levels: Levels = RACING_TASK.levels) -> TrackPool:
    """Lay out the tracks of an environment's options.

    Track i is the one on which environment i of the embedded simulator begins.
    """
    if options.levels:
        grid = TrackGrid(options, levels)
        places = [(level, column) for level in range(levels.count) for column in range(grid.columns)]
        tracks = tuple(grid.own(*place) for place in places)
        if options.neighbours:
            origins = np.array([grid.place(*place) for place in places])
            low, high = (edge(axis=0)[:2] for edge in (origins.min, origins.max))
            ground = ground_mesh(low - levels.tile, high + levels.tile, CELL / 4)
            return TrackPool(tracks, origins, _mesh(ground, tracks, origins), grid.columns, True)
        return _isolated(tracks, grid.columns)
    return _isolated(
        tuple(
            make_track(track_seed(options.seed, index, 0), options.tracks, options.difficulty, options.obstacles)
            for index in range(pool_size(options))
        )
    )


def _isolated(tracks: tuple[Track, ...], level_columns: int = 0) -> TrackPool:
    """Put every track in the middle of a cell, out of sight of the others."""
    columns = math.ceil(math.sqrt(len(tracks)))
    rows = math.ceil(len(tracks) / columns)
    cells = np.array([[index % columns, index // columns, 0] for index in range(len(tracks))], float)
    origins = (cells - np.array([(columns - 1) / 2, (rows - 1) / 2, 0])) * CELL
    for origin, track in zip(origins, tracks, strict=True):
        reached = np.vstack([track.gate_positions, track.start[None]])[:, :2]
        # The track's frame is the one it was drawn in; its middle goes to the middle of the cell.
        origin[:2] -= (reached.min(axis=0) + reached.max(axis=0)) / 2
    margin = np.array([columns + 1, rows + 1]) * CELL / 2
    return TrackPool(tracks, origins, _mesh(ground_mesh(-margin, margin, CELL / 4), tracks, origins), level_columns)


def _mesh(ground: TriangleMesh, tracks: tuple[Track, ...], origins: Array) -> TriangleMesh:
    return concatenate([ground, solids_mesh([track.primitives for track in tracks], origins)])
