"""How outputs are compared: the rule that holds every artifact against the checkpoint, written down here alone.

``|artifact - checkpoint| <= absolute + relative * |checkpoint|`` for each number, in units of its output and row; what
is not finite fails. `ParityComparison` measures, `judge_parity` gives the verdict under any limits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.contract import FEATURES_TENSOR
from deploy_kit.bundle.differences import (
    ChannelError,
    CommandComparison,
    DecisionComparison,
    DecisionParity,
    Locate,
    OutputComparison,
    OutputParity,
)
from deploy_kit.bundle.policy_tensors import LOGIT
from deploy_kit.bundle.runners import FEATURE_TERMS, GATE_TERMS, Outputs
from deploy_kit.bundle.thresholds import Thresholds, Tolerance, limit_text, shipped_profile
from deploy_kit.task.interface import ActionTransform


class Limit(StrEnum):
    """Which tolerance of `Thresholds` a parity check is judged by."""

    PARITY = "parity"
    STORED_FEATURES = "stored_features"


@dataclass(frozen=True)
class ParityCheck:
    """Outputs of an artifact against the checkpoint's.

    Attributes:
        name: name of the check.
        compared: what with what.
        rows: how many rows were compared.
        outputs: figures of each output.
        commands: largest difference of each physical command, SI units.
        decisions: flipped gate decisions, None without a gate.
        limit: which tolerance applies.
        note: what a reader should know besides.
        profile: shipped profile whose limits apply whatever those of the report are, as for TF32 arithmetic that was
            asked for; None for the report's.
    """

    name: str
    compared: str
    rows: int
    outputs: tuple[OutputParity, ...]
    commands: tuple[ChannelError, ...] = ()
    decisions: DecisionParity | None = None
    limit: Limit = Limit.PARITY
    note: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class OutputSemantics:
    """What the outputs stand for.

    Attributes:
        names: actions, in order.
        units: their SI units.
        transform: transform from an unbounded action to the physical command.
        threshold_logit: where gate decisions are cut, None without a gate.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    transform: ActionTransform
    threshold_logit: float | None


class ParityComparison:
    """Accumulates one parity check: outputs, physical commands, gate decisions.

    Args:
        name: name of the check.
        compared: what with what.
        roles: outputs to compare.
        semantics: what the outputs stand for.
        limit: which tolerance will apply.
    """

    def __init__(
        self,
        name: str,
        compared: str,
        roles: tuple[str, ...],
        semantics: OutputSemantics,
        limit: Limit = Limit.PARITY,
    ) -> None:
        transform, threshold_logit = semantics.transform, semantics.threshold_logit
        self.name, self.compared, self.limit, self.roles = name, compared, limit, roles
        self.rows = 0
        self.transform = transform
        self._outputs = {role: OutputComparison(role, transform.scale if role == "command" else 1.0) for role in roles}
        self._commands = (
            CommandComparison(semantics.names, semantics.units) if {"action", "command"} & set(roles) else None
        )
        gate = {"gate_logit", "gate_probability", LOGIT} & set(roles)
        self._decisions = DecisionComparison(threshold_logit) if gate and threshold_logit is not None else None

    def add(self, reference: Outputs, candidate: Outputs, row_scale: npt.NDArray[np.floating] | None = None) -> None:
        """Compare the next block of rows."""
        first = self.rows
        self.rows += len(next(iter(reference.values())))
        for role, output in self._outputs.items():
            if role not in reference or role not in candidate:
                output.fail(f"missing in the {'artifact' if role in reference else 'checkpoint'}")
                continue
            output.add(reference[role], candidate[role], first, _unit(role, reference, row_scale))
        if self._commands is not None and (command := self._command(candidate)) is not None:
            self._commands.add(reference["command"], command, first)
        decision = None if self._decisions is None else self._decision(candidate)
        if self._decisions is not None and decision is not None and (known := {"gate_logit", LOGIT} & set(reference)):
            logit = reference[min(known)][:, 0]
            if decision.shape == logit.shape:
                self._decisions.add(logit, decision, first, row_scale)

    def fail(self, problem: str) -> None:
        """Record that the artifact could not be run."""
        for output in self._outputs.values():
            output.fail(problem)

    def result(self, where: Locate, note: str | None = None) -> ParityCheck:
        """Return the check's figures; `where` puts a row index into words."""
        return ParityCheck(
            name=self.name,
            compared=self.compared,
            rows=self.rows,
            outputs=tuple(output.result(where) for output in self._outputs.values()),
            commands=() if self._commands is None else self._commands.result(where),
            decisions=None if self._decisions is None else self._decisions.result(where),
            limit=self.limit,
            note=note,
        )

    def _command(self, candidate: Outputs) -> npt.NDArray[np.floating] | None:
        if "command" in candidate:
            return candidate["command"]
        action = candidate.get("action")
        if action is None or action.ndim != 2 or action.shape[1] != len(self.transform.scale):
            return None
        return self.transform.apply(action)

    def _decision(self, candidate: Outputs) -> npt.NDArray[np.bool_] | None:
        assert self._decisions is not None
        threshold = self._decisions.threshold_logit
        for role, cut in (("gate_logit", threshold), (LOGIT, threshold), ("gate_probability", sigmoid(threshold))):
            if role in candidate and candidate[role].ndim == 2:
                decision: npt.NDArray[np.bool_] = candidate[role][:, 0] >= np.float32(cut)
                return decision
        return None


