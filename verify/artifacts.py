"""Opens everything in a bundle that can be run."""

from dataclasses import dataclass

from deploy_kit.bundle.contract import FEATURES_TENSOR
from deploy_kit.bundle.runners import (
    PROVIDERS,
    ArtifactError,
    Float32,
    NetworkRunner,
    OnnxRunner,
    Outputs,
    Runner,
    TorchScriptRunner,
)
from deploy_kit.bundle.subgraph import cut_encoder, cut_head
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.text import one_line
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.meaning import checkpoint_check, contract_checks, weights_check
from deploy_kit.verify.report import Check, FactCheck
from deploy_kit.verify.structure import graph_checks, load_graph


@dataclass(frozen=True)
class Artifact:
    """Something that can be run on observations.

    Attributes:
        name: "onnx", "torchscript" or "safetensors".
        runner: how to run it.
        roles: outputs to compare.
    """

    name: str
    runner: Runner
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Artifacts:
    """What of a bundle could be opened.

    Attributes:
        observed: artifacts that take observations.
        onnx: the shipped graph alone, None if it cannot be loaded.
        head: its part features → outputs, None if it cannot be cut or loaded.
        providers: execution providers that onnxruntime really uses.
    """

    observed: tuple[Artifact, ...]
    onnx: OnnxRunner | None
    head: OnnxRunner | None
    providers: tuple[str, ...]


def open_artifacts(subject: BundleAndCheckpoint) -> tuple[Artifacts, list[Check]]:
    """Open all artifacts and run the checks that need no input.

    Returns:
        The artifacts, and the static checks, failed ones for what could not be opened among them.
    """
    checks: list[Check] = [FactCheck("bundle/manifest", "size and sha256 of each file", len(subject.bundle.files), ())]
    checks += contract_checks(subject.bundle, subject.checkpoint, subject.named)
    onnx, head, encoder = _open_onnx(subject, checks)
    observed: list[Artifact] = []
    if onnx is not None:
        runner = onnx if encoder is None else _with_features(onnx, encoder)
        observed.append(Artifact("onnx", runner, (*subject.roles, FEATURES_TENSOR)))
    observed += [
        artifact for open_one in (_open_torchscript, _open_safetensors) if (artifact := open_one(subject, checks))
    ]
    return Artifacts(tuple(observed), onnx, head, () if onnx is None else onnx.providers), checks


def _open_onnx(
    subject: BundleAndCheckpoint, checks: list[Check]
) -> tuple[OnnxRunner | None, OnnxRunner | None, OnnxRunner | None]:
    contract, path = subject.contract, subject.bundle.onnx_path
    try:
        model = load_graph(path)
        checks += graph_checks(model, contract, _batch_norm_eps(subject))
        runner = OnnxRunner(path, contract)
    except ArtifactError as error:
        checks.append(FactCheck("onnx/provider", "loaded by onnxruntime", 1, (str(error),)))
        return None, None, None
    checks.append(FactCheck("onnx/provider", f"runs on {runner.providers[0]}, asked for {PROVIDERS[0]}", 1, ()))
    head = encoder = None
    try:
        head = OnnxRunner(cut_head(model), contract, features=True)
        encoder = OnnxRunner(cut_encoder(model), contract, outputs={FEATURES_TENSOR: FEATURES_TENSOR})
        problems: tuple[str, ...] = ()
    except ArtifactError as error:
        problems = (str(error),)
    checks.append(FactCheck("onnx/features", "graph falls into inputs → features → outputs", 2, problems))
    return runner, head, encoder


def _open_torchscript(subject: BundleAndCheckpoint, checks: list[Check]) -> Artifact | None:
    try:
        runner = TorchScriptRunner(subject.bundle.torchscript_path, subject.contract)
    except ArtifactError as error:
        checks.append(FactCheck("torchscript/eval-mode", "loaded by torch", 1, (str(error),)))
        return None
    problems = tuple(f"{kind} is in training mode" for kind in runner.training_operators())
    checks.append(FactCheck("torchscript/eval-mode", "batch norms, dropouts", 1, problems))
    return Artifact("torchscript", runner, subject.roles)


def _open_safetensors(subject: BundleAndCheckpoint, checks: list[Check]) -> Artifact | None:
    try:
        rebuilt = load_checkpoint(subject.bundle.safetensors_path).network
    except InputError as error:
        weights = FactCheck("safetensors/tensors", "rebuilt as a policy", 1, (one_line(error),))
        checks += [weights, checkpoint_check(subject.contract, subject.checkpoint, weights)]
        return None
    weights = weights_check(rebuilt, subject.checkpoint)
    checks += [weights, checkpoint_check(subject.contract, subject.checkpoint, weights)]
    gate = subject.contract.gate is not None
    roles = ("action", "gate_logit", FEATURES_TENSOR) if gate else ("action", FEATURES_TENSOR)
    return Artifact("safetensors", NetworkRunner(rebuilt, gate), roles)


def _with_features(graph: Runner, encoder: Runner) -> Runner:
    def run(observation: Float32) -> Outputs:
        return {**graph(observation), **encoder(observation)}

    return run


def _batch_norm_eps(subject: BundleAndCheckpoint) -> tuple[float, ...]:
    from torch import nn

    modules = subject.checkpoint.network.stem
    return tuple(module.eps for module in modules if isinstance(module, nn.BatchNorm2d))
