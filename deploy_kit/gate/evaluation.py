"""Evaluates a gate head on held-out rows: step by step and as a detector of passages, with intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from deploy_kit.arrays import FloatArray
from deploy_kit.gate.bootstrap import Resampled
from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.metrics import gate_metrics

BOOTSTRAPS = 1000
"""Resamples behind an interval."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationRows:
    """Rows that a head is judged on.

    Attributes:
        features: (n, F) float32.
        label: (n,) bool.
        episode: (n,) number of the row's episode, rows consecutive and in order; None where they are no whole episodes.
        seconds_per_step: duration of a step, s.
    """

    features: Tensor
    label: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64] | None = None
    seconds_per_step: float = 0.03

    @cached_property
    def timeline(self) -> Timeline | None:
        """The rows' episodes."""
        return None if self.episode is None else Timeline(self.episode, self.label)

    def score(self, vector: FloatArray) -> Scores:
        """Return the logits (n,) of a head given as weights and bias (F + 1,), by the operation that ships."""
        head = torch.from_numpy(np.array(vector))
        with torch.inference_mode():
            logit: Scores = linear(self.features, head[None, :-1], head[-1:])[:, 0].double().numpy()
        return logit


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval.

    Attributes:
        value: on the rows as they are.
        low: 2.5 % quantile over resampled episodes.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float


def evaluate(logit: Scores, rows: EvaluationRows, threshold: float) -> dict[str, float]:
    """Return all figures of one head on one set of rows; those of events only where there are whole episodes.

    Args:
        logit: (n,).
        rows: what was scored.
        threshold: logit at and above which a step counts as a pass.
    """
    found: dict[str, float] = gate_metrics(logit, rows.label, threshold).to_json()
    if rows.timeline is not None:
        counts = rows.timeline.count(logit, np.array([threshold]))
        hits, passes = int(counts.hits.sum()), int(counts.passes.sum())
        minutes = len(rows.label) * rows.seconds_per_step / 60
        found["event_hit_rate"] = hits / passes
        found["event_false_alarms_per_minute"] = float(counts.false_alarms.sum()) / minutes
        if hits:
            found["event_latency_steps"] = float(counts.latency.sum()) / hits
    return found


INTERVAL_FIGURES = (
    "auroc",
    "average_precision",
    "expected_calibration_error",
    "brier",
    "precision",
    "recall",
    "event_hit_rate",
    "event_false_alarms_per_minute",
    "event_latency_steps",
)
"""Figures of the comparison, each with an interval."""


def evaluate_with_intervals(
    scores: Mapping[str, Scores], rows: EvaluationRows, threshold: float, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of one head under several attacks, each with its interval over resampled episodes.

    Args:
        scores: logits (n,) by attack.
        rows: what was scored; without episodes, rows are resampled one by one.
        threshold: of the head.
        seed: of the resampling, the same for all heads, so that they are compared on the same episodes.
    """
    episode = np.arange(len(rows.label)) if rows.timeline is None else rows.timeline.row
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, logit in scores.items():
        values = evaluate(logit, rows, threshold)
        resampled = Resampled(logit, rows.label, episode, threshold, rows.timeline, rows.seconds_per_step)
        spread = resampled.figures(BOOTSTRAPS, seed)
        found[name] = {
            figure: asdict(Interval(values[figure], *_quantiles(spread[figure])))
            for figure in INTERVAL_FIGURES
            if figure in values and figure in spread
        }
    return found


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    # A resample without passages, or without hits, has no such figure.
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
