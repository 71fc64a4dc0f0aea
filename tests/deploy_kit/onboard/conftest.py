"""Bundles of a random policy of the reference size, as they would lie on the drone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.reader import CPP_NAME, open_bundle
from deploy_kit.cpp.header import header_text
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import GateDetector, save_safetensors
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.racing import TASK_ID
from helpers.bundles import copy_bundle, edit_contract, rewrite_manifest
from helpers.checkpoints import CALIBRATION
from helpers.exports import share_operators
from helpers.networks import make_network
from helpers.reports import write_report


@pytest.fixture(scope="session")
def policy_network() -> VisionActorCritic:
    return make_network(normalizer_eps=0.01)


@pytest.fixture(scope="session")
def bundles(policy_network: VisionActorCritic, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same policy twice: `plain` with the defaults, `ready` with all transforms inside the graph."""
    share_operators()
    folder = tmp_path_factory.mktemp("onboard")
    checkpoint = folder / "policy.safetensors"
    save_safetensors(checkpoint, policy_network, 1, replace(CALIBRATION, detector=GateDetector(-0.25, -2.25, 10, 5)))
    shared = {
        "checkpoint": checkpoint,
        "use_auxiliary_head": True,
        "task": TASK_ID,
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
        copy_bundle(bundles.plain, folder)
        change(folder)
        if relist:
            rewrite_manifest(folder)
        return folder

    return make


def weight_the_rise(data: dict[str, Any]) -> None:
    """Let the detector weigh the rise too."""
    rise = {"slope_gain": 0.5, "slope_steps": 3, "slope_s": 0.09, "slope_rise": 0.01}
    data["gate"]["detector"].update(rise, refractory_steps=1)


@pytest.fixture(scope="session")
def native(
    bundles: SimpleNamespace, policy_network: VisionActorCritic, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """The bundles of the room with a verified C++ header, and a folder of builds."""
    folder = tmp_path_factory.mktemp("native")
    found = {}
    for name in ("plain", "ready", "sloped"):
        bundle = copy_bundle(getattr(bundles, "plain" if name == "sloped" else name), folder / name)
        if name == "sloped":
            edit_contract(bundle, weight_the_rise, graph=True)
        opened = open_bundle(bundle)
        (bundle / CPP_NAME).write_text(header_text(policy_network, opened.contract, opened.golden))
        rewrite_manifest(bundle)
        write_report(bundle)
        found[name] = bundle
    cache = folder / "builds"
    return SimpleNamespace(**found, cache=cache, options={"engine": "cpp", "cpp_cache": str(cache)})
