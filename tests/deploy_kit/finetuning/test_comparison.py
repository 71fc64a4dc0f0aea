"""Heads side by side."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from deploy_kit.finetuning.comparison import DecidingHead, compare_heads
from deploy_kit.finetuning.learners.attack import Attack
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.gate.threshold import plain_detector


def test_heads_are_compared_clean_and_attacked() -> None:
    rng = np.random.default_rng(3)
    label = np.tile(np.arange(100) % 33 == 20, 40)
    features = (rng.standard_normal((4000, 3)) + 0.9 * label[:, None]).astype(np.float32)
    rows = EvaluationRows(torch.from_numpy(features), label, np.repeat(np.arange(40), 100), 0.03)
    head = np.array([1.0, 1.0, 1.0, -2.0], np.float32)
    heads = {
        "before": DecidingHead(-head, plain_detector(0.0, 0.03)),
        "after": DecidingHead(head, plain_detector(1.0, 0.03)),
    }
    found = compare_heads(heads, rows, Attack(3, 0.3, 0.05), 0.03, 0)
    before, majority, after = found.heads
    assert [head.name for head in found.heads] == ["before", "majority", "after"]
    assert majority.pgd is majority.worst_case is None
    assert majority.clean.auroc.value == 0.5
    assert majority.clean.event_hit_rate.value == 0
    assert before.clean.auroc.value == pytest.approx(1 - after.clean.auroc.value)
    intervals = [figures.auroc for figures in (after.clean, after.pgd, after.worst_case)]
    assert intervals[0].value > intervals[1].value > intervals[2].value
    assert all(interval.low < interval.value < interval.high for interval in intervals)
    logit = features.astype(np.float64) @ head[:-1] - 2.0
    shifted = np.where(label, logit - 0.9, logit + 0.9)
    assert intervals[2].value == pytest.approx(roc_auc_score(label, shifted), abs=1e-9)


def test_figures_that_a_head_has_none_of_are_left_out_of_the_record() -> None:
    rng = np.random.default_rng(3)
    label = np.arange(200) % 4 == 0
    rows = EvaluationRows(torch.from_numpy(rng.standard_normal((200, 3)).astype(np.float32)), label, None, 0.03)
    head = DecidingHead(np.array([1.0, 0.0, 0.0, 0.0], np.float32), plain_detector(0.0, 0.03))
    found = compare_heads({"before": head, "after": head}, rows, Attack(), 0.25, 0).to_json()
    assert {name: list(attacks) for name, attacks in found.items()} == {
        "before": ["clean", "pgd", "worst_case"],
        "majority": ["clean"],
        "after": ["clean", "pgd", "worst_case"],
    }
    names = ["auroc", "average_precision", "expected_calibration_error", "brier", "precision", "recall"]
    assert list(found["after"]["clean"]) == names
    assert list(found["after"]["clean"]["auroc"]) == ["value", "low", "high"]
    error = found["after"]["clean"]["expected_calibration_error"]
    assert error["value"] > 0
    assert error["low"] is error["high"] is None
