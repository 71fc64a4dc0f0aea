"""The robust optimum against a general solver, and its certificate."""

import numpy as np
import pytest
from scipy.optimize import minimize

from deploy_kit.data.blocks import signed_rows
from deploy_kit.finetuning.learners import lbfgs
from deploy_kit.finetuning.learners.attack import Attack, Norm
from deploy_kit.finetuning.learners.lbfgs import RobustLoss, certify, minimise

SIZE = 6


class Loaded:
    """Signed rows in memory, as the solver wants them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.all, self.rows, self.width = rows, len(rows), rows.shape[1]
        self.positives = int((rows[:, -1] > 0).sum())

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
    found = minimise(rows, np.full(SIZE + 1, 0.1), attack, lambda passes: None)
    head, certificate = found.vector, found.certificate
    assert certificate.loss == pytest.approx(plain_loss(rows, head.astype(np.float64), attack), abs=1e-6)
    assert certificate.converged
    assert -1e-7 < certificate.gap < 1e-4
    best = min(
        (minimize(lambda v: plain_loss(rows, v, attack), start, method="Nelder-Mead",
                  options={"maxiter": 6000, "maxfev": 6000, "xatol": 1e-7, "fatol": 1e-10, "adaptive": True})
         for start in (head.astype(np.float64), np.zeros(SIZE + 1))),
        key=lambda result: result.fun,
    )  # fmt: skip
    assert certificate.loss <= best.fun + 1e-6
    assert certificate.lower_bound <= best.fun + 1e-7


def test_a_useless_feature_gets_no_weight_under_attack() -> None:
    head = minimise(make_rows(), np.full(SIZE + 1, 0.1), Attack(1, 0.1, 0.1), lambda passes: None).vector
    assert (np.abs(head[2:-1]) < 1e-3).sum() >= 2
    assert head[0] > 0.1


def test_the_certificate_tells_a_head_that_is_no_optimum() -> None:
    rows, attack = make_rows(), Attack(1, 0.03, 0.03)
    found = minimise(rows, np.zeros(SIZE + 1), attack, lambda passes: None)
    head, good = found.vector, found.certificate
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
    minimise(make_rows(), np.zeros(SIZE + 1), Attack(), seen.append)
    assert seen == list(range(1, len(seen) + 1))


def test_the_losses_fall_from_the_start_to_the_optimum() -> None:
    rows, attack, start = make_rows(), Attack(), np.full(SIZE + 1, 0.1)
    found = minimise(rows, start, attack, lambda passes: None)
    assert found.losses[0] == pytest.approx(plain_loss(rows, start, attack))
    assert found.losses[-1] == pytest.approx(found.certificate.loss, abs=1e-7)
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert len(found.losses) == found.certificate.iterations + 1 > 3


@pytest.mark.parametrize("norm", list(Norm))
def test_a_weight_counts_rows_as_often(norm):
    """As if each negative row stood there three times: loss, head and certificate are the same."""
    rows, attack = make_rows(), Attack(1, 0.05, 0.05, norm)
    negative = rows.all[rows.all[:, -1] < 0]
    repeated = Loaded(np.concatenate([rows.all, negative, negative]))
    start = np.full(SIZE + 1, 0.1)
    weighted = minimise(rows, start, attack, lambda passes: None, negative_weight=3.0)
    plain = minimise(repeated, start, attack, lambda passes: None)
    np.testing.assert_allclose(weighted.vector, plain.vector, atol=1e-4)
    assert weighted.certificate.loss == pytest.approx(plain.certificate.loss, rel=1e-7)
    assert weighted.certificate.lower_bound == pytest.approx(plain.certificate.lower_bound, abs=1e-6)
    assert weighted.certificate.gap < 1e-4


def test_a_solver_that_stalls_is_started_again(monkeypatch):
    """L-BFGS-B may take steps too small to go on long before the optimum, and calls that success."""
    rows, attack = make_rows(), Attack(1, 0.05, 0.05)
    runs = []

    def stalls(*arguments, options, **others):
        runs.append(options)
        short = {**options, "maxiter": 2} if len(runs) == 1 else options
        found = minimize(*arguments, options=short, **others)
        found.success = True
        return found

    monkeypatch.setattr(lbfgs, "minimize", stalls)
    found = minimise(rows, np.full(SIZE + 1, 0.1), attack, lambda passes: None)
    assert len(runs) == 2
    assert found.certificate.gap < 1e-4
    assert found.certificate.iterations == len(found.losses) - 1
