"""Says what a checkpoint holds, as plain JSON values for ``deploy-kit inspect``."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from deploy_kit.policy.any_policy import AnyCheckpoint, head_of
from deploy_kit.policy.checkpoint import Checkpoint, CheckpointFormat
from deploy_kit.policy.fingerprint import (
    feature_sha256,
    head_sha256,
    policy_feature_sha256,
    policy_head_sha256,
)
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.policy.run.params import RunParams


class GateHeadState(StrEnum):
    """What is known of the gate head's training."""

    ABSENT = "absent"
    UNTRAINED = "untrained"
    """The optimizer in the file has state for other parameters, none for the head, and the head's numbers lie where
    torch initialises them."""
    TRAINED = "trained"
    """deploy-kit finetuned it, or the optimizer has state for it."""
    TRAINED_ELSEWHERE = "trained elsewhere"
    """Nothing records a training, but the head's numbers lie outside the range in which torch initialises them."""
    UNKNOWN = "unknown"
    """The file does not tell."""


def gate_head_state(checkpoint: Checkpoint) -> GateHeadState:
    """Tell whether the gate head was trained, from the calibration, the optimizer's state or the weights."""
    head = checkpoint.network.aux_decoder
    if head is None:
        return GateHeadState.ABSENT
    if checkpoint.calibration is not None:
        return GateHeadState.TRAINED
    recorded = _optimizer_state(checkpoint)
    if recorded is GateHeadState.TRAINED:
        return recorded
    # torch initialises weights and bias of a linear layer uniformly within 1 / sqrt(inputs).
    bound = head.in_features**-0.5 * (1 + 1e-6)
    if max(float(head.weight.abs().max()), float(head.bias.abs().max())) > bound:
        return GateHeadState.TRAINED_ELSEWHERE
    return recorded


def describe_gate_head(checkpoint: AnyCheckpoint) -> str:
    """Return what is known of the head's training, in words."""
    if checkpoint.calibration is not None:
        return "finetuned by deploy-kit"
    if not isinstance(checkpoint, Checkpoint):
        head = head_of(checkpoint.network)
        if head is None:
            return "absent"
        new = not bool(head.weight.any() or head.bias.any())
        return "new: all zeros" if new else "not known whether it was trained: the file has no record of it"
    return {
        GateHeadState.ABSENT: "absent",
        GateHeadState.UNTRAINED: "untrained: as torch initialises it, and the run's optimizer never moved it",
        GateHeadState.TRAINED: "trained by the run's optimizer; without deploy-kit's record of a threshold",
        GateHeadState.TRAINED_ELSEWHERE: (
            "trained elsewhere: not as torch initialises it; without deploy-kit's record of a threshold"
        ),
        GateHeadState.UNKNOWN: "not known whether it was trained: the file has no record of it",
    }[gate_head_state(checkpoint)]


def _optimizer_state(checkpoint: Checkpoint) -> GateHeadState:
    """Tell from the optimizer's state whether it trained the gate head."""
    if checkpoint.format is not CheckpointFormat.RSL_RL_JOINT:
        return GateHeadState.UNKNOWN
    optimizer = checkpoint.entries.get("optimizer_state_dict")
    state = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        return GateHeadState.UNKNOWN
    # Optimizer state is keyed by position. It is only trusted where the shapes of all moments fit the parameters.
    parameters = _parameters(checkpoint)
    shapes = {index: tensor.shape for index, tensor in enumerate(parameters.values())}
    for index, moments in state.items():
        moment = moments.get("exp_avg") if isinstance(moments, Mapping) else None
        if not isinstance(moment, Tensor) or shapes.get(index) != moment.shape:
            return GateHeadState.UNKNOWN
    position = list(parameters).index("aux_decoder.weight")
    return GateHeadState.TRAINED if position in state else GateHeadState.UNTRAINED


def _parameters(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the trained tensors in the optimizer's order: the state dict's, less the buffers."""
    buffers = {name for name, _ in checkpoint.network.named_buffers()}
    tensors = checkpoint.entries["model_state_dict"]
    return {name: t for name, t in tensors.items() if name not in buffers and "_obs_normalizer." not in name}


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint holds: file, network, gate head, normaliser, run.

    Everything is a JSON value. Sizes are numbers of elements; hashes are hexadecimal.
    """
    network = checkpoint.network
    config = network.config
    calibration = checkpoint.calibration
    return {
        "path": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "format": checkpoint.format.value,
        "iteration": checkpoint.iteration,
        "network": {
            "state_size": config.layout.state_size,
            "image_shape": list(config.layout.image_shape),
            "observation_size": config.layout.size,
            "stem": [block._asdict() for block in config.stem],
            "feature_size": config.feature_size,
            "actor_hidden": list(config.actor_hidden),
            "critic_hidden": None if config.critic_hidden is None else list(config.critic_hidden),
            "num_actions": config.num_actions,
            "activation": config.activation,
            "parameters": _count(network),
            "parameters_to_fly": _count(network) - (_count(network.critic) if config.critic_hidden is not None else 0),
        },
        "feature_sha256": feature_sha256(network),
        "head_sha256": None if network.aux_decoder is None else head_sha256(network),
        "normalizer_eps": config.normalizer_eps,
        "gate_head": gate_head_state(checkpoint).value,
        "gate_head_training": describe_gate_head(checkpoint),
        "calibration": None if calibration is None else calibration.to_json(),
        "run": _run(checkpoint.params),
        "entries": sorted(map(str, checkpoint.entries)),
    }


def describe_policy(checkpoint: PolicyCheckpoint) -> dict[str, Any]:
    """Return what a checkpoint of any other policy holds: file, network, memory, head, run.

    Everything is a JSON value. Sizes are numbers of elements; hashes are hexadecimal.
    """
    network, spec, calibration = checkpoint.network, checkpoint.network.spec, checkpoint.calibration
    trained = "not known: no record of its training" if calibration is None else "finetuned by deploy-kit"
    return {
        "path": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "format": checkpoint.format.value,
        "iteration": checkpoint.iteration,
        "network": {
            "kind": spec.kind,
            "groups": [{"name": group.name, "shape": list(group.shape)} for group in spec.groups],
            "num_actions": spec.num_actions,
            "feature_size": spec.feature_size,
            "feature_layer": spec.feature_layer,
            "memory": [{"name": item.input, "layers": item.layers, "hidden": item.hidden} for item in spec.state],
            "settings": dict(spec.settings),
            "parameters_to_fly": sum(tensor.numel() for tensor in network.policy_tensors().values()),
            "operators": list(network.plan().operators),
        },
        "feature_sha256": policy_feature_sha256(network),
        "head_sha256": policy_head_sha256(network),
        "normalizer_eps": spec.normalizer_eps,
        "head": "absent" if network.head is None else trained,
        "calibration": None if calibration is None else calibration.to_json(),
        "run": _run(checkpoint.params),
        "entries": sorted(map(str, checkpoint.entries)),
    }


def _run(params: RunParams) -> dict[str, Any]:
    experiment = params.lookup("agent", "experiment_name")
    return {
        "params": None if params.directory is None else str(params.directory),
        "agent_yaml": params.agent is not None,
        "env_yaml": params.env is not None,
        "experiment_name": experiment if isinstance(experiment, str) else None,
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
