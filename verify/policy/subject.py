"""A bundle of any policy beside the checkpoint that it claims to come from."""

from dataclasses import dataclass

from deploy_kit.bundle.implied_policy import describe_policy, policy_graph_of
from deploy_kit.bundle.parity import OutputSemantics
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.policy_reader import PolicyBundle
from deploy_kit.bundle.policy_runners import PolicyReference, roles_of
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.policy.sequences import Usual, state_outputs_of

UNCALIBRATED = "the head is not calibrated: decisions are cut at logit 0"


@dataclass(frozen=True)
class PolicySubject:
    """What is verified against what.

    Attributes:
        bundle: the bundle.
        checkpoint: the truth.
        reference: the checkpoint's network, ready to compare with.
        semantics: what the outputs stand for.
        usual: what the numbers of each group usually are, by the checkpoint's normaliser.
        misfit: why the bundle's tensors cannot be compared with the checkpoint's at all, None if they can.
        note: what a reader should know of the head's threshold.
    """

    bundle: PolicyBundle
    checkpoint: PolicyCheckpoint
    reference: PolicyReference
    semantics: OutputSemantics
    usual: Usual
    misfit: str | None
    note: str | None

    @property
    def contract(self) -> PolicyContract:
        """The bundle's contract."""
        return self.bundle.contract

    @property
    def roles(self) -> tuple[str, ...]:
        """How the outputs are called among results."""
        return roles_of(self.contract)


def pair_policy(bundle: PolicyBundle, checkpoint: PolicyCheckpoint) -> PolicySubject:
    """Put a bundle beside a checkpoint.

    Args:
        bundle: the bundle.
        checkpoint: the truth.
    """
    contract, network = bundle.contract, checkpoint.network
    threshold, note = None, None
    if contract.head is not None:
        calibration = checkpoint.calibration
        threshold, note = (0.0, UNCALIBRATED) if calibration is None else (calibration.threshold_logit, None)
    misfit = _misfit(contract, checkpoint)
    outputs = state_outputs_of(contract) if misfit is None else ()
    return PolicySubject(
        bundle=bundle,
        checkpoint=checkpoint,
        reference=PolicyReference(network, outputs, head=contract.head is not None),
        semantics=OutputSemantics((), (), ActionTransform((), (), None), threshold),
        usual=network.usual_numbers(),
        misfit=misfit,
        note=note,
    )


def _misfit(contract: PolicyContract, checkpoint: PolicyCheckpoint) -> str | None:
    spec = checkpoint.network.spec
    pairs = {
        "observation groups": ([(g.name, g.shape) for g in contract.groups], [(g.name, g.shape) for g in spec.groups]),
        "state": ([(i.layers, i.hidden) for i in contract.state], [(i.layers, i.hidden) for i in spec.state]),
        "feature size": (contract.network.feature_size, spec.feature_size),
        "number of actions": (contract.network.num_actions, spec.num_actions),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            return f"{what}: {found} in the contract, {expected} in the checkpoint"
    if contract.head is not None and checkpoint.network.head is None:
        return "the bundle has a head's output, the checkpoint no head"
    return None


def implied_contract(bundle: PolicyBundle, checkpoint: PolicyCheckpoint, weights_sha256: str) -> PolicyContract:
    """Return the contract that the checkpoint and its run imply for a bundle.

    Raises:
        OptionError: the bundle's names do not fit.
    """
    found = bundle.contract
    return describe_policy(
        checkpoint,
        policy_graph_of(found),
        opset=found.versions.opset,
        ir_version=found.versions.ir_version,
        weights_sha256=weights_sha256,
        samples_sha256=found.provenance.samples_sha256,
    )
