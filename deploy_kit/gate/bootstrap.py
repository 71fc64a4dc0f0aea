"""Figures of a gate head on resampled episodes, many resamples at once (Efron's bootstrap over episodes)."""

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import sigmoid
from deploy_kit.gate.detector import Timeline
from deploy_kit.policy.calibration import GateDetector

_WEIGHTS_AT_ONCE = 2_000_000
"""Row weights held in memory together."""

Array = npt.NDArray[np.float64]


class EpisodeBootstrap:
    """One head's scores, ready to be evaluated on episodes drawn with replacement.

    A resample gives every episode a whole-number weight, and every figure is a function of weighted sums.

    Args:
        logit: (n,).
        label: (n,).
        episode: (n,) index of the row's episode, from 0 without gaps.
        detector: detector of the events, its threshold of the decisions.
        timeline: episodes for events, None for none.
        seconds_per_step: duration of a step, s.
    """

    def __init__(
        self,
        logit: Array,
        label: npt.NDArray[np.bool_],
        episode: npt.NDArray[np.int64],
        detector: GateDetector,
        timeline: Timeline | None,
        seconds_per_step: float,
    ) -> None:
        self._episodes = int(episode.max()) + 1
        order = np.argsort(-logit, kind="stable")
        self._episode, self._label = episode[order], label[order]
        ordered = logit[order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        probability, decided = sigmoid(logit), logit >= detector.threshold_logit
        self._sums = {
            "rows": self._sum(episode, np.ones(len(label))),
            "square": self._sum(episode, (probability - label) ** 2),
            "decided": self._sum(episode, decided),
            "hits": self._sum(episode, decided & label),
            "passes": self._sum(episode, label),
        }
        self._minutes = seconds_per_step / 60
        self._events = None if timeline is None else timeline.count(logit, [detector])

    def figures(self, resamples: int, seed: int) -> dict[str, Array]:
        """Return each figure on every resample (B,), NaN where a resample has none."""
        rng, equal = np.random.default_rng(seed), np.full(self._episodes, 1 / self._episodes)
        size = max(1, _WEIGHTS_AT_ONCE // len(self._label))
        parts = [
            self._evaluate(rng.multinomial(self._episodes, equal, min(size, resamples - start)).astype(np.float64))
            for start in range(0, resamples, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _evaluate(self, weight: Array) -> dict[str, Array]:
        total = {name: weight @ values for name, values in self._sums.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                **self._ranking(weight),
                "brier": total["square"] / total["rows"],
                "precision": np.where(total["decided"] > 0, total["hits"] / total["decided"], 0.0),
                "recall": total["hits"] / total["passes"],
            }
            if self._events is not None:
                hits, alarms, latency = (
                    weight @ values[0]
                    for values in (self._events.hits, self._events.false_alarms, self._events.latency)
                )
                found["event_hit_rate"] = hits / (weight @ self._events.passes)
                found["event_false_alarms_per_minute"] = alarms / (total["rows"] * self._minutes)
                found["event_latency_steps"] = latency / hits
        return found

    def _ranking(self, weight: Array) -> dict[str, Array]:
        """Return AUROC and average precision from the weighted classes among equal logits, highest first."""
        rows = weight[:, self._episode]
        passes = np.add.reduceat(rows * self._label, self._first, axis=1)
        others = np.add.reduceat(rows * ~self._label, self._first, axis=1)
        above, others_above = passes.cumsum(axis=1), others.cumsum(axis=1)
        positives, negatives = above[:, -1], others_above[:, -1]
        below = negatives[:, None] - others_above + 0.5 * others
        precision = above / np.maximum(above + others_above, 1)
        return {
            "auroc": (passes * below).sum(axis=1) / (positives * negatives),
            "average_precision": (passes * precision).sum(axis=1) / positives,
        }

    def _sum(self, episode: npt.NDArray[np.int64], values: npt.NDArray[np.generic]) -> Array:
        return np.bincount(episode, values.astype(np.float64), self._episodes).astype(np.float64)
