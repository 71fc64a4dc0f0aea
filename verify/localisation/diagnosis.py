"""Puts into words where a bundle that failed first differs, and the likely cause."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import torch

from deploy_kit.bundle.implied import FROM_VEHICLE
from deploy_kit.bundle.reader import ONNX_NAME, SAFETENSORS_NAME, TORCHSCRIPT_NAME
from deploy_kit.bundle.runners import ArtifactError, Float32, NetworkRunner, OnnxRunner, Outputs, Runner
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.flight_like import flight_like_samples
from deploy_kit.verify.localisation.hypotheses import (
    CONSTANT,
    SWAPPED,
    TRAINING_MODE,
    Hypothesis,
    hypotheses,
    output_hypotheses,
)
from deploy_kit.verify.localisation.layers import (
    FirstDifference,
    Layers,
    first_difference,
    graph_model,
    graph_tensors,
    network_layers,
)
from deploy_kit.verify.opening import attempt
from deploy_kit.verify.report import Check, Diagnosis, FactCheck, Status, VerifyReport
from deploy_kit.verify.samples import random_samples
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.onnx_file import is_runnable, load_graph
from deploy_kit.verify.structure.torchscript_file import code_text, read_torchscript

EXPLAINED = 0.1
"""A fault explains a difference if what it would give is nearer to the artifact than this share of the difference."""

_SEEN = 1e-4
"""Difference of outputs, in units of the largest, below which there is nothing to explain."""

_ROWS = 24
"""Of each kind of input that is looked at."""

_TRAINS = re.compile(r"torch\.batch_norm\([^)]*\bTrue, \d")
"""A call of a batch norm with its flag for training set, before its momentum."""

_CHANGED = re.compile(r"^(.+?) differs in (\d+) of (\d+) values")


def diagnosed(report: VerifyReport, subject: BundleAndCheckpoint) -> VerifyReport:
    """Return a report with a diagnosis of what failed in it; as it is, if nothing did."""
    failed = [verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED]
    if not failed:
        return report
    found, problem = attempt(lambda: diagnose(subject, report.checks, failed))
    if found is None:
        found = (Diagnosis("diagnosis", None, None, None, f"could not be made: {problem}"),)
    return replace(report, diagnosis=found)


def diagnose(subject: BundleAndCheckpoint, checks: Sequence[Check], failed: Iterable[str]) -> tuple[Diagnosis, ...]:
    """Return what can be said of each part of a bundle that failed.

    Args:
        subject: bundle and checkpoint.
        checks: all checks.
        failed: names of those that failed.
    """
    names = set(failed)
    found = list(_contract(subject, names))
    if subject.misfit is None:
        parts: tuple[tuple[str, str, Callable[[_Evidence], Diagnosis | None]], ...] = (
            ("onnx", "onnx", _of_onnx),
            ("torchscript", "torchscript", _of_torchscript),
            ("safetensors", "safetensors", _of_safetensors),
            ("golden", "golden/", _of_golden),
        )
        observation = _inputs(subject)
        for part, prefix, rule in parts:
            mine = {name for name in names if name.startswith(prefix) or name.endswith((f"/{part}", f"/{part}-head"))}
            if (
                mine
                and (said := rule(_Evidence(subject, part, observation, mine, _problems(checks, mine)))) is not None
            ):
                found.append(said)
    if not found and names:
        found += [Diagnosis(name.partition("/")[0], None, None, None, problem) for name, problem in
                  _first_problems(checks, names)]  # fmt: skip
    return tuple(found)


@dataclass(frozen=True)
class _Evidence:
    """What one part of a bundle is looked into with.

    Attributes:
        subject: bundle and checkpoint.
        part: "onnx", "torchscript", "safetensors" or "golden".
        observation: (n, 6928) inputs.
        failed: names of the part's failed checks.
        problems: what they say.
    """

    subject: BundleAndCheckpoint
    part: str
    observation: Float32
    failed: set[str]
    problems: tuple[str, ...]


def _inputs(subject: BundleAndCheckpoint) -> Float32:
    flying = flight_like_samples(subject.contract, _ROWS, 0).observation
    return np.concatenate((flying, random_samples(subject.contract, _ROWS, 0).observation))


def _problems(checks: Sequence[Check], names: set[str]) -> tuple[str, ...]:
    return tuple(
        problem
        for check in checks
        if isinstance(check, FactCheck) and check.name in names
        for problem in check.problems
    )


def _first_problems(checks: Sequence[Check], names: set[str]) -> Iterator[tuple[str, str]]:
    for check in checks:
        if check.name in names and isinstance(check, FactCheck) and check.problems:
            yield check.name, check.problems[0]


def _contract(subject: BundleAndCheckpoint, names: set[str]) -> Iterator[Diagnosis]:
    parts = {name.partition("/")[2] for name in names if name.startswith("contract/")}
    if "checkpoint" in parts or ({"provenance"} <= parts and "safetensors/tensors" in names):
        yield Diagnosis("contract", None, None, None, "the bundle was made from another checkpoint")
    elif parts & set(FROM_VEHICLE) and parts <= {*FROM_VEHICLE, "observation"}:
        # The range of the last command is the vehicle's.
        named = subject.named.vehicle
        if named is None:
            yield Diagnosis("contract", None, None, None, f"the vehicle is not known: {subject.named.problem}")
        else:
            said = f"the bundle is for another vehicle than the one that you name ({named.source}), or was edited"
            yield Diagnosis("contract", None, None, None, said)
    elif parts:
        listed = ", ".join(sorted(parts))
        yield Diagnosis("contract", None, None, None, f"the contract was edited, or written for another run ({listed})")


def _of_onnx(evidence: _Evidence) -> Diagnosis | None:
    subject = evidence.subject
    try:
        model = load_graph(subject.bundle.read(ONNX_NAME), ONNX_NAME)
        if not is_runnable(model):
            return Diagnosis("onnx", None, None, None, f"not run: {'; '.join(evidence.problems[:2])}")
        runner = OnnxRunner(model, subject.contract)
        tensors: Layers | None
        try:
            tensors = graph_tensors(model, subject.contract, evidence.observation)
        except ArtifactError:
            tensors = None
        said = _looked_into(evidence, runner, tensors)
        return replace(said, cause=TRAINING_MODE) if _trains(model) else said
    except ArtifactError as error:
        reason = evidence.problems[0] if evidence.problems else str(error)
        return Diagnosis("onnx", None, None, None, f"cannot be run as the contract says: {reason}")


def _trains(model: onnx.ModelProto) -> bool:
    return any(
        node.op_type == "BatchNormalization"
        and any(entry.name == "training_mode" and entry.i for entry in node.attribute)
        for node in model.graph.node
    )


def _of_torchscript(evidence: _Evidence) -> Diagnosis | None:
    subject = evidence.subject
    try:
        graph = read_torchscript(subject.bundle.read(TORCHSCRIPT_NAME)).graph
        model = graph_model(graph, subject.contract)
        names = dict(zip((spec.role for spec in subject.contract.outputs), graph.outputs, strict=True))
        runner = OnnxRunner(model, subject.contract, outputs=names)
        return _looked_into(evidence, runner, graph_tensors(model, subject.contract, evidence.observation))
    except (StructureError, ArtifactError, ValueError) as error:
        if _TRAINS.search(code_text(subject.bundle.read(TORCHSCRIPT_NAME))):
            return Diagnosis("torchscript", None, None, None, TRAINING_MODE)
        reason = evidence.problems[0] if evidence.problems else str(error)
        return Diagnosis("torchscript", None, None, None, f"not looked into: {reason}")


def _of_safetensors(evidence: _Evidence) -> Diagnosis | None:
    subject = evidence.subject
    try:
        network = load_checkpoint(subject.bundle.path / SAFETENSORS_NAME).network
        runner = NetworkRunner(network, subject.contract.gate is not None)
        return _looked_into(evidence, runner, network_layers(network, evidence.observation, torch.float32))
    except (InputError, RuntimeError, ValueError) as error:
        return Diagnosis("safetensors", None, None, None, f"cannot be read as a policy: {error}")


def _of_golden(evidence: _Evidence) -> Diagnosis | None:
    if evidence.failed == {"golden/stored-commands"}:
        return Diagnosis("golden", None, None, None, next(iter(evidence.problems), "other commands than the vehicle's"))
    golden = evidence.subject.bundle.golden
    stored = {"action": golden.action, "features": golden.features}
    if golden.gate_logit is not None:
        stored["gate_logit"] = golden.gate_logit
    expected = evidence.subject.reference(golden.observation)
    roles = tuple(role for role in ("action", "gate_logit", "features") if role in stored and role in expected)
    distance = np.abs(_columns(stored, roles) - _columns(expected, roles))
    rows = np.flatnonzero(distance.max(axis=1) > _SEEN * _unit(_columns(expected, roles)))
    if 0 < len(rows) < len(golden):
        said = f"{len(rows)} of {len(golden)} stored samples were changed, the first is {int(rows[0])}"
        return Diagnosis("golden", None, float(distance.max()), int(rows[0]), said)
    roles = tuple(role for role in roles if role != "features")
    cause = _explained(evidence, golden.observation, expected, stored, roles)
    return Diagnosis("golden", None, float(distance.max()), None, cause or "outputs of another network")


def _looked_into(evidence: _Evidence, runner: Runner, tensors: Layers | None) -> Diagnosis:
    subject, rows = evidence.subject, evidence.observation
    expected, given = subject.reference(rows), runner(rows)
    roles = tuple(role for role in subject.roles if role in given and given[role].shape == expected[role].shape)
    difference = None if tensors is None else first_difference(subject.checkpoint.network, rows, tensors)
    cause = None
    if roles and not np.isfinite(_columns(given, roles)).all():
        cause = "outputs are NaN or infinite on ordinary inputs"
    elif roles:
        cause = _coupled(evidence, runner, given, roles) or _explained(evidence, rows, expected, given, roles)
        cause = cause or _unused(subject, runner, rows, given, expected, roles)
    cause = cause or _weights(evidence) or _elsewhere(evidence) or "no known cause"
    return _said(evidence.part, difference, cause)


def _said(part: str, difference: FirstDifference | None, cause: str) -> Diagnosis:
    if difference is None:
        return Diagnosis(part, None, None, None, cause)
    right = "PyTorch" if difference.of_torch < difference.of_artifact else "the artifact"
    detail = (
        f"{cause}; against float64 PyTorch is off by {difference.of_torch:.1g}, the artifact by "
        f"{difference.of_artifact:.1g}, so {right} is right"
    )
    error = difference.error if np.isfinite(difference.error) else None
    return Diagnosis(part, difference.layer, error, difference.row, detail)


def _columns(outputs: Outputs, roles: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.concatenate([outputs[role] for role in roles], axis=1).astype(np.float64)


def _unit(columns: npt.NDArray[np.float64]) -> float:
    return max(1.0, float(np.abs(columns).max(initial=0.0)))


def _distance(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(np.abs(left - right), nan=np.inf).max(initial=0.0))


def _explained(
    evidence: _Evidence, rows: Float32, expected: Outputs, given: Outputs, roles: tuple[str, ...]
) -> str | None:
    """Return the known fault that gives what the artifact gives, None if none does."""
    wanted, found = _columns(expected, roles), _columns(given, roles)
    off = _distance(found, wanted)
    if off <= 1e-6 * _unit(wanted):
        return None
    if not np.isfinite(off):
        return None
    if (swapped := _swapped(wanted, found)) is not None:
        return swapped
    if np.ptp(found, axis=0).max() <= 1e-6 * _unit(found) < np.ptp(wanted, axis=0).max():
        return CONSTANT
    terms = tuple((term.name, term.start, term.stop) for term in evidence.subject.contract.observation.terms)
    known: list[Hypothesis] = [
        *output_hypotheses(expected),
        *hypotheses(evidence.subject.reference, rows, terms),
    ]
    best, smallest = None, EXPLAINED * off
    for cause, compute in known:
        if (distance := _distance(found, _columns(compute(), roles))) < smallest:
            best, smallest = cause, distance
    return best


def _swapped(wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> str | None:
    """Return which outputs are swapped, None if not every one equals another."""
    unit = _unit(wanted)
    sources = []
    for column in found.T:
        errors = np.abs(wanted - column[:, None]).max(axis=0)
        if errors.min() > _SEEN * unit:
            return None
        sources.append(int(errors.argmin()))
    return None if sources == list(range(len(sources))) else f"{SWAPPED}: they hold outputs {sources}"


def _coupled(evidence: _Evidence, runner: Runner, given: Outputs, roles: tuple[str, ...]) -> str | None:
    """Return what makes rows of a batch influence each other, None if they do not."""
    rows = evidence.observation
    if isinstance(evidence.subject.contract.inputs[0].shape[0], int):
        return None
    try:
        alone = _columns(runner(rows[:1]), roles)
    except ArtifactError as error:
        return f"it cannot be run on one row: {error}"
    if _distance(alone, _columns(given, roles)[:1]) <= _SEEN * _unit(alone):
        return None

    found = _explained(evidence, rows, evidence.subject.reference(rows), given, roles)
    return found if found == TRAINING_MODE else "rows of a batch influence each other"


def _unused(
    subject: BundleAndCheckpoint,
    runner: Runner,
    rows: Float32,
    given: Outputs,
    expected: Outputs,
    roles: tuple[str, ...],
) -> str | None:
    """Return which input the outputs do not depend on, None if they depend on both."""
    if _distance(_columns(given, roles), _columns(expected, roles)) <= _SEEN * _unit(_columns(expected, roles)):
        return None
    split = subject.contract.observation.state_size
    for name, part in (("state", slice(None, split)), ("depth image", slice(split, None))):
        mixed = rows.copy()
        mixed[:, part] = np.roll(rows[:, part], 1, axis=0)
        if _distance(_columns(runner(mixed), roles), _columns(given, roles)) <= 1e-6:
            return f"a constant was inlined: the outputs do not depend on the {name}"
    return None


def _weights(evidence: _Evidence) -> str | None:
    """Return what the comparison of weights says."""
    found = [match.groups() for problem in evidence.problems if (match := _CHANGED.match(problem))]
    if not found:
        return None
    many = sum(int(changed) > 0.5 * int(total) for _, changed, total in found)
    layers = sum(1 for name in evidence.subject.checkpoint.network.state_dict() if name.endswith("weight"))
    if many >= 6 and many >= 0.4 * layers:
        return "weights of another checkpoint"
    names = [f"{name} ({changed} of {total} values)" for name, changed, total in found[:3]]
    return f"weights were changed: {', '.join(names)}"


def _elsewhere(evidence: _Evidence) -> str | None:
    replays = {name.split("/")[1] for name in evidence.failed if name.startswith("replay/")}
    if replays == {"extreme"}:
        return "it differs on extreme inputs alone: values are cut, or overflow (as fp16 does beyond 65504)"
    if evidence.problems:
        return f"{evidence.problems[0]}"
    if replays:
        return f"it differs on {', '.join(sorted(replays))} inputs alone"
    return None
