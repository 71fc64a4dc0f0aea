"""A small policy's checkpoint, feature file and bundle, as quick as a test may be."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from deploy_kit.bundle.reader import manifest_text
from deploy_kit.data.schema import FeatureFileInfo, KeepReason
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import GateCalibration, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network import ConvSpec, VisionActorCritic
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.verifier import VerifyOptions
from tests.conftest import make_network

SMALL = {
    "layout": ObservationLayout(16, (24, 32)),
    "stem": (ConvSpec(4, 3, 3), ConvSpec(8, 3, 3)),
    "feature_size": 24,
    "actor_hidden": (16, 16),
    "critic_hidden": (8,),
    "normalizer_eps": 1e-2,
}

CALIBRATION = GateCalibration(
    threshold_logit=0.25,
    rule="best F1 on validation episodes",
    base_rate=0.02,
    label_rule="within 0.35 m of the gate's centre after the step",
    label_offset_steps=1,
    dataset_sha256="0" * 64,
    metrics={"auroc": 0.97},
    tool_version="0.1.0",
    training={"epochs": 5},
)


def small_network(seed: int = 0, **changes: object) -> VisionActorCritic:
    return make_network(seed, **{**SMALL, **changes})


@dataclass(frozen=True)
class Run:
    """A checkpoint, a feature file of that policy, and its bundle."""

    network: VisionActorCritic
    checkpoint: Path
    dataset: Path
    bundle: Path

    def verify(self, **changes: object) -> VerifyOptions:
        """Return options that verify this bundle without flying."""
        defaults = VerifyOptions(
            bundle=self.bundle, checkpoint=self.checkpoint, h5=self.dataset, live=False, random_rows=128
        )
        return replace(defaults, **changes)


def make_run(folder: Path, seed: int = 0, **export: object) -> Run:
    """Write a checkpoint, a feature file and a bundle of a small random policy."""
    network = small_network(seed)
    checkpoint, dataset = folder / "model_7.safetensors", folder / "features.h5"
    save_safetensors(checkpoint, network, 7, CALIBRATION)
    write_features(dataset, network, checkpoint)
    options = ExportOptions(
        checkpoint=checkpoint,
        output=folder / "bundle",
        use_auxiliary_head=True,
        samples=dataset,
        task=TASK_ID,
        num_golden=16,
    )
    return Run(network, checkpoint, dataset, export_bundle(replace(options, **export)))


def put_a_weight_off(bundle: Path) -> None:
    """Put one weight of the ONNX graph off by 1e-3, with a manifest that fits."""
    model = onnx.load(bundle / "policy.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("stem.3.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += np.float32(1e-3)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, bundle / "policy.onnx")
    (bundle / "manifest.json").write_text(manifest_text(bundle), encoding="utf-8")


def observations(network: VisionActorCritic, rows: int, seed: int) -> np.ndarray:
    """Draw observations of the size of flights: states of a few units, images in [0, 1]."""
    rng = np.random.default_rng(seed)
    layout = network.config.layout
    state = rng.normal(0.0, 3.0, (rows, layout.state_size))
    image = np.clip(rng.uniform(0, 1, (rows, 1)) + 0.2 * rng.standard_normal((rows, layout.image_size)), 0, 1)
    return np.concatenate((state, image), axis=1).astype(np.float32)


def write_features(path: Path, network: VisionActorCritic, checkpoint: Path, kept: int = 40) -> None:
    """Write a feature file: 300 training rows, 6 held-out episodes of 50 steps, and kept observations."""
    info = FeatureFileInfo(
        feature_size=network.config.feature_size,
        feature_sha256=feature_sha256(network),
        policy_sha256=file_sha256(checkpoint),
        label_rule=CALIBRATION.label_rule,
        label_threshold_m=0.35,
        label_offset_steps=1,
        seed=0,
        stage=2,
        backend="mujoco",
    )
    with FeatureFileWriter(path, info, num_positive=150, num_negative=150, seed=0) as writer:
        for episode in range(12):
            observation = observations(network, 50, episode)
            with torch.inference_mode():
                features = network(torch.from_numpy(observation)).features.numpy()
            label = np.arange(50) % 2 == 0
            ids = (np.full(50, episode), np.zeros(50, np.int32), np.full(50, 100 + episode))
            if episode % 2:
                writer.add_heldout_episode(features, label, episode, 0, 100 + episode)
                continue
            writer.add_training(features, label, *ids, np.arange(50))
            chosen = slice(0, max(1, kept // 6))
            if kept:
                reason = np.where(np.arange(50) == 0, KeepReason.FIRST_STEP, KeepReason.GATE_PASS)
                rows = (*(column[chosen] for column in ids), np.arange(50)[chosen], reason[chosen].astype(np.uint8))
                writer.keep_observations(observation[chosen], features[chosen], label[chosen], *rows)
        writer.finish(complete=True)