def row_shares(
    reference: Outputs,
    candidate: Outputs,
    roles: tuple[str, ...],
    transform: ActionTransform,
    tolerance: Tolerance,
    row_scale: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float64]:
    """Return which share of the tolerance the worst number of each row uses up, (n,).

    Infinite where a number is not finite, or an output is missing or of another shape.
    """
    shares = np.zeros(len(next(iter(reference.values()))))
    for role in roles:
        if role not in candidate or candidate[role].shape != reference[role].shape:
            return np.full(shares.shape, np.inf)
        unit = np.asarray(transform.scale if role == "command" else 1.0)
        if (row_unit := _unit(role, reference, row_scale)) is not None:
            unit = unit * row_unit
        expected = reference[role].astype(np.float64)
        with np.errstate(all="ignore"):
            error = np.abs(candidate[role].astype(np.float64) - expected)
            share = error / (tolerance.absolute * unit + tolerance.relative * np.abs(expected))
        shares = np.maximum(shares, np.where(np.isfinite(share), share, np.inf).max(axis=1))
    return shares


def _unit(role: str, reference: Outputs, row_scale: npt.NDArray[np.floating] | None) -> npt.NDArray[np.floating] | None:
    """Return one unit of an output in each row, (n, 1), None for 1.

    Features and the gate logit may be small differences of large terms, and have their rounding errors. The logit's
    unit is a tenth of its terms' summed sizes, where that is more than 1: the errors seen were 5e-7 of them, half of
    what this allows. A feature's unit is half of its row's largest such sum: the layers before round alike wherever an
    image is uniform, so that their errors add up. Those seen were 1.4e-6 of the sum, a quarter of what this allows.
    """
    if role == FEATURES_TENSOR:
        size = 5 * np.abs(reference[FEATURE_TERMS if FEATURE_TERMS in reference else role]).max(axis=1, keepdims=True)
    elif role in ("gate_logit", LOGIT) and GATE_TERMS in reference:
        size = reference[GATE_TERMS]
    elif role == "gate_probability" and GATE_TERMS in reference:
        # By the slope of the sigmoid; infinite terms of a saturated one are no number.
        with np.errstate(invalid="ignore"):
            size = reference[GATE_TERMS] * reference[role] * (1 - reference[role])
    else:
        return row_scale
    unit: npt.NDArray[np.floating] = np.maximum(1.0, 0.1 * size)
    return unit if row_scale is None else np.maximum(unit, row_scale)


def limits_of(check: ParityCheck, thresholds: Thresholds) -> Thresholds:
    """Return the limits that apply to a parity check: the report's, or those of the check's own profile."""
    return thresholds if check.profile is None else shipped_profile(check.profile)


def tolerance_of(check: ParityCheck, thresholds: Thresholds) -> Tolerance:
    """Return the tolerance that applies to a parity check."""
    thresholds = limits_of(check, thresholds)
    return thresholds.parity if check.limit is Limit.PARITY else thresholds.stored_features


def judge_parity(check: ParityCheck, thresholds: Thresholds) -> tuple[str, tuple[str, ...]]:
    """Return the rule that applies to a parity check, and what broke it."""
    thresholds, tolerance = limits_of(check, thresholds), tolerance_of(check, thresholds)
    reasons = [reason for output in check.outputs for reason in _output_problems(output, tolerance)]
    limit = str(tolerance)
    if not check.outputs:
        reasons.append("nothing was compared")
    if check.decisions is not None:
        limit += f", no flip beyond {limit_text(thresholds.decision_band)}"
        if thresholds.flip_share:
            limit += f" but for {thresholds.flip_share:.1%}"
        few = check.decisions.flipped <= thresholds.flip_share * check.decisions.decisions
        if not (few or check.decisions.passes(thresholds.decision_band)):
            reasons.append(
                f"{check.decisions.flipped} of {check.decisions.decisions} decisions flipped, the farthest "
                f"{check.decisions.largest_margin:.2g} from the threshold at {check.decisions.where}"
            )
    return limit, tuple(reasons)


def _output_problems(output: OutputParity, tolerance: Tolerance) -> Iterable[str]:
    if output.problem is not None:
        yield f"{output.name}: {output.problem}"
        return
    if output.nonfinite:
        yield f"{output.name}: {output.nonfinite} values are NaN or infinite, the first at {output.nonfinite_where}"
    worst = output.worst(tolerance)
    if worst is None:
        if not output.nonfinite:
            yield f"{output.name}: nothing was compared"
        return
    element, share = worst
    if share > 1.0:
        yield (
            f"{output.name}[{element.channel}] is off by {element.error:.3g} at {element.where}, "
            f"{share:.3g} times the tolerance"
        )


def share_of_tolerance(output: OutputParity, tolerance: Tolerance) -> float | None:
    """Return the largest share of the tolerance that an output uses up; infinite if not finite, None if empty."""
    if output.problem is not None or output.nonfinite:
        return math.inf
    worst = output.worst(tolerance)
    return None if worst is None else worst[1]
