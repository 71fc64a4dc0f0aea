"""The likely cause of a difference: the known fault that gives what the artifact gives, or what the checks say."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs, Runner
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.localisation.hypotheses import (
    CONSTANT,
    SWAPPED,
    TRAINING_MODE,
    Hypothesis,
    hypotheses,
    output_hypotheses,
)
from deploy_kit.verify.localisation.layers import FirstDifference, Layers, first_difference
from deploy_kit.verify.report import Diagnosis

EXPLAINED = 0.1
"""A fault explains a difference if what it would give is nearer to the artifact than this share of the difference."""

SEEN = 1e-4
"""Difference of outputs, in units of the largest, below which there is nothing to explain."""

_CHANGED = re.compile(r"^(.+?) differs in (\d+) of (\d+) values")


@dataclass(frozen=True)
class Evidence:
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


def looked_into(evidence: Evidence, runner: Runner, tensors: Layers | None) -> Diagnosis:
    """Return where an artifact that runs first differs, and the likely cause.

    Args:
        evidence: what is known of it.
        runner: runs it.
        tensors: its tensors on the evidence's inputs, None where they cannot be had.
    """
    subject, rows = evidence.subject, evidence.observation
    expected, given = subject.reference(rows), runner(rows)
    roles = tuple(role for role in subject.roles if role in given and given[role].shape == expected[role].shape)
    difference = None if tensors is None else first_difference(subject.checkpoint.network, rows, tensors)
    cause = None
    if roles and not np.isfinite(columns_of(given, roles)).all():
        cause = "outputs are NaN or infinite on ordinary inputs"
    elif roles:
        cause = _coupled(evidence, runner, given, roles) or explained(evidence, rows, expected, given, roles)
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


def columns_of(outputs: Outputs, roles: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return outputs side by side, (n, columns)."""
    return np.concatenate([outputs[role] for role in roles], axis=1).astype(np.float64)


def unit_of(columns: npt.NDArray[np.float64]) -> float:
    """Return the largest output's size, at least 1."""
    return max(1.0, float(np.abs(columns).max(initial=0.0)))


def _distance(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(np.abs(left - right), nan=np.inf).max(initial=0.0))


def explained(
    evidence: Evidence, rows: Float32, expected: Outputs, given: Outputs, roles: tuple[str, ...]
) -> str | None:
    """Return the known fault that gives what the artifact gives, None if none does."""
    wanted, found = columns_of(expected, roles), columns_of(given, roles)
    off = _distance(found, wanted)
    if off <= 1e-6 * unit_of(wanted):
        return None
    if not np.isfinite(off):
        return None
    if (swapped := _swapped(wanted, found)) is not None:
        return swapped
    if np.ptp(found, axis=0).max() <= 1e-6 * unit_of(found) < np.ptp(wanted, axis=0).max():
        return CONSTANT
    terms = tuple((term.name, term.start, term.stop) for term in evidence.subject.contract.observation.terms)
    known: list[Hypothesis] = [
        *output_hypotheses(expected),
        *hypotheses(evidence.subject.reference, rows, terms),
    ]
    best, smallest = None, EXPLAINED * off
    for cause, compute in known:
        if (distance := _distance(found, columns_of(compute(), roles))) < smallest:
            best, smallest = cause, distance
    return best


def _swapped(wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> str | None:
    """Return which outputs are swapped, None if not every one equals another."""
    unit = unit_of(wanted)
    sources = []
    for column in found.T:
        errors = np.abs(wanted - column[:, None]).max(axis=0)
        if errors.min() > SEEN * unit:
            return None
        sources.append(int(errors.argmin()))
    return None if sources == list(range(len(sources))) else f"{SWAPPED}: they hold outputs {sources}"


def _coupled(evidence: Evidence, runner: Runner, given: Outputs, roles: tuple[str, ...]) -> str | None:
    """Return what makes rows of a batch influence each other, None if they do not."""
    rows = evidence.observation
    if evidence.subject.contract.batch is not None:
        return None
    try:
        alone = columns_of(runner(rows[:1]), roles)
    except ArtifactError as error:
        return f"it cannot be run on one row: {error}"
    if _distance(alone, columns_of(given, roles)[:1]) <= SEEN * unit_of(alone):
        return None

    found = explained(evidence, rows, evidence.subject.reference(rows), given, roles)
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
    if _distance(columns_of(given, roles), columns_of(expected, roles)) <= SEEN * unit_of(columns_of(expected, roles)):
        return None
    split = subject.contract.observation.state_size
    for name, part in (("state", slice(None, split)), ("depth image", slice(split, None))):
        mixed = rows.copy()
        mixed[:, part] = np.roll(rows[:, part], 1, axis=0)
        if _distance(columns_of(runner(mixed), roles), columns_of(given, roles)) <= 1e-6:
            return f"a constant was inlined: the outputs do not depend on the {name}"
    return None


def _weights(evidence: Evidence) -> str | None:
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


def _elsewhere(evidence: Evidence) -> str | None:
    replays = {name.split("/")[1] for name in evidence.failed if name.startswith("replay/")}
    if replays == {"extreme"}:
        return "it differs on extreme inputs alone: values are cut, or overflow (as fp16 does beyond 65504)"
    if evidence.problems:
        return f"{evidence.problems[0]}"
    if replays:
        return f"it differs on {', '.join(sorted(replays))} inputs alone"
    return None
