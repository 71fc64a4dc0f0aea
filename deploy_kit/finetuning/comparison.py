"""Heads side by side on the same test rows, clean and attacked."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import FloatArray
from deploy_kit.finetuning.learners.attack import Attack, worst_case_logits
from deploy_kit.gate.correction import log_odds
from deploy_kit.gate.evaluation import EvaluationRows, Scores, evaluate, evaluate_with_intervals
from deploy_kit.gate.metrics import auroc

Comparison = dict[str, dict[str, dict[str, dict[str, float]]]]
"""By head, attack ("clean", "pgd", "worst_case"), figure: value, low and high of its 95 % interval."""

MAJORITY = "majority"
"""The head that knows only how rare passages are: the same probability at every step, and it never fires."""


def compare_heads(
    heads: Mapping[str, tuple[FloatArray, float]], rows: EvaluationRows, attack: Attack, prior: float, seed: int
) -> Comparison:
    """Return all heads' figures.

    Args:
        heads: weights and bias (F + 1,) and threshold by name.
        rows: what they are judged on.
        attack: in closed form.
        prior: share of positives that the majority's head says.
        seed: of the resampled episodes, the same for all heads.
    """
    first, *others = heads
    found = {first: _compare(*heads[first], rows, attack, seed)}
    # Without weights there is nothing to attack.
    constant = log_odds(prior)
    scores = {"clean": np.full(len(rows.label), constant)}
    found[MAJORITY] = evaluate_with_intervals(scores, rows, constant + 1.0, seed)
    return found | {name: _compare(*heads[name], rows, attack, seed) for name in others}


def _compare(
    vector: FloatArray, threshold: float, rows: EvaluationRows, attack: Attack, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    return evaluate_with_intervals(
        attacked_scores(vector, rows.score(vector), rows.label, attack), rows, threshold, seed
    )


def attacked_scores(
    vector: FloatArray, logit: Scores, label: npt.NDArray[np.bool_], attack: Attack
) -> dict[str, Scores]:
    """Return the logits without attack, under the attack of the training, and at the edge of its ball.

    Args:
        vector: (F + 1,) weights and bias.
        logit: (n,) of the rows as they are.
        label: (n,).
        attack: in closed form, so not cut to [0, 1].
    """
    weight = vector[:-1].astype(np.float64)
    return {
        "clean": logit,
        "pgd": attack.logits(weight, logit, label),
        "worst_case": worst_case_logits(weight, logit, label, attack),
    }


def evaluate_under_attack(
    vector: FloatArray, rows: EvaluationRows, threshold: float, attack: Attack
) -> dict[str, float]:
    """Return `evaluate` with the AUROC under both attacks."""
    scores = attacked_scores(vector, rows.score(vector), rows.label, attack)
    return {
        **evaluate(scores["clean"], rows, threshold),
        "auroc_pgd": auroc(scores["pgd"], rows.label),
        "auroc_worst_case": auroc(scores["worst_case"], rows.label),
    }
