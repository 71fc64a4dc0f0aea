"""Checkpoints and bundles of random policies; no test here needs a simulator or a trained policy."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deploy_kit.bundle.reader import BUNDLE_FILES, Bundle, manifest_text, open_bundle
from deploy_kit.data.schema import FeatureFileInfo, KeepReason
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import GateCalibration, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network import ConvSpec, NetworkConfig, VisionActorCritic
from deploy_kit.task.interface import ObservationLayout

TASK = "DiffLab-Quadcopter-CTBR-Racing-v0"

SMALL = {
    "layout": ObservationLayout(16, (18, 24)),
    "stem": (ConvSpec(4, 3, 3), ConvSpec(6, 2, 2)),
    "feature_size": 12,
    "actor_hidden": (9, 8),
    "critic_hidden": (5,),
}


def make_small(seed: int = 0, **changes: object) -> VisionActorCritic:
    """A small network whose every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    network = VisionActorCritic(NetworkConfig(**{**SMALL, **changes}))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            positive = name.endswith(("running_var", "normalizer.std"))
            tensor.copy_(noise + 0.5 if positive else noise - 0.5)
    return network.eval().requires_grad_(False)


CALIBRATION = GateCalibration(
    threshold_logit=0.1 + 0.2,
    rule="best F1 on validation episodes",
    base_rate=0.021,
    label_rule="within 0.35 m of the gate's centre",
    label_offset_steps=1,
    dataset_sha256="d" * 64,
    metrics={"auroc": 0.97},
    tool_version="0.1.0",
    training={"epochs": 5},
)


def make_observations(network: VisionActorCritic, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layout = network.config.layout
    state = rng.normal(size=(count, layout.state_size)) * 3
    return np.concatenate([state, rng.random((count, layout.image_size))], axis=1).astype(np.float32)


def write_features(path: Path, network: VisionActorCritic, observations: int = 20) -> Path:
    """A feature file of this network: training rows, two held-out episodes, kept observations."""
    info = FeatureFileInfo(
        feature_size=network.config.feature_size,
        feature_sha256=feature_sha256(network),
        policy_sha256="a" * 64,
        label_rule="rule",
        label_threshold_m=0.35,
        label_offset_steps=1,
        seed=0,
        stage=2,
        backend="mujoco",
    )
    seen = make_observations(network, 40, seed=1)
    with torch.inference_mode():
        features = network(torch.from_numpy(seen)).features.numpy()
    label = (np.arange(40) % 10 == 9).astype(np.int8)
    with FeatureFileWriter(path, info, 4, 4, seed=0) as writer:
        rows = np.arange(40)
        writer.add_training(features, label, rows // 10, rows % 4, rows // 10, rows % 10)
        for episode, track in ((100, 50), (101, 51)):
            writer.add_heldout_episode(features, label, episode, 0, track, is_test=track == 51)
        if observations:
            kept = slice(0, observations)
            reason = np.array([KeepReason.GATE_PASS, KeepReason.STALE_IMAGE, KeepReason.FIRST_STEP, 0], np.uint8)
            writer.keep_observations(
                seen[kept],
                features[kept],
                label[kept],
                rows[kept],
                rows[kept] % 4,
                rows[kept],
                rows[kept] % 10,
                np.tile(reason, 10)[kept],
            )
        writer.finish(complete=True)
    return path


def rewrite_manifest(folder: Path) -> None:
    """List the files as they are now, as whoever replaces an artifact on purpose would."""
    (folder / "manifest.json").write_text(manifest_text(folder))


def edit_contract(folder: Path, edit: Callable[[dict], None]) -> None:
    """Change contract.json and list it anew."""
    data = json.loads((folder / "contract.json").read_text())
    edit(data)
    (folder / "contract.json").write_text(json.dumps(data))
    rewrite_manifest(folder)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file."""
    return SimpleNamespace(
        TASK=TASK,
        CALIBRATION=CALIBRATION,
        FILES=BUNDLE_FILES,
        small=make_small,
        observations=make_observations,
        write_features=write_features,
        rewrite_manifest=rewrite_manifest,
        edit_contract=edit_contract,
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint with gate head, normaliser and calibration."""
    path = tmp_path / "run" / "policy_5.safetensors"
    save_safetensors(path, make_small(normalizer_eps=0.01), 5, CALIBRATION)
    return path


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the small network; not to be changed."""
    folder = tmp_path_factory.mktemp("shared")
    checkpoint = folder / "policy_5.safetensors"
    save_safetensors(checkpoint, make_small(normalizer_eps=0.01), 5, CALIBRATION)
    options = ExportOptions(checkpoint, folder / "bundle", use_auxiliary_head=True, task=TASK, num_golden=6)
    return open_bundle(export_bundle(options))


@pytest.fixture
def bundle_copy(shared_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the shared bundle's folder, to be broken."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in shared_bundle.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
