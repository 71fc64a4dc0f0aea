"""Evaluates a gate head on held-out rows: step by step and as a detector of passages, with intervals."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from deploy_kit.arrays import FloatArray
from deploy_kit.gate.bootstrap import EpisodeBootstrap
from deploy_kit.gate.detector import TOLERANCE_S, Timeline, steps_of
from deploy_kit.gate.metrics import gate_metrics
from deploy_kit.policy.calibration import GateDetector

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
    episode: npt.NDArray[np.int64] | None
    seconds_per_step: float

    @cached_property
    def timeline(self) -> Timeline | None:
        """The rows' episodes."""
        if self.episode is None:
            return None
        return Timeline(self.episode, self.label, steps_of(TOLERANCE_S, self.seconds_per_step))

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
        low: 2.5 % quantile over resampled episodes; None where resampling gives no interval that covers.
        high: 97.5 % quantile.
    """

    value: float
    low: float | None = None
    high: float | None = None


def evaluate(logit: Scores, rows: EvaluationRows, detector: GateDetector) -> dict[str, float]:
    """Return all figures of one head on one set of rows; those of events only where there are whole episodes.

    Args:
        logit: (n,).
        rows: what was scored.
        detector: announces passages; a step counts as a pass at and above its threshold.
    """
    found: dict[str, float] = gate_metrics(logit, rows.label, detector.threshold_logit).to_json()
    if rows.timeline is not None:
        counts = rows.timeline.count(logit, [detector])
        hits, passes = int(counts.hits.sum()), int(counts.passes.sum())
        minutes = len(rows.label) * rows.seconds_per_step / 60
        found["event_hit_rate"] = hits / passes
        found["event_false_alarms_per_minute"] = float(counts.false_alarms.sum()) / minutes
        if hits:
            found["event_latency_steps"] = float(counts.latency.sum()) / hits
    return found


@dataclass(frozen=True)
class FigureIntervals:
    """One head's figures on one set of scores, each with its interval; see `GateMetrics` for what they are.

    Attributes:
        auroc: of steps.
        average_precision: of steps.
        expected_calibration_error: of the probabilities; without an interval, since the bins of a resample are noisier
            than the rows' own, and the errors of all resamples lie above the true one.
        brier: of the probabilities.
        precision: of steps at the threshold.
        recall: of steps at the threshold.
        event_hit_rate: of passages; None, as the next two, where there are no whole episodes.
        event_false_alarms_per_minute: of the detector.
        event_latency_steps: mean over its hits; None where it has none.
    """

    auroc: Interval
    average_precision: Interval
    expected_calibration_error: Interval
    brier: Interval
    precision: Interval
    recall: Interval
    event_hit_rate: Interval | None = None
    event_false_alarms_per_minute: Interval | None = None
    event_latency_steps: Interval | None = None

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """Return plain data for JSON, without the figures that there are none of."""
        return {name: interval for name, interval in asdict(self).items() if interval is not None}


def evaluate_with_intervals(logit: Scores, rows: EvaluationRows, detector: GateDetector, seed: int) -> FigureIntervals:
    """Return the figures of one head, each with its interval over resampled episodes.

    Args:
        logit: (n,).
        rows: what was scored; without episodes, rows are resampled one by one.
        detector: of the head.
        seed: of the resampling; with the same seed, heads are compared on the same episodes.
    """
    episode = np.arange(len(rows.label)) if rows.timeline is None else rows.timeline.row
    values = evaluate(logit, rows, detector)
    bootstrap = EpisodeBootstrap(logit, rows.label, episode, detector, rows.timeline, rows.seconds_per_step)
    spread = bootstrap.figures(BOOTSTRAPS, seed)
    names = [field.name for field in fields(FigureIntervals) if field.name in values]
    # A figure that is not resampled has no interval.
    bounds = {name: _quantiles(spread[name]) for name in names if name in spread}
    return FigureIntervals(**{name: Interval(values[name], *bounds.get(name, ())) for name in names})


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    # A resample without passages, or without hits, has no such figure.
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
