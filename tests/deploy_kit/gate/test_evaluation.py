"""Figures, thresholds, correction and intervals."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from deploy_kit.arrays import sigmoid
from deploy_kit.errors import OptionError
from deploy_kit.gate.bootstrap import EpisodeBootstrap
from deploy_kit.gate.correction import Correction, fit_temperature, log_odds
from deploy_kit.gate.evaluation import EvaluationRows, evaluate
from deploy_kit.gate.metrics import decisions, expected_calibration_error
from deploy_kit.gate.threshold import RELEASE_DROPS, ThresholdRule, plain_detector
from deploy_kit.policy.calibration import GateDetector


def detector(threshold: float, drop: float = 2.0) -> GateDetector:
    return GateDetector(threshold, threshold - drop, 10, 5)


@pytest.fixture
def judged() -> tuple[EvaluationRows, np.ndarray]:
    """Forty episodes whose passages score higher, some of them."""
    rng = np.random.default_rng(0)
    label = np.tile(np.arange(100) % 33 == 20, 40)
    logit = np.round(rng.standard_normal(4000) + 2.5 * label, 2).astype(np.float64)
    features = torch.from_numpy(rng.standard_normal((4000, 3)).astype(np.float32))
    return EvaluationRows(features, label, np.repeat(np.arange(40), 100), 0.03), logit


def test_figures_hold_events_at_the_threshold(judged) -> None:
    rows, logit = judged
    found = evaluate(logit, rows, detector(1.5))
    counts = rows.timeline.count(logit, [detector(1.5)])
    assert found["event_hit_rate"] == counts.hits.sum() / 120
    assert found["event_false_alarms_per_minute"] == pytest.approx(counts.false_alarms.sum() / (4000 * 0.03 / 60))
    assert found["event_latency_steps"] == counts.latency.sum() / counts.hits.sum()
    assert 0 < found["event_hit_rate"] < 1
    assert "event_hit_rate" not in evaluate(logit, EvaluationRows(rows.features, rows.label, None, 0.03), detector(1.5))
    assert "event_latency_steps" not in evaluate(logit, rows, detector(99.0))


def choose(text: str, rows: EvaluationRows, logit: np.ndarray) -> GateDetector:
    return ThresholdRule.parse(text).choose(logit, rows.label, rows.timeline, 0.03)


def every_detector(logit: np.ndarray) -> list[GateDetector]:
    values = np.unique(logit)
    thresholds = [values[0], *(0.5 * (values[1:] + values[:-1]))]
    return [detector(float(threshold), drop) for drop in RELEASE_DROPS for threshold in thresholds]


def events(rows: EvaluationRows, logit: np.ndarray, detectors: list[GateDetector]) -> tuple[np.ndarray, np.ndarray]:
    counts = rows.timeline.count(logit, detectors)
    return counts.hits.sum(axis=1), counts.false_alarms.sum(axis=1)


@pytest.mark.parametrize("text", ["f1", "precision=0.3", "precision=0.6", "false-alarms-per-minute=10"])
def test_the_chosen_detector_is_nearly_the_best_of_all_that_keep_the_rule(judged, text: str) -> None:
    rows, logit = judged
    hits, alarms = events(rows, logit, every_detector(logit))
    found, false = (values[0] for values in events(rows, logit, [choose(text, rows, logit)]))
    number = float(text.partition("=")[2] or 0)
    if text == "f1":
        best = (2 * hits / (hits + alarms + 120)).max()
        assert 2 * found / (found + false + 120) >= 0.98 * best
        return
    kept = hits >= number * (hits + alarms) if text.startswith("precision") else alarms <= number * 2
    assert found >= number * (found + false) if text.startswith("precision") else false <= number * 2
    assert found >= 0.95 * hits[kept].max()


def test_a_detector_is_chosen_for_passages_even_where_steps_say_otherwise() -> None:
    # Each alarm lasts three steps and each passage one: by steps the higher logits are mostly wrong.
    label, logit = np.zeros(600, bool), np.full(600, -9.0)
    label[50::100], logit[50::100] = True, 1.0
    logit[[80, 81, 82]] = 2.0
    rows = EvaluationRows(torch.zeros(600, 1), label, np.repeat(np.arange(6), 100), 0.03)
    assert events(rows, logit, [choose("f1", rows, logit)]) == (6, 1)


def test_without_episodes_the_rule_is_kept_by_steps(judged) -> None:
    rows, logit = judged
    chosen = ThresholdRule.parse("precision=0.6").choose(logit, rows.label, None, 0.03)
    assert decisions(logit, rows.label, chosen.threshold_logit).precision >= 0.6
    lower = np.unique(logit)[np.unique(logit) < chosen.threshold_logit]
    assert all(decisions(logit, rows.label, value).precision < 0.6 for value in lower)
    assert chosen == plain_detector(chosen.threshold_logit, 0.03)
    assert (chosen.refractory_steps, chosen.tolerance_steps) == (10, 5)
    assert plain_detector(0.0, 0.01).refractory_steps == 30


@pytest.mark.parametrize("rate", [1.0, 10.0, 60.0])
def test_the_false_alarm_rule_keeps_its_rate(judged, rate: float) -> None:
    rows, logit = judged
    found = evaluate(logit, rows, choose(f"false-alarms-per-minute={rate}", rows, logit))
    assert found["event_false_alarms_per_minute"] <= rate
    assert str(ThresholdRule.parse(f"false-alarms-per-minute={rate:g}")) == f"at most {rate:g} false alarms a minute"


@pytest.mark.parametrize(
    "text", ["f2", "f1=3", "precision", "precision=0", "precision=1.1", "precision=x", "false-alarms-per-minute=-1",
             "false-alarms-per-minute=inf", "precision=nan", ""],
)  # fmt: skip
def test_unknown_rules_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not f1, precision=P"):
        ThresholdRule.parse(text)


def test_rules_that_cannot_be_kept_are_refused(judged) -> None:
    rows, logit = judged
    with pytest.raises(OptionError, match="best precision on the validation rows is"):
        ThresholdRule.parse("precision=1").choose(np.where(rows.label, 0.0, logit), rows.label, None, 0.03)
    with pytest.raises(OptionError, match="cannot be kept on the validation episodes"):
        choose("false-alarms-per-minute=0", rows, np.where(rows.label, -9.0, logit))
    with pytest.raises(OptionError, match="needs held-out episodes"):
        ThresholdRule.parse("false-alarms-per-minute=1").choose(logit, rows.label, None, 0.03)


def test_the_prior_and_the_temperature_make_the_probability_right() -> None:
    rng = np.random.default_rng(1)
    # The log-likelihood ratio of two unit Gaussians two apart is 2x − 2; the trained head says three times that.
    label = rng.random(400_000) < 0.02
    x = rng.standard_normal(label.size) + 2 * label
    trained = np.array([6.0, -6.0], np.float32)
    score = trained[0] * x + trained[1]
    temperature = fit_temperature(score, label, 0.5, 0.02)
    assert temperature == pytest.approx(3, rel=0.03)
    correction = Correction(temperature, 0.5, 0.02)
    corrected = correction.apply(trained)
    np.testing.assert_allclose(corrected, [2, -2 + log_odds(0.02)], rtol=0.05)
    logit = corrected[0] * x + corrected[1]
    assert expected_calibration_error(logit, label) < 0.002
    assert sigmoid(logit).mean() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(correction.undo(corrected), trained, rtol=1e-5)
    assert Correction.from_json(correction.to_json()) == correction


def test_another_training_prior_is_taken_out() -> None:
    correction = Correction(4.0, 0.2, 0.02)
    assert correction.apply(np.zeros(2))[-1] == pytest.approx(log_odds(0.02) - log_odds(0.2) / 4)
    np.testing.assert_allclose(correction.undo(correction.apply(np.array([3.0, 1.0]))), [3, 1], rtol=1e-5)


@pytest.mark.parametrize("data", [None, {}, {"temperature": 1.0}, {"temperature": 0.0, "training_prior": 0.5,
    "flight_prior": 0.02}, {"temperature": 1.0, "training_prior": 0.5, "flight_prior": "x"}])  # fmt: skip
def test_a_record_that_is_no_correction_is_none(data) -> None:
    assert Correction.from_json(data) is None


def test_a_resample_is_the_figure_of_the_repeated_episodes(judged, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, logit = judged
    resampled = EpisodeBootstrap(logit, rows.label, rows.timeline.row, detector(1.5), rows.timeline, 0.03)
    weight = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 1)
    found = {name: value[0] for name, value in resampled._evaluate(weight.astype(float)).items()}
    drawn = np.repeat(np.arange(40), weight[0])
    index = np.concatenate([np.flatnonzero(rows.timeline.row == episode) for episode in drawn])
    again = EvaluationRows(rows.features, rows.label[index], np.repeat(np.arange(40), 100), 0.03)
    expected = evaluate(logit[index], again, detector(1.5))
    assert expected["auroc"] == pytest.approx(roc_auc_score(rows.label[index], logit[index]))
    assert expected["average_precision"] == pytest.approx(average_precision_score(rows.label[index], logit[index]))
    assert "expected_calibration_error" not in found
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    # Every row an episode of its own: the share of hits among n passages has standard deviation sqrt(p (1 - p) / n).
    rng = np.random.default_rng(2)
    label = np.ones(2000, bool)
    label[::2] = False
    logit = np.where(rng.random(2000) < 0.3, 1.0, -1.0)
    spread = EpisodeBootstrap(logit, label, np.arange(2000), detector(0.0), None, 0.03).figures(1000, 0)["recall"]
    p = (logit[label] > 0).mean()
    assert spread.std() == pytest.approx(np.sqrt(p * (1 - p) / 1000), rel=0.15)
