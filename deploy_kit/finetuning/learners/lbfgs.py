"""The optimum of the robust loss, with a certificate of how near it is."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeResult, minimize

from deploy_kit.arrays import FloatArray
from deploy_kit.data.blocks import ShuffledRows
from deploy_kit.finetuning.group import TrainingGroup
from deploy_kit.finetuning.learners.attack import Attack, Norm

ITERATIONS = 1000
GRADIENT = 1e-6
"""Largest entry of the projected gradient at which the solver stops, nats per unit of a weight."""

STALLED = 1e-3
"""Largest entry of the projected gradient above which a solver that stopped is started again from where it is."""

RUNS = 10

RADIUS_FACTOR = 10.0
"""The certificate speaks of all heads up to so many times as large as the one found."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """How near a head is to the optimum of the robust loss.

    No head with ‖w‖ ≤ `radius` (the dual norm: ‖w‖₁ for L∞) and |b| ≤ `bias_radius` has a loss below `lower_bound`.

    Attributes:
        loss: mean robust loss of the head, nats.
        lower_bound: lower bound of the loss of all those heads, by duality.
        gap: their difference.
        gradient_norm: largest entry of the projected gradient.
        radius: see above.
        bias_radius: see above.
        reach: how far rows were moved; the worst case of the ball only where steps · alpha ≥ epsilon.
        iterations: iterations of the solver.
        converged: whether the solver met its tolerance.
    """

    loss: float
    lower_bound: float
    gap: float
    gradient_norm: float
    radius: float
    bias_radius: float
    reach: float
    iterations: int
    converged: bool

    def to_json(self) -> dict[str, float | int | bool]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Optimum:
    """The head with the lowest robust loss, as near as the solver came.

    Attributes:
        vector: (F + 1,) weights and bias.
        certificate: how near that is.
        losses: mean robust loss at the start and after each iteration, nats.
    """

    vector: FloatArray
    certificate: Certificate
    losses: tuple[float, ...]


class LossTerms(NamedTuple):
    """What loss, gradient and dual need, means over the rows; a = sigmoid(−m') is the weight of a row r.

    Attributes:
        loss: nats.
        weighted_row: (F + 1,) of a·r.
        weight: weight of a.
        entropy: entropy of H(a), nats.
    """

    loss: float
    weighted_row: Vector
    weight: float
    entropy: float


class RobustLoss:
    """Mean of log(1 + exp(−m')) over signed rows, with m' = r·v − reach·‖w‖: convex in v = (w, b).

    Every row is moved, those too whose sigmoid is saturated, where it makes no difference to the loss in float32.

    Args:
        rows: signed rows.
        attack: gives reach and norm.
        group: processes that share the work; None for this one alone.
        negative_weight: how often each row that passes no gate counts.
    """

    def __init__(
        self, rows: ShuffledRows, attack: Attack, group: TrainingGroup | None = None, negative_weight: float = 1.0
    ) -> None:
        attack.require_closed_form()
        self._rows, self.attack, self._group = rows, attack, group
        self._negative_weight = negative_weight
        self._count = rows.positives + negative_weight * (rows.rows - rows.positives)

    def terms(self, vector: Vector, fall: float) -> LossTerms:
        """Return what loss, gradient and dual need, in one pass over the rows.

        Args:
            vector: (F + 1,).
            fall: reach · ‖w‖.
        """
        total, entropy, weight = 0.0, 0.0, 0.0
        weighted = np.zeros(self._rows.width)
        for single in self._rows.in_order():
            # In float32 the loss' noise would end the line search long before the optimum.
            block = (single if self._group is None else single[self._group.share(len(single))]).astype(np.float64)
            margin = block @ vector - fall
            loss = np.logaddexp(0.0, -margin)
            share = np.exp(-np.logaddexp(0.0, margin))
            if self._negative_weight != 1.0:
                # The last number of a signed row is its sign.
                often = np.where(block[:, -1] > 0, 1.0, self._negative_weight)
                loss, share = often * loss, often * share
            total += float(loss.sum())
            weight += float(share.sum())
            # H(a) for a = sigmoid(−m) is log(1 + exp(−m)) + a·m
            entropy += float((loss + share * margin).sum())
            weighted += share @ block
        if self._group is not None:
            total, entropy, weight, *sums = self._group.sum([total, entropy, weight, *weighted])
            weighted = np.array(sums)
        count = self._count
        return LossTerms(total / count, weighted / count, weight / count, entropy / count)


def minimise(
    rows: ShuffledRows,
    vector: npt.NDArray[np.floating],
    attack: Attack,
    progress: Callable[[int], None],
    group: TrainingGroup | None = None,
    negative_weight: float = 1.0,
) -> Optimum:
    """Minimise the robust loss over weights and bias, from a head on.

    For L∞ the loss has kinks where a weight is 0, and its optimum has many such weights. So weights are split into two
    parts of at least 0, w = p − n with ‖w‖₁ = Σ (p + n), where it is smooth, and L-BFGS-B keeps the bounds.

    Args:
        rows: rows to train on.
        vector: (F + 1,) where to begin.
        attack: what rows suffer.
        progress: called with the number of passes over the rows.
        group: processes that share the work; None for this one alone.
        negative_weight: how often each row that passes no gate counts.
    """
    robust = RobustLoss(rows, attack, group, negative_weight)
    split = attack.norm is Norm.LINF
    passes = 0
    losses: list[float] = []

    def evaluate(point: Vector) -> tuple[float, Vector]:
        nonlocal passes
        joined = _join(point, split)
        length = float(point[:-1].sum() if split else np.linalg.norm(point[:-1]))
        terms = robust.terms(joined, attack.reach * length)
        passes += 1
        progress(passes)
        if not losses:
            losses.append(terms.loss)
        up = attack.reach * terms.weight
        if split:
            weighted = terms.weighted_row
            return terms.loss, np.concatenate([up - weighted[:-1], up + weighted[:-1], -weighted[-1:]])
        gradient = -terms.weighted_row
        gradient[:-1] += up * attack.direction(joined[:-1])
        return terms.loss, gradient

    def record(intermediate_result: OptimizeResult) -> None:
        losses.append(float(intermediate_result.fun))

    begin = np.asarray(vector, np.float64)
    start = np.concatenate([begin[:-1].clip(0), (-begin[:-1]).clip(0), begin[-1:]]) if split else begin
    bounds = [(0.0, None)] * (start.size - 1) + [(None, None)] if split else None
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": GRADIENT, "ftol": 1e-13, "maxcor": 20}
    iterations, found = 0, None
    for _ in range(RUNS):
        found = minimize(evaluate, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=record, options=options)
        iterations += int(found.nit)
        head = _join(found.x, split).astype(np.float32)
        certificate = certify(robust, head, iterations, bool(found.success))
        # Where its picture of the curvature misled it into tiny steps, it goes on without one.
        if certificate.gradient_norm < STALLED or not found.success:
            break
        start = found.x
    return Optimum(head, certificate, tuple(losses))


def certify(loss: RobustLoss, vector: FloatArray, iterations: int, converged: bool) -> Certificate:
    """Bound the loss from below, for all heads within a radius.

    log(1 + exp(−m)) ≥ H(a) − a·m for every a in [0, 1], so for all heads the loss is at least
    H̄ − g·w − c·b + reach·ā·‖w‖, where H̄, g, c and ā are means of H(a), a·s·x, a·s and a; with ‖w‖ ≤ R and |b| ≤ B
    that is at least H̄ − R·max(0, ‖g‖_dual − reach·ā) − B·|c|.

    Args:
        loss: the loss.
        vector: (F + 1,) the head.
        iterations: iterations of the solver.
        converged: whether it met its tolerance.
    """
    attack, weights = loss.attack, vector[:-1].astype(np.float64)
    length = float(weights @ attack.direction(weights))
    value, weighted, weight, entropy = loss.terms(vector.astype(np.float64), attack.reach * length)
    radius, bias_radius = (RADIUS_FACTOR * max(size, 1.0) for size in (length, abs(float(vector[-1]))))
    up = attack.reach * weight
    if attack.norm is Norm.LINF:
        excess = float(np.abs(weighted[:-1]).max()) - up
        slope = np.where(weights != 0, np.sign(weights) * up - weighted[:-1], (np.abs(weighted[:-1]) - up).clip(0))
    else:
        excess = float(np.linalg.norm(weighted[:-1])) - up
        slope = up * attack.direction(weights) - weighted[:-1]
    bound = entropy - radius * max(0.0, excess) - bias_radius * abs(float(weighted[-1]))
    return Certificate(
        loss=value,
        lower_bound=bound,
        gap=value - bound,
        gradient_norm=float(max(np.abs(slope).max(), abs(weighted[-1]))),
        radius=radius,
        bias_radius=bias_radius,
        reach=attack.reach,
        iterations=iterations,
        converged=converged,
    )


def _join(point: Vector, split: bool) -> Vector:
    if not split:
        return point
    size = (point.size - 1) // 2
    return np.concatenate([point[:size] - point[size:-1], point[-1:]])
