"""Replay: the same rows through the checkpoint and through an artifact."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.parity import CommandComparison, DecisionComparison, Locate, OutputComparison
from deploy_kit.bundle.reader import FEATURES_TENSOR
from deploy_kit.bundle.runners import GATE_TERMS, ArtifactError, Float32, Outputs, Reference, Runner
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.report import Limit, ParityCheck
from deploy_kit.verify.samples import SampleSet

BATCH_SIZES: tuple[int, ...] = (1, 2, 3, 7, 32, 128)
"""Observations are replayed in batches of these sizes, in turn: a batch must not change its rows' outputs."""

FEATURE_BATCH_SIZES: tuple[int, ...] = (1, 7, 8192)
"""The same for rows of features."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class OutputSemantics:
    """What the outputs stand for.

    Attributes:
        names: actions, in order.
        units: their SI units.
        transform: from an unbounded action to the physical command.
        threshold_logit: where gate decisions are cut, None without a gate.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    transform: ActionTransform
    threshold_logit: float | None


class ParityComparison:
    """Accumulates one parity check: outputs, physical commands, gate decisions.

    Args:
        name: of the check.
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
        self.name, self.compared, self.limit = name, compared, limit
        self.rows = 0
        self._transform = transform
        self._outputs = {role: OutputComparison(role, transform.scale if role == "command" else 1.0) for role in roles}
        self._commands = (
            CommandComparison(semantics.names, semantics.units) if {"action", "command"} & set(roles) else None
        )
        gate = {"gate_logit", "gate_probability"} & set(roles)
        self._decisions = DecisionComparison(threshold_logit) if gate and threshold_logit is not None else None

    def add(self, reference: Outputs, candidate: Outputs, row_scale: Float32 | None = None) -> None:
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
        if self._decisions is not None and decision is not None and "gate_logit" in reference:
            logit = reference["gate_logit"][:, 0]
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
        if action is None or action.ndim != 2 or action.shape[1] != len(self._transform.scale):
            return None
        return self._transform.apply(action)

    def _decision(self, candidate: Outputs) -> npt.NDArray[np.bool_] | None:
        assert self._decisions is not None
        threshold = self._decisions.threshold_logit
        for role, cut in (("gate_logit", threshold), ("gate_probability", 1.0 / (1.0 + np.exp(-threshold)))):
            if role in candidate and candidate[role].ndim == 2:
                decision: npt.NDArray[np.bool_] = candidate[role][:, 0] >= np.float32(cut)
                return decision
        return None


def replay(
    samples: SampleSet, reference: Outputs, runner: Runner, comparison: ParityComparison, advance: Advance
) -> ParityCheck:
    """Run an artifact on a sample set and compare.

    Args:
        samples: the rows.
        reference: what the checkpoint gives for them.
        runner: the artifact.
        comparison: a fresh accumulator.
        advance: told the number of rows after each batch.
    """
    try:
        for rows in batches(len(samples.observation), BATCH_SIZES):
            candidate = runner(samples.observation[rows])
            scale = None if samples.row_scale is None else samples.row_scale[rows]
            comparison.add({role: values[rows] for role, values in reference.items()}, candidate, scale)
            advance(rows.stop - rows.start)
    except ArtifactError as error:
        comparison.fail(str(error))
    return comparison.result(samples.where)


def replay_features(
    blocks: Iterable[Float32], reference: Reference, runner: Runner, comparison: ParityComparison, advance: Advance
) -> None:
    """Run the sub-graph features → outputs on rows of features and compare; the caller takes the result.

    Args:
        blocks: features (n, 192) each.
        reference: the checkpoint.
        runner: the sub-graph.
        comparison: a fresh accumulator.
        advance: told the number of rows after each batch.
    """
    try:
        for block in blocks:
            for rows in batches(len(block), FEATURE_BATCH_SIZES):
                features = block[rows]
                comparison.add(reference.heads(features), runner(features))
                advance(len(features))
    except ArtifactError as error:
        comparison.fail(str(error))


def _unit(role: str, reference: Outputs, row_scale: Float32 | None) -> npt.NDArray[np.floating] | None:
    """Return one unit of an output in each row, (n, 1), None for 1.

    Features and the gate logit may be small differences of large terms, and have their rounding errors. A feature's
    unit is a tenth of the row's largest feature, the logit's a tenth of its terms' summed sizes, where that is more
    than 1: the errors seen were 1e-7 of the one and 5e-7 of the other, a tenth and a half of what this allows.
    """
    if role == FEATURES_TENSOR:
        size = np.abs(reference[role]).max(axis=1, keepdims=True)
    elif role == "gate_logit" and GATE_TERMS in reference:
        size = reference[GATE_TERMS]
    elif role == "gate_probability" and GATE_TERMS in reference:
        # By the slope of the sigmoid.
        size = reference[GATE_TERMS] * reference[role] * (1 - reference[role])
    else:
        return row_scale
    unit: npt.NDArray[np.floating] = np.maximum(1.0, 0.1 * size)
    return unit if row_scale is None else np.maximum(unit, row_scale)


def reference_outputs(reference: Reference, observation: Float32) -> Outputs:
    """Return the checkpoint's outputs for many observations, computed in blocks."""
    parts = [reference(observation[rows]) for rows in batches(len(observation), (256,))]
    return {role: np.concatenate([part[role] for part in parts]) for role in parts[0]}


def batches(rows: int, sizes: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices that tile `rows`, of the given sizes in turn and of the last one from then on."""
    start = 0
    for size in chain(sizes, repeat(sizes[-1])):
        if start >= rows:
            return
        yield slice(start, min(start + size, rows))
        start += size
