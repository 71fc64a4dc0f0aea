"""Ways to corrupt a bundle and publish it again as consistently as a right one: hashes, metadata and contract agree."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import deploy_kit.export.exporter
from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY, Contract
from deploy_kit.bundle.reader import manifest_text, open_bundle
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.run.vehicle import resolve_vehicle
from deploy_kit.task.racing import TASK_ID
from helpers.bundles import Run

Graph = onnx.ModelProto


def copied(run: Run, folder: Path) -> Run:
    """Copy a bundle, to be corrupted."""
    shutil.copytree(run.bundle, folder / "bundle", ignore=shutil.ignore_patterns("report.json"))
    return replace(run, bundle=folder / "bundle")


def publish(bundle: Path, model: Graph | None = None, contract: Contract | None = None) -> None:
    """Write contract, metadata and manifest so that all of them fit the files."""
    model = model or onnx.load(bundle / "policy.onnx")
    contract = contract or Contract.from_json((bundle / "contract.json").read_text())
    weights = file_sha256(bundle / "policy.safetensors")
    contract = replace(contract, provenance=replace(contract.provenance, weights_sha256=weights))
    helper.set_model_props(model, {CONTRACT_METADATA_KEY: contract.to_json(indent=None)})
    onnx.save(model, bundle / "policy.onnx")
    (bundle / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    (bundle / "manifest.json").write_text(manifest_text(bundle), encoding="utf-8")
    open_bundle(bundle)


def mutate_graph(run: Run, folder: Path, mutate: Callable[[Graph], None]) -> Run:
    """Corrupt the ONNX graph alone."""
    result = copied(run, folder)
    model = onnx.load(result.bundle / "policy.onnx")
    mutate(model)
    publish(result.bundle, model=model)
    return result


def mutate_contract(run: Run, folder: Path, mutate: Callable[[Contract], Contract]) -> Run:
    """Corrupt the contract alone, in both places where it stands."""
    result = copied(run, folder)
    publish(result.bundle, contract=mutate(open_bundle(result.bundle).contract))
    return result


def mutate_before_export(
    run: Run, folder: Path, mutate: Callable[[VisionActorCritic], VisionActorCritic | None], monkeypatch
) -> Run:
    """Simulate a fault of the exporter: all artifacts and golden samples agree, only the checkpoint disagrees."""
    checkpoint = load_checkpoint(run.checkpoint)
    network = copy.deepcopy(checkpoint.network)
    network = mutate(network) or network
    forged = replace(checkpoint, network=network.eval().requires_grad_(False))
    with monkeypatch.context() as patch:
        vehicle = resolve_vehicle(checkpoint.params, TASK_ID)
        patch.setattr(deploy_kit.export.exporter, "load_with_vehicle", lambda *args: (forged, vehicle))
        # A fault that the exporter's own judgement shares.
        patch.setattr(deploy_kit.export.exporter, "run_checks", lambda *args: ([], None))
        bundle = export_bundle(
            ExportOptions(
                checkpoint=run.checkpoint,
                output=folder / "bundle",
                use_auxiliary_head=True,
                task=TASK_ID,
                num_golden=16,
            )
        )
    # The contract of the right bundle: a forger would claim no less.
    publish(bundle, contract=open_bundle(run.bundle).contract)
    return replace(run, bundle=bundle)


def replace_file(run: Run, folder: Path, other: Run, name: str) -> Run:
    """Put another bundle's artifact in place of this one's, together with its manifest entry."""
    result = copied(run, folder)
    shutil.copy(other.bundle / name, result.bundle / name)
    publish(result.bundle)
    return result


def splice_input(model: Graph, tensor: str, op: str, *constants: np.ndarray, **attributes: object) -> None:
    """Put one operator between a tensor and all its consumers."""
    changed = f"{tensor}_changed"
    for node in model.graph.node:
        node.input[:] = [changed if name == tensor else name for name in node.input]
    position = next((i + 1 for i, node in enumerate(model.graph.node) if tensor in node.output), 0)
    model.graph.node.insert(
        position, helper.make_node(op, [tensor, *add_constants(model, *constants)], [changed], **attributes)
    )


def splice_output(model: Graph, tensor: str, build: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Put operators between the node that gives an output and the output."""
    raw = f"{tensor}_raw"
    for node in model.graph.node:
        node.input[:] = [raw if name == tensor else name for name in node.input]
        node.output[:] = [raw if name == tensor else name for name in node.output]
    model.graph.node.extend(build(raw, tensor))


def add_constants(model: Graph, *values: np.ndarray) -> list[str]:
    """Add initialisers and return their names."""
    names = [f"constant_{len(model.graph.initializer) + i}" for i in range(len(values))]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, names, strict=True))
    return names


def weight(model: Graph, name: str) -> onnx.TensorProto:
    """Return the initialiser whose name ends so."""
    return next(tensor for tensor in model.graph.initializer if tensor.name.endswith(name))


def change_weight(model: Graph, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an initialiser."""
    tensor = weight(model, name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))


def largest_off(values: np.ndarray, by: float = 1e-3) -> np.ndarray:
    """Shift the largest weight."""
    values.flat[np.abs(values).argmax()] += np.float32(by)
    return values


def trace_in_training_mode(network: VisionActorCritic, path: Path) -> None:
    """Write TorchScript as an exporter would that forgets eval()."""
    import warnings

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network)

        def forward(self, state: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.network.heads(self.network.features(state, depth))
            return output.action, output.gate_logit

    module = Outputs().train()
    layout = network.config.layout
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(
            module, (torch.randn(2, layout.state_size), torch.rand(2, 1, *layout.image_shape)), check_trace=False
        )
        torch.jit.save(traced, path)
