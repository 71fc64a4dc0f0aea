"""Heads side by side on the same test rows, clean and attacked."""

from collections.abc import Mapping

import numpy as np

from deploy_kit.data.rows import FloatArray
from deploy_kit.pipeline.attack import Attack
from deploy_kit.pipeline.correction import log_odds
from deploy_kit.pipeline.judge import JudgedRows, attacked_scores, compared

Comparison = dict[str, dict[str, dict[str, dict[str, float]]]]
"""By head, attack ("clean", "pgd", "worst_case"), figure: value, low and high of its 95 % interval."""

MAJORITY = "majority"
"""The head that knows only how rare passages are: the same probability at every step, and it never fires."""


def compare_heads(
    heads: Mapping[str, tuple[FloatArray, float]], rows: JudgedRows, attack: Attack, prior: float, seed: int
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
    found[MAJORITY] = compared(scores, rows, constant + 1.0, seed)
    return found | {name: _compare(*heads[name], rows, attack, seed) for name in others}


def _compare(
    vector: FloatArray, threshold: float, rows: JudgedRows, attack: Attack, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    return compared(attacked_scores(vector, rows.score(vector), rows.label, attack), rows, threshold, seed)
