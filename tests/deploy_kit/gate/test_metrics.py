"""Values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_kit.errors import DatasetError
from deploy_kit.gate import metrics

# Descending: 3 (pass), 2 (other), 1 (pass), 0 (other), -1 (other)
LOGIT = np.array([1.0, -1.0, 3.0, 0.0, 2.0])
LABEL = np.array([True, False, True, False, False])


def test_auroc() -> None:
    # Of 6 pairs (pass, other) all are in order but (1, 2).
    assert metrics.auroc(LOGIT, LABEL) == pytest.approx(5 / 6)


def test_auroc_counts_ties_half() -> None:
    assert metrics.auroc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == pytest.approx(0.75)


def test_average_precision() -> None:
    # Precision 1 at recall 1/2, then 2/3 at recall 1.
    assert metrics.average_precision(LOGIT, LABEL) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_decisions_include_the_threshold_itself() -> None:
    assert metrics.decisions(LOGIT, LABEL, 1.0) == pytest.approx((2 / 3, 1.0, 0.8))
    assert metrics.decisions(LOGIT, LABEL, 1.0 + 1e-9) == pytest.approx((0.5, 0.5, 0.5))


def test_decisions_without_an_alarm() -> None:
    assert metrics.decisions(LOGIT, LABEL, 9.0) == (0.0, 0.0, 0.0)


def test_best_f1_threshold_is_half_way_to_the_next_logit() -> None:
    # F1: >= 3: 2/3, >= 2: 1/2, >= 1: 4/5, >= 0: 2/3, all: 4/7.
    assert metrics.best_f1_threshold(LOGIT, LABEL) == 0.5


def test_best_f1_threshold_takes_the_highest_of_equals() -> None:
    # >= 4: 2/3; >= 1: 2·2/(4+2) = 2/3.
    logit, label = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, False, True])
    assert metrics.best_f1_threshold(logit, label) == 3.5


def test_best_f1_threshold_may_accept_every_row() -> None:
    assert metrics.best_f1_threshold(np.array([2.0, 1.0]), np.array([False, True])) == 1.0


def test_best_f1_threshold_never_cuts_between_equal_logits() -> None:
    logit, label = np.array([1.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False])
    assert metrics.best_f1_threshold(logit, label) == 0.5


@given(st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=30))
def test_best_f1_threshold_is_the_best_of_all(rows: list[tuple[int, bool]]) -> None:
    logit = np.array([float(row[0]) for row in rows])
    label = np.array([row[1] for row in rows])
    if label.all() or not label.any():
        return
    best = metrics.decisions(logit, label, metrics.best_f1_threshold(logit, label)).f1
    assert best == max(metrics.decisions(logit, label, value).f1 for value in np.arange(-21.5, 22))


def probabilities(*values: float) -> np.ndarray:
    return np.log(np.array(values) / (1 - np.array(values)))


def test_expected_calibration_error() -> None:
    # Bins of 1/15: 0.30 and 0.32 share the fifth, 0.90 is in the fourteenth.
    logit = probabilities(0.30, 0.32, 0.90)
    label = np.array([False, True, False])
    expected = 2 / 3 * abs(0.31 - 0.5) + 1 / 3 * 0.90
    assert metrics.expected_calibration_error(logit, label) == pytest.approx(expected)
    bins = metrics.reliability(logit, label)
    assert bins.confidence == pytest.approx([0.31, 0.90])
    assert bins.frequency == pytest.approx([0.5, 0.0])
    assert bins.rows.tolist() == [2, 1]


def test_fewer_bins_hide_errors() -> None:
    logit, label = probabilities(0.1, 0.9), np.array([True, False])
    assert metrics.expected_calibration_error(logit, label) == pytest.approx(0.9)
    assert metrics.expected_calibration_error(logit, label, bins=1) == pytest.approx(0.0)


def test_certainty_falls_into_the_last_bin() -> None:
    bins = metrics.reliability(np.array([800.0, *probabilities(0.98)]), np.array([True, False]))
    assert bins.confidence == pytest.approx([0.99])
    assert (bins.frequency.tolist(), bins.rows.tolist()) == ([0.5], [2])


def test_brier_and_loss() -> None:
    logit, label = probabilities(0.8, 0.4), np.array([True, False])
    assert metrics.brier(logit, label) == pytest.approx((0.2**2 + 0.4**2) / 2)
    assert metrics.mean_loss(logit, label) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)


def test_large_logits_do_not_overflow() -> None:
    logit = np.array([1e4, -1e4])
    assert metrics.sigmoid(logit).tolist() == [1.0, 0.0]
    assert metrics.mean_loss(logit, np.array([True, False])) == 0.0
    assert metrics.mean_loss(logit, np.array([False, True])) == 1e4


def test_gate_metrics_puts_it_all_together() -> None:
    found = metrics.gate_metrics(LOGIT, LABEL, 0.5)
    assert found.to_json() == {
        "rows": 5,
        "positives": 2,
        "prevalence": 0.4,
        "auroc": metrics.auroc(LOGIT, LABEL),
        "average_precision": metrics.average_precision(LOGIT, LABEL),
        "threshold_logit": 0.5,
        "precision": 2 / 3,
        "recall": 1.0,
        "f1": 0.8,
        "expected_calibration_error": metrics.expected_calibration_error(LOGIT, LABEL),
        "brier": metrics.brier(LOGIT, LABEL),
    }


RANKING = [
    metrics.auroc,
    metrics.average_precision,
    metrics.best_f1_threshold,
    lambda logit, label: metrics.decisions(logit, label, 0.0),
    lambda logit, label: metrics.gate_metrics(logit, label, 0.0),
]
ALL = [*RANKING, metrics.brier, metrics.mean_loss, metrics.expected_calibration_error, metrics.reliability]


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(function, value: float) -> None:
    logit = LOGIT.copy()
    logit[3] = value
    with pytest.raises(DatasetError, match="gate logit 3 of 5 is not finite"):
        function(logit, LABEL)


@pytest.mark.parametrize("function", RANKING)
@pytest.mark.parametrize("value", [True, False])
def test_one_class_cannot_be_ranked(function, value: bool) -> None:
    with pytest.raises(DatasetError, match=f"all 5 rows have label {int(value)}"):
        function(LOGIT, np.full(5, value))


@pytest.mark.parametrize("function", ALL)
def test_shapes_must_agree(function) -> None:
    with pytest.raises(DatasetError, match="cannot be compared"):
        function(LOGIT[:, None], LABEL)
    with pytest.raises(DatasetError, match="cannot be compared"):
        function(LOGIT[:0], LABEL[:0])


def test_bins_of_the_reliability_diagram_hold_as_many_passes_each():
    rng = np.random.default_rng(0)
    label = np.arange(4000) % 50 == 0
    logit = rng.standard_normal(4000) - 6 + 4 * label
    bins = metrics.reliability_by_passes(logit, label)
    np.testing.assert_array_equal(bins.frequency * bins.rows, np.full(8, 10))
    assert bins.rows.sum() == 4000
    assert (bins.confidence * bins.rows).sum() == pytest.approx(metrics.sigmoid(logit).sum())
    assert list(bins.confidence) == sorted(bins.confidence)
    edge = np.sort(logit[label])[10]
    assert bins.rows[0] == (logit < edge).sum()


def test_equal_logits_give_fewer_bins():
    label = np.array([True, True, True, False])
    bins = metrics.reliability_by_passes(np.array([1.0, 1.0, 2.0, 0.0]), label)
    np.testing.assert_array_equal(bins.rows, [1, 2, 1])
    np.testing.assert_array_equal(bins.frequency, [0, 1, 1])
