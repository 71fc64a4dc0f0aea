"""Gate passages as events: what the detector that flies would announce on whole episodes.

The detector is `policy.calibration.GateDetector`, run here on many episodes at once; `onboard.detector` runs the same
rule step by step. A firing within the tolerance of a passage that was not hit yet is a hit, any other a false alarm. A
passage is a run of consecutive labelled steps. The latency of a hit is its step minus the passage's first one,
negative where it fires early.

Only logits up to the present step count, and none of a later one: the steps after a passage would give it away, since
the task moves the target on as soon as the gate is truly passed, and a drone does so when its detector fires.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.policy.calibration import GateDetector

TOLERANCE_S = 0.15
"""Farthest distance in time between a passage and the firing that announces it."""

REFRACTORY_S = 0.3
"""Shortest time between two firings. The reference policy passes gates at least 0.69 s apart."""


def steps_of(seconds: float, seconds_per_step: float) -> int:
    """Return a duration in whole steps, at least one."""
    return max(1, round(seconds / seconds_per_step))


@dataclass(frozen=True)
class EventCounts:
    """What happened in each episode, with one or several detectors (K).

    Attributes:
        steps: (E,) steps.
        passes: (E,) passages.
        hits: (K, E) passages that the detector fired at.
        false_alarms: (K, E) other firings.
        latency: (K, E) sum of the hits' latencies, steps.
    """

    steps: npt.NDArray[np.int64]
    passes: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    false_alarms: npt.NDArray[np.int64]
    latency: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Firing:
    """When a detector fired.

    Attributes:
        row: (f,) row numbers.
        hit: (f,) whether it announced a passage.
    """

    row: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]


class Timeline:
    """Rows of whole episodes, laid out as episodes by steps.

    Args:
        episode: (n,) number of each row's episode; rows of an episode are consecutive and in order.
        label: (n,) whether the step passed a gate.
        tolerance_steps: farthest distance between a passage and its hit.
    """

    def __init__(self, episode: npt.NDArray[np.int64], label: npt.NDArray[np.bool_], tolerance_steps: int) -> None:
        first = np.flatnonzero(np.concatenate([[True], episode[1:] != episode[:-1]]))
        self.tolerance_steps = tolerance_steps
        self.length = np.diff(np.append(first, episode.size))
        self.row = np.repeat(np.arange(first.size), self.length)
        """(n,) index of each row's episode, from 0."""
        self.step = np.arange(episode.size) - np.repeat(first, self.length)
        """(n,) step within the episode."""
        begins = label & np.concatenate([[True], ~label[:-1] | (episode[1:] != episode[:-1])])
        self._begin = np.flatnonzero(begins)
        """(P,) row of each passage's first step."""
        self._passes = np.bincount(self.row[self._begin], minlength=first.size).astype(np.int64)
        self._passage = self._nearest_passage(label, np.cumsum(begins) - 1)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.length.size

    @property
    def passages(self) -> int:
        """Number of passages."""
        return self._begin.size

    def score(self, logit: npt.NDArray[np.float64], detector: GateDetector) -> npt.NDArray[np.float64]:
        """Return (n,) what a detector holds against its threshold at each row."""
        scores, _ = self._scores(logit, [detector])
        found: npt.NDArray[np.float64] = scores[0, self.step, self.row]
        return found

    def usual_rise(self, logit: npt.NDArray[np.float64], steps: int) -> float:
        """Return by how much the logit rises within so many steps before a passage's first one (median), at least 0."""
        begin = self._begin[self.step[self._begin] >= steps]
        return max(0.0, float(np.median(logit[begin] - logit[begin - steps]))) if begin.size else 0.0

    def count(self, logit: npt.NDArray[np.float64], detectors: Sequence[GateDetector]) -> EventCounts:
        """Let several detectors run over all episodes."""
        shape = (len(detectors), self.episodes)
        hits, alarms, latency = (np.zeros(shape, np.int64) for _ in range(3))
        last_hit = np.full(shape, -1)
        for step, fires in self._run(logit, detectors):
            passage = self._passage[:, step]
            hit = fires & (passage > last_hit)
            last_hit[hit] = np.broadcast_to(passage, shape)[hit]
            hits += hit
            alarms += fires & ~hit
            # Outside of hits the passage may be -1, whose latency is not used.
            latency += np.where(hit, step - self.step[self._begin[passage]], 0) if self.passages else 0
        return EventCounts(self.length, self._passes, hits, alarms, latency)

    def firings(self, logit: npt.NDArray[np.float64], detector: GateDetector) -> Firing:
        """Return the rows at which a detector fires."""
        start = np.cumsum(self.length) - self.length
        rows = [start[fires[0]] + step for step, fires in self._run(logit, [detector])]
        row = np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)
        passage = self._passage[self.row[row], self.step[row]]
        # Only the first firing at a passage is its hit.
        repeated = np.concatenate([[False], passage[1:] == passage[:-1]]) if row.size else np.empty(0, np.bool_)
        return Firing(row, (passage >= 0) & ~repeated)

    def _run(
        self, logit: npt.NDArray[np.float64], detectors: Sequence[GateDetector]
    ) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Yield each step with where the detectors fire (K, E); padding after an episode's end never fires."""
        scores, of_detector = self._scores(logit, detectors)
        threshold, release, refractory = (
            np.array([getattr(detector, name) for detector in detectors])[:, None]
            for name in ("threshold_logit", "release_logit", "refractory_steps")
        )
        shape = (len(detectors), self.episodes)
        armed, ready_at = np.ones(shape, np.bool_), np.zeros(shape, np.int64)
        for step in range(scores.shape[1]):
            score = scores[of_detector, step]
            armed |= score < release
            fires = armed & (score >= threshold) & (step >= ready_at)
            armed &= ~fires
            ready_at = np.where(fires, step + refractory + 1, ready_at)
            yield step, fires

    def _scores(
        self, logit: npt.NDArray[np.float64], detectors: Sequence[GateDetector]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the scores (S, T, E) of all slopes, −∞ after an episode's end, and which is each detector's (K,)."""
        shape = int(self.length.max(initial=0)), self.episodes
        plain = np.zeros(shape)
        plain[self.step, self.row] = logit
        slopes = [(detector.slope_gain, detector.slope_steps, detector.slope_rise) for detector in detectors]
        different = list(dict.fromkeys(slopes))
        scores = np.full((len(different), *shape), -np.inf)
        for number, (gain, steps, rise) in enumerate(different):
            earlier = plain[np.maximum(np.arange(shape[0]) - steps, 0)]
            score = plain + gain * (plain - earlier - rise) if gain else plain
            scores[number, self.step, self.row] = score[self.step, self.row]
        return scores, np.array([different.index(slope) for slope in slopes])

    def _nearest_passage(self, label: npt.NDArray[np.bool_], number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return (E, T) the number of the nearest passage within the tolerance, −1 where there is none."""
        passage = np.full((self.episodes, int(self.length.max(initial=0))), -1)
        rows = np.flatnonzero(label)
        # From far to near, so that the nearest one stays.
        for distance in range(self.tolerance_steps, -1, -1):
            for offset in {distance, -distance}:
                at = self.step[rows] + offset
                inside = (at >= 0) & (at < self.length[self.row[rows]])
                passage[self.row[rows][inside], at[inside]] = number[rows][inside]
        return passage
