"""Puts into words where a bundle that failed first differs, and the likely cause."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch

from deploy_kit.bundle.implied import FROM_VEHICLE
from deploy_kit.bundle.reader import ONNX_NAME, SAFETENSORS_NAME, TORCHSCRIPT_NAME
from deploy_kit.bundle.runners import ArtifactError, Float32, NetworkRunner, OnnxRunner
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.flight_like import flight_like_samples
from deploy_kit.verify.localisation.cause import SEEN, Evidence, columns_of, explained, looked_into, unit_of
from deploy_kit.verify.localisation.hypotheses import TRAINING_MODE
from deploy_kit.verify.localisation.layers import Layers, graph_model, graph_tensors, network_layers
from deploy_kit.verify.report import Check, Diagnosis, FactCheck
from deploy_kit.verify.samples import random_samples
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.onnx_file import is_runnable, load_graph
from deploy_kit.verify.structure.torchscript_file import code_text, read_torchscript

_ROWS = 24
"""Of each kind of input that is looked at."""

_TRAINS = re.compile(r"torch\.batch_norm\([^)]*\bTrue, \d")
"""A call of a batch norm with its flag for training set, before its momentum."""


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
        parts: tuple[tuple[str, str, Callable[[Evidence], Diagnosis | None]], ...] = (
            ("onnx", "onnx", _of_onnx),
            ("torchscript", "torchscript", _of_torchscript),
            ("safetensors", "safetensors", _of_safetensors),
            ("golden", "golden/", _of_golden),
        )
        observation = _inputs(subject)
        for part, prefix, rule in parts:
            mine = {name for name in names if name.startswith(prefix) or name.endswith((f"/{part}", f"/{part}-head"))}
            if mine and (said := rule(Evidence(subject, part, observation, mine, _problems(checks, mine)))) is not None:
                found.append(said)
    if not found and names:
        found += [Diagnosis(name.partition("/")[0], None, None, None, problem) for name, problem in
                  _first_problems(checks, names)]  # fmt: skip
    return tuple(found)


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


def _of_onnx(evidence: Evidence) -> Diagnosis | None:
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
        said = looked_into(evidence, runner, tensors)
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


def _of_torchscript(evidence: Evidence) -> Diagnosis | None:
    subject = evidence.subject
    try:
        graph = read_torchscript(subject.bundle.read(TORCHSCRIPT_NAME)).graph
        model = graph_model(graph, subject.contract)
        names = dict(zip((spec.role for spec in subject.contract.outputs), graph.outputs, strict=True))
        runner = OnnxRunner(model, subject.contract, outputs=names)
        return looked_into(evidence, runner, graph_tensors(model, subject.contract, evidence.observation))
    except (StructureError, ArtifactError, ValueError) as error:
        if _TRAINS.search(code_text(subject.bundle.read(TORCHSCRIPT_NAME))):
            return Diagnosis("torchscript", None, None, None, TRAINING_MODE)
        reason = evidence.problems[0] if evidence.problems else str(error)
        return Diagnosis("torchscript", None, None, None, f"not looked into: {reason}")


def _of_safetensors(evidence: Evidence) -> Diagnosis | None:
    subject = evidence.subject
    try:
        network = load_checkpoint(subject.bundle.path / SAFETENSORS_NAME).network
        runner = NetworkRunner(network, subject.contract.gate is not None)
        return looked_into(evidence, runner, network_layers(network, evidence.observation, torch.float32))
    except (InputError, RuntimeError, ValueError) as error:
        return Diagnosis("safetensors", None, None, None, f"cannot be read as a policy: {error}")


def _of_golden(evidence: Evidence) -> Diagnosis | None:
    if evidence.failed == {"golden/stored-commands"}:
        return Diagnosis("golden", None, None, None, next(iter(evidence.problems), "other commands than the vehicle's"))
    golden = evidence.subject.bundle.golden
    stored = {"action": golden.action, "features": golden.features}
    if golden.gate_logit is not None:
        stored["gate_logit"] = golden.gate_logit
    expected = evidence.subject.reference(golden.observation)
    roles = tuple(role for role in ("action", "gate_logit", "features") if role in stored and role in expected)
    distance = np.abs(columns_of(stored, roles) - columns_of(expected, roles))
    rows = np.flatnonzero(distance.max(axis=1) > SEEN * unit_of(columns_of(expected, roles)))
    if 0 < len(rows) < len(golden):
        said = f"{len(rows)} of {len(golden)} stored samples were changed, the first is {int(rows[0])}"
        return Diagnosis("golden", None, float(distance.max()), int(rows[0]), said)
    roles = tuple(role for role in roles if role != "features")
    cause = explained(evidence, golden.observation, expected, stored, roles)
    return Diagnosis("golden", None, float(distance.max()), None, cause or "outputs of another network")
