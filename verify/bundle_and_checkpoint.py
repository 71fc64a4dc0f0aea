"""What is verified against what: bundle, checkpoint, vehicle, and what the outputs stand for."""

from dataclasses import dataclass
from pathlib import Path

from deploy_kit.bundle.reader import Bundle, Contract
from deploy_kit.bundle.runners import Reference
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.run.vehicle import Vehicle, resolve_vehicle
from deploy_kit.policy.run.vehicle_env import ENV_FILE
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.meaning import base_source
from deploy_kit.verify.replay import OutputSemantics

UNCALIBRATED = "the gate head is not calibrated: decisions are cut at logit 0"


@dataclass(frozen=True)
class BundleAndCheckpoint:
    """A bundle beside the checkpoint it claims to come from.

    Attributes:
        bundle: the bundle.
        checkpoint: the truth.
        reference: the checkpoint's network, ready to compare with.
        semantics: what the outputs stand for.
        vehicle: the vehicle's numbers, None if they could not be found.
        vehicle_problem: why not.
        misfit: why the bundle's tensors cannot be compared with the checkpoint's at all, None if they can.
        note: what a reader should know of the gate's threshold.
    """

    bundle: Bundle
    checkpoint: Checkpoint
    reference: Reference
    semantics: OutputSemantics
    vehicle: Vehicle | None
    vehicle_problem: str | None
    misfit: str | None
    note: str | None

    @property
    def contract(self) -> Contract:
        """The bundle's contract."""
        return self.bundle.contract

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the exported outputs."""
        return tuple(spec.role for spec in self.contract.outputs)


def pair_bundle(bundle: Bundle, checkpoint: Checkpoint, task: str, vehicle_file: Path | None) -> BundleAndCheckpoint:
    """Put a bundle beside a checkpoint.

    Args:
        bundle: the bundle.
        checkpoint: the truth.
        task: task id, whose numbers count where the contract says that they came from the task.
        vehicle_file: file of the vehicle's numbers, None if there is none.
    """
    contract = bundle.contract
    vehicle, problem = _find_vehicle(contract, checkpoint, task, vehicle_file)
    action = contract.action
    transform = ActionTransform(action.scale, action.offset) if vehicle is None else vehicle.action_transform
    threshold, note = _threshold(contract, checkpoint)
    return BundleAndCheckpoint(
        bundle=bundle,
        checkpoint=checkpoint,
        reference=Reference(checkpoint.network, transform),
        semantics=OutputSemantics(action.names, action.units, transform, threshold),
        vehicle=vehicle,
        vehicle_problem=problem,
        misfit=_misfit(contract, checkpoint.network),
        note=note,
    )


def _find_vehicle(
    contract: Contract, checkpoint: Checkpoint, task: str, vehicle_file: Path | None
) -> tuple[Vehicle | None, str | None]:
    timing = contract.timing
    numbers = (
        *contract.vehicle.values(),
        timing.policy_period_s,
        timing.depth_period_s,
        timing.action_latency_steps,
    )
    sources = {base_source(value.source) for value in numbers if value is not None}
    files = sorted(source.removeprefix("file:") for source in sources if source.startswith("file:"))
    if files and vehicle_file is None:
        return None, f"the vehicle's numbers came from {files[0]}; give that file with --vehicle"
    if ENV_FILE in sources and checkpoint.params.env is None and vehicle_file is None:
        return None, (
            f"the vehicle's numbers came from the run's {ENV_FILE}, which is not beside {checkpoint.path}; "
            "copy the folder params/ there, or give the numbers with --vehicle"
        )
    try:
        return resolve_vehicle(checkpoint.params, task if "task" in sources else None, vehicle_file), None
    except InputError as error:
        return None, str(error)


def _threshold(contract: Contract, checkpoint: Checkpoint) -> tuple[float | None, str | None]:
    if contract.gate is None:
        return None, None
    if checkpoint.calibration is not None:
        return checkpoint.calibration.threshold_logit, None
    return 0.0, UNCALIBRATED


def _misfit(contract: Contract, network: VisionActorCritic) -> str | None:
    config, spec = network.config, contract.observation
    pairs = {
        "state size": (spec.state_size, config.layout.state_size),
        "depth shape": ((spec.depth.rows, spec.depth.columns), config.layout.image_shape),
        "feature size": (contract.network.feature_size, config.feature_size),
        "number of actions": (contract.network.num_actions, config.num_actions),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            return f"{what} is {found} in the contract, {expected} in the checkpoint"
    if contract.gate is not None and network.aux_decoder is None:
        return "the bundle has a gate output, the checkpoint no gate head (aux_decoder)"
    return None
