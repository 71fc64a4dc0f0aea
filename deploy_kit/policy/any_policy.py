"""What collecting and finetuning ask of a policy, whichever of the two kinds of network it is."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deploy_kit.arrays import FloatArray
from deploy_kit.errors import CheckpointError
from deploy_kit.policy.calibration import GateCalibration
from deploy_kit.policy.checkpoint import Checkpoint, CheckpointFormat, save_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256, policy_feature_sha256
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, save_policy
from deploy_kit.policy.policy_layout import PolicyFormat
from deploy_kit.policy.protocol import PolicyNetwork

AnyNetwork = VisionActorCritic | PolicyNetwork
AnyCheckpoint = Checkpoint | PolicyCheckpoint

VISION_FEATURES = "act(stem(depth) + state_enc(state))"
"""What the features of a `VisionActorCritic` are, in the network's terms."""


def head_of(network: AnyNetwork) -> nn.Linear | None:
    """Return a policy's head, None without one."""
    return network.aux_decoder if isinstance(network, VisionActorCritic) else network.head


def feature_size_of(network: AnyNetwork) -> int:
    """Return how many numbers the head reads."""
    return network.config.feature_size if isinstance(network, VisionActorCritic) else network.spec.feature_size


def features_in_words(network: AnyNetwork) -> str:
    """Return what the features are, in the network's terms."""
    if isinstance(network, VisionActorCritic):
        return VISION_FEATURES
    return f"what layer {network.spec.feature_layer} of the {network.spec.kind} reads"


def features_sha256(network: AnyNetwork) -> str:
    """Return the SHA-256 of everything that the features depend on."""
    return feature_sha256(network) if isinstance(network, VisionActorCritic) else policy_feature_sha256(network)


def is_safetensors(checkpoint: AnyCheckpoint) -> bool:
    """Return whether a checkpoint is a safetensors file."""
    return checkpoint.format in (CheckpointFormat.SAFETENSORS, PolicyFormat.SAFETENSORS)


def head_vector(network: AnyNetwork) -> FloatArray:
    """Return the head's weights and bias (F + 1,)."""
    head = head_of(network)
    assert head is not None
    vector: FloatArray = torch.cat([head.weight[0], head.bias]).numpy()
    return vector


def with_new_head(checkpoint: AnyCheckpoint) -> AnyCheckpoint:
    """Return a checkpoint whose policy has a head of zeros, which says nothing yet.

    Raises:
        CheckpointError: it has a head already.
    """
    network = checkpoint.network
    if head_of(network) is not None:
        raise CheckpointError(f"{checkpoint.path} has a head already, which finetuning trains on; leave out --new-head")
    head = nn.Linear(feature_size_of(network), 1).requires_grad_(False)
    head.weight.zero_()
    head.bias.zero_()
    if isinstance(network, VisionActorCritic):
        grown = VisionActorCritic(replace(network.config, gate_head=True))
        zeros = {f"aux_decoder.{name}": tensor for name, tensor in head.state_dict().items()}
        grown.load_state_dict({**network.state_dict(), **zeros})
        assert isinstance(checkpoint, Checkpoint)
        return replace(checkpoint, network=grown.eval().requires_grad_(False), calibration=None)
    assert isinstance(checkpoint, PolicyCheckpoint)
    other = copy.copy(network)
    # A shallow copy shares its modules: the one that was loaded stays without a head.
    other._modules = dict(network._modules)
    other.head = head.eval()
    return replace(checkpoint, network=other, calibration=None)


def save_with_head(path: Path, source: AnyCheckpoint, vector: FloatArray, calibration: GateCalibration | None) -> None:
    """Write a checkpoint with another head; everything else stays bit-identical.

    Args:
        path: target file, replaced atomically.
        source: the checkpoint that was loaded.
        vector: (F + 1,) the head's weights and bias.
        calibration: of that head.

    Raises:
        CheckpointError: the head is not finite, or another run's ``params/`` lies beside the target.
        InputError: the target cannot be written.
    """
    weight, bias = (_tensor(part) for part in (vector[None, :-1], vector[-1:]))
    if isinstance(source, Checkpoint):
        network = copy.deepcopy(source.network)
        assert network.aux_decoder is not None
        network.aux_decoder.weight.copy_(weight)
        network.aux_decoder.bias.copy_(bias)
        save_checkpoint(path, source, network, calibration)
        return
    head = nn.Linear(source.network.spec.feature_size, 1).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    save_policy(path, source, head, calibration)


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
