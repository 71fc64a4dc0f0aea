import numpy as np
import pytest
import torch

from deploy_kit.arrays import sigmoid
from deploy_kit.flight.episodes import GateScores
from deploy_kit.flight.passages import THRESHOLDS, sweep_thresholds
from deploy_kit.gate.evaluation import EvaluationRows, evaluate
from deploy_kit.policy.calibration import GateDetector

DETECTOR = GateDetector(0.5, -0.5, 6, 4)


@pytest.fixture(scope="module")
def scores() -> GateScores:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(5), 120)
    label = np.zeros(600, bool)
    label[20::40] = True
    near = np.convolve(label, np.ones(5), mode="same")
    return GateScores((rng.normal(-2, 1.2, 600) + 1.5 * near).astype(np.float32), label, episode)


def test_the_chosen_threshold_counts_what_the_judge_counts(scores):
    rows = EvaluationRows(torch.zeros(600, 1), scores.label, scores.episode, 0.03)
    judged = evaluate(scores.logit.astype(np.float64), rows, GateDetector(0.5, -0.5, 6, rows.timeline.tolerance_steps))
    assert rows.timeline.tolerance_steps == 5
    sweep = sweep_thresholds(scores, 0.03, GateDetector(0.5, -0.5, 6, 5))
    assert sweep.thresholds[sweep.chosen] == pytest.approx(float(sigmoid(0.5)))
    assert sweep.hits[sweep.chosen] / sweep.passages == judged["event_hit_rate"]
    assert sweep.false_alarms[sweep.chosen] / sweep.minutes == pytest.approx(judged["event_false_alarms_per_minute"])
    assert 0 < sweep.hits[sweep.chosen] < sweep.passages == 15


def test_thresholds_ascend_from_many_firings_to_none(scores):
    sweep = sweep_thresholds(scores, 0.03, DETECTOR)
    assert len(sweep.thresholds) == len(sweep.hits) == len(sweep.false_alarms) == THRESHOLDS + 1
    assert list(sweep.thresholds) == sorted(sweep.thresholds)
    assert sweep.false_alarms[0] > 0 == sweep.false_alarms[-1]
    assert sweep.minutes == pytest.approx(600 * 0.03 / 60)


def test_a_head_without_a_detector_has_no_chosen_threshold(scores):
    sweep = sweep_thresholds(scores, 0.03, None)
    assert (sweep.chosen, len(sweep.thresholds)) == (None, THRESHOLDS)
    # It rests 0.3 s.
    assert max(np.add(sweep.hits, sweep.false_alarms)) <= 5 * -(-120 // 11)
