"""What is verified against what: bundle, checkpoint, vehicle, and what the outputs stand for."""

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.parity import OutputSemantics
from deploy_kit.bundle.reader import Bundle
from deploy_kit.bundle.runners import Reference
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.run.observation import RunObservation, resolve_observation
from deploy_kit.policy.run.vehicle import Vehicle, resolve_vehicle
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.outputs.evidence import Evidence

UNCALIBRATED = "the gate head is not calibrated: decisions are cut at logit 0"


@dataclass(frozen=True)
class NamedVehicle:
    """The vehicle that the user names, by file, run or task; never the bundle's word for it.

    Attributes:
        vehicle: its numbers, None if they are not known.
        meaning: what the policy observes, None if it is not known.
        problem: why the numbers are not known.
        wanted: whether the user wants the contract held against them.
    """

    vehicle: Vehicle | None
    meaning: RunObservation | None = None
    problem: str = ""
    wanted: bool = True


@dataclass(frozen=True)
class BundleAndCheckpoint:
    """A bundle beside the checkpoint it claims to come from.

    Attributes:
        bundle: the bundle.
        checkpoint: the truth.
        named: the vehicle that the user names.
        reference: the checkpoint's network, ready to compare with.
        semantics: what the outputs stand for.
        misfit: why the bundle's tensors cannot be compared with the checkpoint's at all, None if they can.
        note: what a reader should know of the gate's threshold.
        evidence: gathers what the report's page shows besides figures.
    """

    bundle: Bundle
    checkpoint: Checkpoint
    named: NamedVehicle
    reference: Reference
    semantics: OutputSemantics
    misfit: str | None
    note: str | None
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def contract(self) -> Contract:
        """The bundle's contract."""
        return self.bundle.contract

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the exported outputs."""
        return tuple(spec.role for spec in self.contract.outputs)


def pair_bundle(bundle: Bundle, checkpoint: Checkpoint, named: NamedVehicle) -> BundleAndCheckpoint:
    """Put a bundle beside a checkpoint.

    Args:
        bundle: the bundle.
        checkpoint: the truth.
        named: the vehicle that the user names.
    """
    contract = bundle.contract
    action = contract.action
    transform = (
        ActionTransform(action.scale, action.offset, action.clip)
        if named.vehicle is None
        else named.vehicle.action_transform
    )
    threshold, note = _threshold(contract, checkpoint)
    return BundleAndCheckpoint(
        bundle=bundle,
        checkpoint=checkpoint,
        named=named,
        reference=Reference(checkpoint.network, transform),
        semantics=OutputSemantics(action.names, action.units, transform, threshold),
        misfit=_misfit(contract, checkpoint.network),
        note=note,
        evidence=Evidence(
            threshold_logit=threshold,
            image_shape=checkpoint.network.config.layout.image_shape,
            state_names=_state_names(contract),
        ),
    )


def _state_names(contract: Contract) -> tuple[str, ...]:
    """Return what the bundle calls each number of the state."""
    return tuple(
        term.name if term.stop - term.start == 1 else f"{term.name}[{index - term.start}]"
        for term in contract.observation.terms
        for index in range(term.start, min(term.stop, contract.observation.state_size))
    )


def find_vehicle(
    checkpoint: Checkpoint, task: str, vehicle_file: Path | None, contract: Contract | None = None
) -> NamedVehicle:
    """Return the vehicle of a file, else of the run beside the checkpoint, else of the task.

    A run that contradicts the task counts alone: the task may be there for the flights only. So it may for a contract
    that calls every term of the observation unknown, as export writes it without a task: it is held, as a whole,
    against what follows without the task, if the vehicle is known without it.

    Raises:
        InputError: the file cannot be used, or numbers are missing in spite of it.
    """
    problem = ""
    unknown = contract is not None and all(term.quantity is None for term in contract.observation.terms)
    for known in (None, task) if unknown else (task, None):
        try:
            vehicle = resolve_vehicle(checkpoint.params, known, vehicle_file)
            meaning = resolve_observation(checkpoint.params, known, checkpoint.network.config.layout)
        except InputError as error:
            problem = problem or str(error)
            if vehicle_file is not None and known is None and not unknown:
                raise
            continue
        return NamedVehicle(vehicle, meaning)
    return NamedVehicle(None, problem=problem)


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
