"""Bundles of a random policy of the reference size, as they would lie on the drone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deploy_kit.bundle.contract import GateOutput, InputLayout
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import GateCalibration, save_safetensors
from deploy_kit.policy.network import NetworkConfig, VisionActorCritic

CALIBRATION = GateCalibration(-0.25, "best F1", 0.02, "near the gate", 1, "d" * 64, {"auroc": 0.9}, "0.1.0")


@pytest.fixture(scope="session")
def policy_network() -> VisionActorCritic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionActorCritic(NetworkConfig(normalizer_eps=0.01)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def bundles(policy_network: VisionActorCritic, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same policy twice: `plain` with the defaults, `ready` with all transforms inside the graph."""
    folder = tmp_path_factory.mktemp("onboard")
    checkpoint = folder / "policy.safetensors"
    save_safetensors(checkpoint, policy_network, 1, CALIBRATION)
    shared = {
        "checkpoint": checkpoint,
        "use_auxiliary_head": True,
        "task": "DiffLab-Quadcopter-CTBR-Racing-v0",
        "num_golden": 4,
    }
    plain = export_bundle(ExportOptions(output=folder / "plain", **shared))
    ready = export_bundle(
        ExportOptions(
            output=folder / "ready",
            input_layout=InputLayout.FLAT,
            gate_output=GateOutput.PROBABILITY,
            batch_size=1,
            physical_actions=True,
            **shared,
        )
    )
    return SimpleNamespace(plain=plain, ready=ready)


@pytest.fixture
def broken(bundles: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """Copy of the plain bundle with a change applied to the folder and, unless told not to, the manifest rewritten."""

    def make(change: Callable[[Path], object], relist: bool = True) -> Path:
        folder = tmp_path / "broken"
        shutil.copytree(bundles.plain, folder)
        change(folder)
        if relist:
            (folder / "manifest.json").write_text(manifest_text(folder))
        return folder

    return make


@pytest.fixture
def edit_contract() -> Callable[..., Callable[[Path], None]]:
    """Change of contract.json, and of the copy that the graph carries unless told otherwise."""
    import onnx

    def make(edit: Callable[[dict], object], graph: bool = True) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            data = json.loads((folder / "contract.json").read_text())
            edit(data)
            (folder / "contract.json").write_text(json.dumps(data))
            if graph:
                model = onnx.load(folder / "policy.onnx")
                onnx.helper.set_model_props(model, {"deploy_kit_contract": json.dumps(data)})
                onnx.save_model(model, folder / "policy.onnx")

        return change

    return make
