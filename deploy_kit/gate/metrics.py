"""How well the gate logit tells passing steps from others.

A step counts as a gate pass where ``logit >= threshold``. All functions take logits and labels of shape (n,).
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from deploy_kit.arrays import sigmoid
from deploy_kit.errors import DatasetError

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error, the usual number since Guo et al. (2017)."""

PASS_BINS = 8
"""Bins of the reliability diagram, with as many passes in each."""

Logits = npt.NDArray[np.floating]
Labels = npt.NDArray[np.bool_]


class Decisions(NamedTuple):
    """Figures of the decisions at one threshold.

    Attributes:
        precision: share of the decided passes that were passes; 0 if none was decided.
        recall: share of the passes that were decided.
        f1: their harmonic mean; 0 if both are.
    """

    precision: float
    recall: float
    f1: float


class ReliabilityBins(NamedTuple):
    """Predicted probability against what happened, in bins of probability; empty bins are left out.

    Attributes:
        confidence: (b,) mean predicted probability.
        frequency: (b,) share of positives.
        rows: (b,) rows in the bin.
    """

    confidence: npt.NDArray[np.float64]
    frequency: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class GateMetrics:
    """All figures of the gate head on one set of rows.

    Attributes:
        rows: number of rows.
        positives: number of positive rows.
        prevalence: share of positive rows.
        auroc: area under the ROC curve.
        average_precision: area under the precision-recall curve, as a step function.
        threshold_logit: where the three that follow were taken.
        precision: at the threshold.
        recall: at the threshold.
        f1: at the threshold.
        expected_calibration_error: error of the probabilities sigmoid(logit), see `expected_calibration_error`.
        brier: mean squared error of the probabilities.
    """

    rows: int
    positives: int
    prevalence: float
    auroc: float
    average_precision: float
    threshold_logit: float
    precision: float
    recall: float
    f1: float
    expected_calibration_error: float
    brier: float

    def to_json(self) -> dict[str, int | float]:
        """Return plain data for JSON."""
        return asdict(self)


def auroc(logit: Logits, label: Labels) -> float:
    """Return the probability that a passing step ranks above another one, ties counting half.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    _check(logit, label, both_classes=True)
    return float(roc_auc_score(label, logit))


def average_precision(logit: Logits, label: Labels) -> float:
    """Return the precision averaged over recall, without interpolation.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    _check(logit, label, both_classes=True)
    return float(average_precision_score(label, logit))


def brier(logit: Logits, label: Labels) -> float:
    """Return the mean squared error of the probabilities.

    Raises:
        DatasetError: a logit is not finite, or there are no rows.
    """
    _check(logit, label)
    return float(brier_score_loss(label, sigmoid(logit)))


def mean_loss(logit: Logits, label: Labels) -> float:
    """Return the mean binary cross-entropy, nats a row.

    Raises:
        DatasetError: a logit is not finite, or there are no rows.
    """
    _check(logit, label)
    # -log sigmoid(±z) without overflow
    return float(np.logaddexp(0.0, np.where(label, -logit, logit)).mean())


def reliability(logit: Logits, label: Labels, bins: int = CALIBRATION_BINS) -> ReliabilityBins:
    """Return predicted probability against frequency in equal-width bins; a bin holds its upper edge only at 1.

    Raises:
        DatasetError: a logit is not finite, or there are no rows.
    """
    _check(logit, label)
    bin_of = np.minimum((sigmoid(logit) * bins).astype(np.int64), bins - 1)
    return _bins(bin_of, bins, logit, label)


def reliability_by_passes(logit: Logits, label: Labels, bins: int = PASS_BINS) -> ReliabilityBins:
    """Return predicted probability against frequency in bins that hold about as many passes each.

    Where passes are rare, equal-width bins leave nearly all rows in the first one. Fewer bins where logits are equal.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    _check(logit, label, both_classes=True)
    edges = np.unique(np.quantile(logit[label], np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    bin_of = np.searchsorted(edges, logit, side="right")
    return _bins(bin_of, edges.size + 1, logit, label)


def _bins(bin_of: npt.NDArray[np.int64], bins: int, logit: Logits, label: Labels) -> ReliabilityBins:
    count = np.bincount(bin_of, minlength=bins)
    used = count > 0
    confidence = np.bincount(bin_of, sigmoid(logit), bins)[used] / count[used]
    frequency = np.bincount(bin_of, label.astype(np.float64), bins)[used] / count[used]
    return ReliabilityBins(confidence, frequency, count[used])


def expected_calibration_error(logit: Logits, label: Labels, bins: int = CALIBRATION_BINS) -> float:
    """Return the mean distance between predicted probability and frequency, weighted by rows, over equal-width bins.

    Raises:
        DatasetError: a logit is not finite, or there are no rows.
    """
    found = reliability(logit, label, bins)
    return float(np.abs(found.confidence - found.frequency) @ found.rows / found.rows.sum())


def decisions(logit: Logits, label: Labels, threshold: float) -> Decisions:
    """Return precision, recall and F1 of ``logit >= threshold``.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    _check(logit, label, both_classes=True)
    decided = logit >= threshold
    hits, alarms, passes = int((decided & label).sum()), int(decided.sum()), int(label.sum())
    return Decisions(hits / alarms if alarms else 0.0, hits / passes, 2 * hits / (alarms + passes))


def best_f1_threshold(logit: Logits, label: Labels) -> float:
    """Return the threshold with the highest F1, half-way between the two neighbouring logits.

    Of several equally good ones the highest is taken. If accepting every row is best, it is the lowest logit.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    _check(logit, label, both_classes=True)
    values, first = np.unique(np.asarray(logit, np.float64), return_inverse=True)
    alarms = np.cumsum(np.bincount(first)[::-1])[::-1]
    hits = np.cumsum(np.bincount(first, label.astype(np.float64))[::-1])[::-1]
    f1 = 2 * hits / (alarms + int(label.sum()))
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    return float(values[best] if best == 0 else 0.5 * (values[best - 1] + values[best]))


def gate_metrics(logit: Logits, label: Labels, threshold: float) -> GateMetrics:
    """Return all figures on one set of rows.

    Raises:
        DatasetError: a logit is not finite, or all labels are equal.
    """
    at_threshold = decisions(logit, label, threshold)
    return GateMetrics(
        rows=len(label),
        positives=int(label.sum()),
        prevalence=float(label.mean()),
        auroc=auroc(logit, label),
        average_precision=average_precision(logit, label),
        threshold_logit=threshold,
        precision=at_threshold.precision,
        recall=at_threshold.recall,
        f1=at_threshold.f1,
        expected_calibration_error=expected_calibration_error(logit, label),
        brier=brier(logit, label),
    )


def _check(logit: Logits, label: Labels, both_classes: bool = False) -> None:
    if np.shape(logit) != np.shape(label) or np.ndim(logit) != 1 or not len(label):
        raise DatasetError(
            f"logits of shape {np.shape(logit)} and labels of shape {np.shape(label)} cannot be compared"
        )
    finite = np.isfinite(logit)
    if not finite.all():
        raise DatasetError(f"gate logit {int(np.argmin(finite))} of {len(label)} is not finite; check the policy")
    if both_classes and (label.all() or not label.any()):
        raise DatasetError(
            f"all {len(label)} rows have label {int(label[0])}, so nothing can be ranked; use rows of both classes"
        )
