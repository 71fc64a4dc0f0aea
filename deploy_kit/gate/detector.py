"""Gate passages as events: what a detector that fires once a passage would do on whole episodes.

The detector is causal and as simple as on board: it fires at a step whose logit reaches the threshold, unless it fired
within the last `REFRACTORY_STEPS` steps. A firing within `TOLERANCE_STEPS` steps of a labelled passage is a hit, any
other one a false alarm. The latency of a hit is its step minus the passage's, negative where it fires early.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOLERANCE_STEPS = 5
"""0.15 s at 0.03 s a step; the reference policy passed gates at least 23 steps apart."""

REFRACTORY_STEPS = 2 * TOLERANCE_STEPS
"""So that no passage can be hit twice."""


@dataclass(frozen=True)
class EventCounts:
    """What happened in each episode, at one or several thresholds (K).

    Attributes:
        steps: (E,) steps.
        passes: (E,) labelled passages.
        hits: (K, E) passages that the detector fired at.
        false_alarms: (K, E) firings away from any passage.
        latency: (K, E) sum of the hits' latencies, steps.
    """

    steps: npt.NDArray[np.int64]
    passes: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    false_alarms: npt.NDArray[np.int64]
    latency: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Firing:
    """When the detector fired.

    Attributes:
        row: (f,) row numbers.
        hit: (f,) whether a passage was near.
    """

    row: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]


class Timeline:
    """Rows of whole episodes, laid out as episodes by steps.

    Args:
        episode: (n,) number of each row's episode; rows of an episode are consecutive and in order.
        label: (n,) whether the step passed a gate.
    """

    def __init__(self, episode: npt.NDArray[np.int64], label: npt.NDArray[np.bool_]) -> None:
        first = np.flatnonzero(np.concatenate([[True], episode[1:] != episode[:-1]]))
        self.length = np.diff(np.append(first, episode.size))
        self.row = np.repeat(np.arange(first.size), self.length)
        """(n,) index of each row's episode, from 0."""
        self.step = np.arange(episode.size) - np.repeat(first, self.length)
        """(n,) step within the episode."""
        self._passage = self._nearest_passage(label)
        self._passes = np.bincount(self.row, label, first.size).astype(np.int64)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.length.size

    def count(self, logit: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]) -> EventCounts:
        """Let the detector run over all episodes at several thresholds (K,)."""
        scores = self._grid(logit, -np.inf)
        shape = (thresholds.size, self.episodes)
        hits, alarms, latency = (np.zeros(shape, np.int64) for _ in range(3))
        last = np.full(shape, -REFRACTORY_STEPS - 1)
        for step in range(scores.shape[1]):
            fires = (scores[:, step] >= thresholds[:, None]) & (step - last > REFRACTORY_STEPS)
            last[fires] = step
            near = self._passage[:, step] >= 0
            hits += fires & near
            alarms += fires & ~near
            latency += np.where(fires & near, step - self._passage[:, step], 0)
        return EventCounts(self.length, self._passes, hits, alarms, latency)

    def firings(self, logit: npt.NDArray[np.float64], threshold: float) -> Firing:
        """Return the rows at which the detector fires."""
        rows: list[int] = []
        last, episode = 0, -1
        for row in np.flatnonzero(logit >= threshold).tolist():
            if self.row[row] != episode or row - last > REFRACTORY_STEPS:
                rows.append(row)
                last, episode = row, self.row[row]
        index = np.array(rows, np.int64)
        return Firing(index, self._passage[self.row[index], self.step[index]] >= 0)

    def _grid(self, values: npt.NDArray[np.float64], rest: float) -> npt.NDArray[np.float64]:
        grid = np.full((self.episodes, int(self.length.max())), rest)
        grid[self.row, self.step] = values
        return grid

    def _nearest_passage(self, label: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return (E, T) the step of the nearest passage within the tolerance, −1 where there is none."""
        passage = np.full((self.episodes, int(self.length.max())), -1)
        # From far to near, so that the nearest one stays.
        for distance in range(TOLERANCE_STEPS, -1, -1):
            for offset in {-distance, distance}:
                at = self.step[label] + offset
                inside = (at >= 0) & (at < self.length[self.row[label]])
                passage[self.row[label][inside], at[inside]] = self.step[label][inside]
        return passage
