"""A checkpoint or a bundle, ready to fly, and what identifies it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.contract_fields import DetectorSpec
from deploy_kit.bundle.reader import MANIFEST_NAME, ONNX_NAME, open_bundle
from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.flight.drivers import ArtifactDriver
from deploy_kit.flight.rollout import Driver, require_checkpoint, require_interface
from deploy_kit.policy.calibration import GateDetector
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.vehicle_checkpoint import load_with_vehicle
from deploy_kit.task.interface import ActionTransform, ObservationLayout

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv


@dataclass(frozen=True)
class PolicyIdentity:
    """Which policy flew.

    Attributes:
        kind: what the user named.
        path: the checkpoint's file or the bundle's folder.
        file: the file that flew.
        sha256: hash of `file`.
        checkpoint_sha256: hash of the checkpoint; of a bundle, the one that it says it was exported from.
        calibrated: whether a gate threshold of deploy-kit comes with it.
    """

    kind: Literal["checkpoint", "bundle"]
    path: Path
    file: Path
    sha256: str
    checkpoint_sha256: str
    calibrated: bool


@dataclass(frozen=True)
class FlownPolicy:
    """A driver with what the pictures need to know.

    Attributes:
        identity: which policy it is.
        driver: flies with it.
        layout: layout of its observation.
        transform: transform from its action to physical units.
        threshold: threshold of the gate, a probability; None if it has none.
        detector: announces passages; None if it has none.
        checkpoint: None for a bundle.
    """

    identity: PolicyIdentity
    driver: Driver
    layout: ObservationLayout
    transform: ActionTransform
    threshold: float | None
    detector: GateDetector | None = None
    checkpoint: Checkpoint | None = None

    def require_fits(self, env: "VecEnv", task: str) -> None:
        """Check that it can fly in an environment.

        Raises:
            TaskError: observation or action has another size, or the task's agent is another one.
            CheckpointError: that agent cannot be restored from the checkpoint.
        """
        if self.checkpoint is None:
            require_interface(env, self.layout, len(self.transform.scale), task)
        else:
            require_checkpoint(env, self.checkpoint, task)

    def move_to(self, device: str) -> None:
        """Move a checkpoint's network to a device; a bundle runs where onnxruntime does."""
        if isinstance(self.driver, nn.Module):
            self.driver.to(device)


def load_policy(path: Path, hints: NetworkHints, task: str, vehicle_file: Path | None) -> FlownPolicy:
    """Load a checkpoint's file, or a bundle's folder or manifest.

    Args:
        path: what to fly.
        hints: what a checkpoint's weights do not tell.
        task: task id, for the vehicle's numbers of a checkpoint.
        vehicle_file: the vehicle's numbers, where neither task nor run has them.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        OptionError: what a checkpoint does not tell is missing.
        BundleError: the bundle cannot be read.
    """
    if path.is_dir() or path.name == MANIFEST_NAME:
        return _load_bundle(path if path.is_dir() else path.parent)
    checkpoint, vehicle = load_with_vehicle(path, hints, task, vehicle_file)
    calibration = checkpoint.calibration
    return FlownPolicy(
        identity=PolicyIdentity(
            "checkpoint", path, path, checkpoint.sha256, checkpoint.sha256, calibrated=calibration is not None
        ),
        driver=checkpoint.network,
        layout=checkpoint.network.config.layout,
        transform=vehicle.action_transform,
        threshold=None if calibration is None else float(sigmoid(calibration.threshold_logit)),
        detector=None if calibration is None else calibration.detector,
        checkpoint=checkpoint,
    )


def _load_bundle(folder: Path) -> FlownPolicy:
    bundle = open_bundle(folder)
    contract = bundle.contract
    spec = contract.observation
    transform = ActionTransform(contract.action.scale, contract.action.offset, contract.action.clip)
    threshold = None if contract.gate is None else contract.gate.threshold_logit
    return FlownPolicy(
        identity=PolicyIdentity(
            kind="bundle",
            path=folder,
            file=bundle.onnx_path,
            sha256=bundle.files[ONNX_NAME],
            checkpoint_sha256=contract.provenance.checkpoint_sha256,
            calibrated=threshold is not None,
        ),
        driver=ArtifactDriver(OnnxRunner(bundle.onnx_path, contract), transform),
        layout=ObservationLayout(spec.state_size, (spec.depth.rows, spec.depth.columns)),
        transform=transform,
        threshold=None if threshold is None else float(sigmoid(threshold)),
        detector=None if contract.gate is None else _detector(contract.gate.detector),
    )


def _detector(spec: DetectorSpec | None) -> GateDetector | None:
    if spec is None:
        return None
    return GateDetector(
        *(spec.threshold_logit, spec.release_logit, spec.refractory_steps, spec.tolerance_steps),
        *(spec.slope_gain, spec.slope_steps, spec.slope_rise),
    )
