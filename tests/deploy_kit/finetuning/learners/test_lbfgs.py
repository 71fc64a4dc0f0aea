"""The robust optimum against a general solver, and its certificate."""

import numpy as np
import pytest
from scipy.optimize import minimize

from deploy_kit.data.blocks import signed_rows
from deploy_kit.finetuning.learners.attack import Attack, Norm
from deploy_kit.finetuning.learners.lbfgs import RobustLoss, certify, solve

SIZE = 6


class Loaded:
    """Signed rows in memory, as the solver wants them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.all, self.rows, self.width = rows, len(rows), rows.shape[1]

    def in_order(self):
        yield self.all[: self.rows // 2]
        yield self.all[self.rows // 2 :]


def make_rows(count: int = 400, overlap: float = 0.7) -> Loaded:
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2 == 1
    features = rng.standard_normal((count, SIZE)).astype(np.float32)
    features[:, 0] += overlap * label
    features[:, 1] -= 0.5 * overlap * label
    return Loaded(signed_rows(features, label))


def plain_loss(rows: Loaded, vector: np.ndarray, attack: Attack) -> float:
    length = np.abs(vector[:-1]).sum() if attack.norm is Norm.LINF else np.linalg.norm(vector[:-1])
    return float(np.logaddexp(0, -(rows.all.astype(np.float64) @ vector - attack.reach * length)).mean())


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("reach", [0.0, 0.03, 0.1])
def test_no_general_solver_finds_a_better_head(norm: Norm, reach: float) -> None:
    rows, attack = make_rows(), Attack(1, reach, reach, norm)
    head, certificate = solve(rows, np.full(SIZE + 1, 0.1), attack, lambda passes: None)
    assert certificate.loss == pytest.approx(plain_loss(rows, head.astype(np.float64), attack), abs=1e-6)
    assert certificate.converged
    assert -1e-7 < certificate.gap < 1e-4
    best = min(
        (minimize(lambda v: plain_loss(rows, v, attack), start, method="Nelder-Mead",
                  options={"maxiter": 6000, "maxfev": 6000, "xatol": 1e-7, "fatol": 1e-10, "adaptive": True})
         for start in (head.astype(np.float64), np.zeros(SIZE + 1))),
        key=lambda found: found.fun,
    )  # fmt: skip
    assert certificate.loss <= best.fun + 1e-6
    assert certificate.lower_bound <= best.fun + 1e-7


def test_a_useless_feature_gets_no_weight_under_attack() -> None:
    head, _ = solve(make_rows(), np.full(SIZE + 1, 0.1), Attack(1, 0.1, 0.1), lambda passes: None)
    assert (np.abs(head[2:-1]) < 1e-3).sum() >= 2
    assert head[0] > 0.1


def test_the_certificate_tells_a_head_that_is_no_optimum() -> None:
    rows, attack = make_rows(), Attack(1, 0.03, 0.03)
    head, good = solve(rows, np.zeros(SIZE + 1), attack, lambda passes: None)
    worse = head.copy()
    worse[0] += 0.3
    bad = certify(RobustLoss(rows, attack), worse, 0, True)
    assert bad.gap > 0.01 > 100 * good.gap
    assert bad.gradient_norm > 1e-3 > good.gradient_norm
    rng = np.random.default_rng(1)
    for scale in (0.0, 0.1, 1.0, 3.0):
        other = (scale * rng.standard_normal(SIZE + 1)).astype(np.float32)
        assert certify(RobustLoss(rows, attack), other, 0, True).lower_bound <= good.loss


def test_progress_counts_passes() -> None:
    seen: list[int] = []
    solve(make_rows(), np.zeros(SIZE + 1), Attack(), seen.append)
    assert seen == list(range(1, len(seen) + 1))
