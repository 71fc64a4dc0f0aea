"""Heads side by side on the same test rows, clean and attacked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import FloatArray
from deploy_kit.finetuning.learners.attack import Attack, worst_case_logits
from deploy_kit.gate.correction import log_odds
from deploy_kit.gate.evaluation import EvaluationRows, FigureIntervals, Scores, evaluate, evaluate_with_intervals
from deploy_kit.gate.metrics import auroc
from deploy_kit.gate.threshold import plain_detector
from deploy_kit.policy.calibration import GateDetector

BEFORE, AFTER = "before", "after"
"""Names of the head as it was read and as it was trained."""

MAJORITY = "majority"
"""The head that knows only how rare passages are: the same probability at every step, and it never fires."""


@dataclass(frozen=True)
class ComparedHead:
    """One head's figures.

    Attributes:
        name: name for people.
        clean: on the test rows as they are.
        pgd: under the attack of the training; None where there are no weights to attack.
        worst_case: at the edge of the attack's ball; None likewise.
    """

    name: str
    clean: FigureIntervals
    pgd: FigureIntervals | None = None
    worst_case: FigureIntervals | None = None

    def to_json(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return plain data for JSON: attack, figure, interval."""
        attacks = {"clean": self.clean, "pgd": self.pgd, "worst_case": self.worst_case}
        return {name: figures.to_json() for name, figures in attacks.items() if figures is not None}


@dataclass(frozen=True)
class Comparison:
    """Several heads on the same rows and the same resampled episodes.

    Attributes:
        heads: heads in the order in which they are shown.
    """

    heads: tuple[ComparedHead, ...] = ()

    def to_json(self) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
        """Return plain data for JSON: head, attack, figure, interval."""
        return {head.name: head.to_json() for head in self.heads}


class DecidingHead(NamedTuple):
    """A head and its detector.

    Attributes:
        vector: (F + 1,) weights and bias.
        detector: announces passages.
    """

    vector: FloatArray
    detector: GateDetector


class AttackedScores(NamedTuple):
    """Logits (n,) of one head on the same rows.

    Attributes:
        clean: without attack.
        pgd: under the attack of the training.
        worst_case: at the edge of its ball.
    """

    clean: Scores
    pgd: Scores
    worst_case: Scores


def compare_heads(
    heads: Mapping[str, DecidingHead], rows: EvaluationRows, attack: Attack, prior: float, seed: int
) -> Comparison:
    """Return all heads' figures, those of the majority's head after the first one's.

    Args:
        heads: heads by name.
        rows: what they are judged on.
        attack: attack in closed form.
        prior: share of positives that the majority's head says.
        seed: seed of the resampled episodes, the same for all heads.
    """
    found = [_compare(name, head, rows, attack, seed) for name, head in heads.items()]
    constant = log_odds(prior)
    scores = np.full(len(rows.label), constant)
    majority = ComparedHead(
        MAJORITY, evaluate_with_intervals(scores, rows, plain_detector(constant + 1.0, rows.seconds_per_step), seed)
    )
    return Comparison((*found[:1], majority, *found[1:]))


def _compare(name: str, head: DecidingHead, rows: EvaluationRows, attack: Attack, seed: int) -> ComparedHead:
    scores = attacked_scores(head.vector, rows.score(head.vector), rows.label, attack)
    return ComparedHead(name, *(evaluate_with_intervals(s, rows, head.detector, seed) for s in scores))


def attacked_scores(vector: FloatArray, logit: Scores, label: npt.NDArray[np.bool_], attack: Attack) -> AttackedScores:
    """Return the logits without attack, under the attack of the training, and at the edge of its ball.

    Args:
        vector: (F + 1,) weights and bias.
        logit: (n,) of the rows as they are.
        label: (n,).
        attack: attack in closed form, so not cut to [0, 1].
    """
    weight = vector[:-1].astype(np.float64)
    return AttackedScores(logit, attack.logits(weight, logit, label), worst_case_logits(weight, logit, label, attack))


def evaluate_under_attack(
    vector: FloatArray, rows: EvaluationRows, detector: GateDetector, attack: Attack
) -> dict[str, float]:
    """Return `evaluate` with the AUROC under both attacks."""
    scores = attacked_scores(vector, rows.score(vector), rows.label, attack)
    return {
        **evaluate(scores.clean, rows, detector),
        "auroc_pgd": auroc(scores.pgd, rows.label),
        "auroc_worst_case": auroc(scores.worst_case, rows.label),
    }
