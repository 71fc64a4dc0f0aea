"""MasterRacing's grid of tracks: levels of difficulty in one direction, tracks of each level in the other.

Drones keep their column and move between levels. Optionally the tracks lie side by side on one ground, as they do in
MasterRacing, so that a drone near the edge of its tile meets what stands on the neighbouring ones.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.options import EnvOptions, check_kinds, track_seed
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.tracks import Track, make_track
from deploy_kit.task.racing import Levels
from deploy_kit.task.tracks import TRACK_PROPORTIONS, TrackKind

_COLUMN_ORDER: tuple[TrackKind, ...] = ("zigzag", "circular", "ellipse")


class TrackGrid:
    """The tracks of an environment whose options ask for levels; each is made when it is first asked for.

    Args:
        options: options of the vector environment.
        levels: numbers.

    Attributes:
        columns: tracks of each level.
    """

    def __init__(self, options: EnvOptions, levels: Levels) -> None:
        self._options, self._levels = options, levels
        self.columns = grid_columns(options, levels)
        self._tracks: dict[tuple[int, int], Track] = {}

    def column_of(self, env: int) -> int:
        """Return the column of an environment: equal shares, in their order."""
        return env * self.columns // self._options.num_envs

    def place(self, level: int, column: int) -> npt.NDArray[np.float64]:
        """Return where a track's middle lies on the common ground, m, shape (3,)."""
        row, across = level - (self._levels.count - 1) / 2, column - (self.columns - 1) / 2
        return self._levels.tile * np.array([row, across, 0.0])

    def track(self, level: int, column: int) -> Track:
        """Return the track of a level and column, with its neighbours' solids if the options ask for them."""
        track = self.own(level, column)
        if not self._options.neighbours:
            return track
        solids = list(track.primitives)
        for other in range(max(level - 1, 0), min(level + 2, self._levels.count)):
            for beside in range(max(column - 1, 0), min(column + 2, self.columns)):
                if (other, beside) != (level, column):
                    offset = self.place(other, beside) - self.place(level, column)
                    solids.extend(moved(solid, offset) for solid in self.own(other, beside).primitives)
        return dataclasses.replace(track, primitives=tuple(solids))

    def own(self, level: int, column: int) -> Track:
        """Return the track of a level and column, alone."""
        place = (level, column)
        if place not in self._tracks:
            options, count = self._options, self._levels.count
            seed = track_seed(options.seed, level * self.columns + column, 0)
            kinds = (column_kind(column, self.columns, options.tracks),)
            self._tracks[place] = make_track(seed, kinds, (level / count, (level + 1) / count), options.obstacles)
        return self._tracks[place]


def grid_columns(options: EnvOptions, levels: Levels) -> int:
    """Return how many tracks each level has."""
    return levels.columns if options.track_pool is None else max(1, options.track_pool // levels.count)


def column_kind(column: int, columns: int, kinds: tuple[str, ...]) -> TrackKind:
    """Return the kind of the tracks in a column: columns are shared out in the task's proportions."""
    given = check_kinds(kinds)
    shares = np.array([TRACK_PROPORTIONS[kind] if kind in given else 0.0 for kind in _COLUMN_ORDER])
    ends = np.cumsum(shares) / shares.sum()
    # A thousandth, so that a column that begins where a share ends belongs to the next one whatever the rounding.
    return _COLUMN_ORDER[int(np.argmax(column / columns + 1e-3 < ends))]


def moved(solid: Primitive, offset: npt.NDArray[np.float64]) -> Primitive:
    """Return a solid, moved by a vector (3,), m."""
    x, y, z = (float(a + b) for a, b in zip(solid.position, offset, strict=True))
    return dataclasses.replace(solid, position=(x, y, z))
