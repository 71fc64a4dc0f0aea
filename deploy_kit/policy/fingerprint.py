"""Hashes that say which policy a file belongs to."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.protocol import PolicyNetwork


def feature_sha256(network: VisionActorCritic) -> str:
    """Return the SHA-256 of everything the fused features depend on.

    That is the observation layout, the stem's shape, the activation and the normaliser's epsilon, and the tensors of
    normaliser, stem and state encoder (name, dtype, shape, bytes). Two networks with equal hashes give equal features.
    """
    config = asdict(network.config)
    shape = {key: config[key] for key in ("layout", "stem", "feature_size", "activation", "normalizer_eps")}
    # The count of training batches does not enter the forward pass.
    tensors = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(("normalizer.", "stem.", "state_enc.")) and not name.endswith("num_batches_tracked")
    }
    return _digest(shape, tensors)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: names, dtypes, shapes and bytes as they are stored, whatever their dtype."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def head_sha256(network: VisionActorCritic) -> str:
    """Return the SHA-256 of the gate head's tensors.

    Raises:
        CheckpointError: if the network has no gate head.
    """
    if network.aux_decoder is None:
        raise CheckpointError("this policy has no gate head (aux_decoder): there is nothing to hash")
    return _digest({}, {name: t for name, t in network.state_dict().items() if name.startswith("aux_decoder.")})


def policy_feature_sha256(network: PolicyNetwork) -> str:
    """Return the SHA-256 of all that the features of any policy depend on: groups, and layers up to them.

    Two policies with equal hashes give equal features for equal observations and states.
    """
    plan, spec = network.plan(), network.spec
    needed, layers = {plan.features}, []
    for layer in reversed(plan.layers):
        if layer.output in needed:
            needed.update(layer.inputs)
            layers.append(layer)
    shape = {
        "groups": [[group.name, list(group.shape)] for group in spec.groups],
        "state": [list(item) for item in spec.state],
        "features": plan.features,
        "layers": [[layer.op, list(layer.inputs), layer.output, dict(layer.settings)] for layer in layers],
    }
    tensors = {f"{layer.output}.{name}": tensor for layer in layers for name, tensor in layer.constants.items()}
    return _digest(shape, tensors)


def policy_head_sha256(network: PolicyNetwork) -> str | None:
    """Return the SHA-256 of the head's tensors, None without a head."""
    return None if network.head is None else _digest({}, dict(network.head.state_dict()))


def _digest(shape: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().numpy()
        little_endian = array.dtype.newbyteorder("<")
        digest.update(json.dumps([name, little_endian.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array, little_endian).tobytes())
    return digest.hexdigest()
