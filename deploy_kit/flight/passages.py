"""Gate passages found and false alarms over all thresholds, on whole episodes."""

from dataclasses import dataclass, replace

import numpy as np

from deploy_kit.arrays import sigmoid
from deploy_kit.flight.episodes import GateScores
from deploy_kit.gate.detector import REFRACTORY_S, TOLERANCE_S, Timeline, steps_of
from deploy_kit.policy.calibration import GateDetector

THRESHOLDS = 60
"""How many thresholds are tried, besides the chosen one."""


LOWEST_QUANTILE = 0.85
"""Lowest threshold tried, as a share of steps below it: lower ones fire almost always."""


@dataclass(frozen=True)
class ThresholdSweep:
    """What a detector would announce at each threshold.

    Attributes:
        thresholds: probabilities, ascending.
        hits: passages found at each.
        false_alarms: other firings at each.
        passages: passages flown.
        minutes: time flown.
        chosen: index of the policy's own threshold, None if it has none.
    """

    thresholds: tuple[float, ...]
    hits: tuple[int, ...]
    false_alarms: tuple[int, ...]
    passages: int
    minutes: float
    chosen: int | None


def sweep_thresholds(scores: GateScores, seconds_per_step: float, detector: GateDetector | None) -> ThresholdSweep:
    """Let the detector run over whole episodes at many thresholds.

    Its rest after a firing, its slope and the distance from threshold to release stay those of the policy's detector;
    without one it rests `REFRACTORY_S` and is released at the threshold.

    Args:
        scores: scores of the episodes.
        seconds_per_step: duration of a step, s.
        detector: the policy's own, None if it has none.
    """
    tolerance = steps_of(TOLERANCE_S, seconds_per_step) if detector is None else detector.tolerance_steps
    own = detector or GateDetector(0.0, 0.0, steps_of(REFRACTORY_S, seconds_per_step), tolerance)
    gap = own.threshold_logit - own.release_logit
    logit = scores.logit.astype(np.float64)
    low = np.quantile(logit, LOWEST_QUANTILE)
    tried = np.linspace(low, logit.max(), THRESHOLDS)
    if detector is not None:
        tried = np.union1d(tried, [detector.threshold_logit])
    detectors = [replace(own, threshold_logit=float(t), release_logit=float(t) - gap) for t in tried]
    timeline = Timeline(scores.episode, scores.label, tolerance)
    counts = timeline.count(logit, detectors)
    chosen = None if detector is None else int(np.searchsorted(tried, detector.threshold_logit))
    return ThresholdSweep(
        thresholds=tuple(float(p) for p in sigmoid(tried)),
        hits=tuple(int(n) for n in counts.hits.sum(axis=1)),
        false_alarms=tuple(int(n) for n in counts.false_alarms.sum(axis=1)),
        passages=timeline.passages,
        minutes=logit.size * seconds_per_step / 60,
        chosen=chosen,
    )
