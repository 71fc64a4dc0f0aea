"""The tracks of an Isaac Lab environment: a pool, each in a cell of its own on one common ground.

Isaac Lab has one mesh for all environments, so tracks cannot be made while flying. An environment whose options ask for
new tracks draws them from the pool.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deploy_kit.sim.isaaclab.racing.meshes import TriangleMesh, concatenate, ground_mesh, primitive_mesh
from deploy_kit.sim.options import EnvOptions, track_seed
from deploy_kit.sim.rotations import Array, matrix_from_quaternion
from deploy_kit.sim.tracks import Track, make_track
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
        tracks: each in its own frame.
        origins: where each track's frame lies in the world, m, shape (T, 3).
        mesh: all solids and the ground, world frame.
    """

    tracks: tuple[Track, ...]
    origins: Array
    mesh: TriangleMesh

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

    def gate_bars(self) -> tuple[Array, Array, Array]:
        """Return centres (T, B, 3), rotations to the track's frame (T, B, 3, 3) and half extents (T, B, 3), m."""
        bars = [[p for p in track.primitives if p.role == "gate"] for track in self.tracks]
        return (
            np.array([[bar.position for bar in row] for row in bars]),
            np.array([[matrix_from_quaternion(np.array(bar.quaternion)) for bar in row] for row in bars]),
            np.array([[bar.size for bar in row] for row in bars]),
        )


def pool_size(options: EnvOptions) -> int:
    """Return how many tracks an environment's pool holds."""
    if options.track_pool is not None:
        return options.track_pool
    wanted = max(options.num_envs, FRESH_TRACKS) if options.episodes_per_track else options.num_envs
    return min(wanted, LARGEST_POOL)


@lru_cache(maxsize=1)
def build_pool(options: EnvOptions) -> TrackPool:
    """Lay out the tracks of an environment's options.

    Track i is the one on which environment i of the embedded simulator begins.
    """
    tracks = tuple(
        make_track(track_seed(options.seed, index, 0), options.tracks, options.difficulty, options.obstacles)
        for index in range(pool_size(options))
    )
    columns = math.ceil(math.sqrt(len(tracks)))
    rows = math.ceil(len(tracks) / columns)
    cells = np.array([[index % columns, index // columns, 0] for index in range(len(tracks))], float)
    origins = (cells - np.array([(columns - 1) / 2, (rows - 1) / 2, 0])) * CELL
    for origin, track in zip(origins, tracks, strict=True):
        reached = np.vstack([track.gate_positions, track.start[None]])[:, :2]
        # The track's frame is the one it was drawn in; its middle goes to the middle of the cell.
        origin[:2] -= (reached.min(axis=0) + reached.max(axis=0)) / 2
    margin = np.array([columns + 1, rows + 1]) * CELL / 2
    solids = [
        primitive_mesh(primitive).moved(origin)
        for origin, track in zip(origins, tracks, strict=True)
        for primitive in track.primitives
    ]
    return TrackPool(tracks, origins, concatenate([ground_mesh(-margin, margin, CELL / 4), *solids]))
