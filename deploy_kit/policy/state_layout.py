"""Where each checkpoint format keeps the network's tensors, and what the tensors say about the network's shape.

Canonical names are those of `VisionActorCritic.state_dict`. Facts about rsl_rl, read from its sources:

- 2.x saves ``model_state_dict`` and, with ``empirical_normalization``, the normaliser as ``obs_norm_state_dict``.
- 3.x saves the normaliser inside ``model_state_dict`` as ``actor_obs_normalizer.*``.
- 5.x saves ``actor_state_dict`` and ``critic_state_dict``, with ``mlp.*``, ``distribution.*`` and ``obs_normalizer.*``.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.network import ConvSpec, NetworkConfig, VisionActorCritic
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.text import printable


class CheckpointFormat(StrEnum):
    """File formats that are read and written."""

    RSL_RL_JOINT = "rsl_rl-joint"
    RSL_RL_SPLIT = "rsl_rl-split"
    SAFETENSORS = "safetensors"


class Location(NamedTuple):
    """Where a tensor lies in a checkpoint: ``entries[section][name]``."""

    section: str
    name: str


class _Rule(NamedTuple):
    """Names in a section that begin with `prefix` become `canonical` plus the rest; None leaves them aside."""

    section: str
    prefix: str
    canonical: str | None


def _normalizer_rules(section: str, prefix: str) -> list[_Rule]:
    return [
        _Rule(section, f"{prefix}_mean", "normalizer.mean"),
        _Rule(section, f"{prefix}_std", "normalizer.std"),
        _Rule(section, f"{prefix}_var", None),
        _Rule(section, f"{prefix}count", None),
    ]


def _joint_rules(section: str) -> list[_Rule]:
    return [
        *_normalizer_rules(section, "actor_obs_normalizer."),
        _Rule(section, "critic_obs_normalizer.", None),
        _Rule(section, "std", None),
        _Rule(section, "log_std", None),
        _Rule(section, "", ""),
    ]


# The first rule that fits a name applies.
_RULES: dict[CheckpointFormat, list[_Rule]] = {
    CheckpointFormat.RSL_RL_JOINT: [
        *_joint_rules("model_state_dict"),
        *_normalizer_rules("obs_norm_state_dict", ""),
    ],
    CheckpointFormat.RSL_RL_SPLIT: [
        _Rule("actor_state_dict", "mlp.", "actor."),
        *_normalizer_rules("actor_state_dict", "obs_normalizer."),
        _Rule("actor_state_dict", "distribution.", None),
        _Rule("actor_state_dict", "", ""),
        _Rule("critic_state_dict", "mlp.", "critic."),
        _Rule("critic_state_dict", "obs_normalizer.", None),
        _Rule("critic_state_dict", "", "critic_state_dict."),
    ],
    CheckpointFormat.SAFETENSORS: _joint_rules("tensors"),
}

_SUPPORTED = (
    "supported is VisionActorCritic (stem.*, state_enc.*, actor.*, critic.*, aux_decoder.*), see docs/policies.md"
)


def detect_torch_format(entries: Mapping[str, Any], path: object) -> CheckpointFormat:
    """Tell which rsl_rl layout a checkpoint dictionary has.

    Raises:
        CheckpointError: if it has neither, naming the keys that were found.
    """
    if "model_state_dict" in entries:
        return CheckpointFormat.RSL_RL_JOINT
    if "actor_state_dict" in entries and "critic_state_dict" in entries:
        return CheckpointFormat.RSL_RL_SPLIT
    found = ", ".join(sorted(map(printable, entries))[:8]) or "nothing"
    raise CheckpointError(
        f"{path} has none of rsl_rl's entries (model_state_dict, or actor_state_dict and critic_state_dict); "
        f"found: {found}; see docs/policies.md for the supported files"
    )


def locate_tensors(
    entries: Mapping[str, Any], checkpoint_format: CheckpointFormat, path: object
) -> dict[str, Location]:
    """Map canonical tensor names to their places in a checkpoint.

    Raises:
        CheckpointError: if a section is not a mapping of names to tensors, or two tensors claim one role.
    """
    rules = _RULES[checkpoint_format]
    located: dict[str, Location] = {}
    for section in dict.fromkeys(rule.section for rule in rules):
        if section not in entries:
            continue
        tensors = entries[section]
        if not isinstance(tensors, Mapping):
            raise CheckpointError(f"{path}: {section} is a {type(tensors).__name__}, not a state dict")
        if section == "critic_state_dict" and "state_enc.weight" in tensors:
            continue  # A critic with encoders of its own does not read our features, and nothing of it ships.
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
                raise CheckpointError(f"{path}: {section}[{name!r}] is a {type(tensor).__name__}, not a tensor")
            canonical = _canonical_name(rules, section, name)
            if canonical is None:
                continue
            if canonical in located:
                raise CheckpointError(
                    f"{path} holds {canonical} twice: in {section} and in {located[canonical].section}"
                )
            located[canonical] = Location(section, name)
    return located


def _canonical_name(rules: list[_Rule], section: str, name: str) -> str | None:
    for rule in rules:
        if rule.section != section or not name.startswith(rule.prefix):
            continue
        exact = not rule.prefix.endswith(".") and rule.prefix != ""
        if exact and name != rule.prefix:
            continue
        return None if rule.canonical is None else rule.canonical + name[len(rule.prefix) :]
    return f"{section}.{name}"


def place_of(canonical: str, checkpoint_format: CheckpointFormat) -> Location:
    """Return where a format keeps the tensor of a canonical name."""
    for rule in _RULES[checkpoint_format]:
        if rule.canonical is not None and canonical.startswith(rule.canonical):
            return Location(rule.section, rule.prefix + canonical[len(rule.canonical) :])
    raise ValueError(f"{checkpoint_format} has no place for {canonical}")


def require_vision_network(
    tensors: Mapping[str, Tensor], path: object, located: Mapping[str, Location] | None = None
) -> None:
    """Check that weights are those of a network with a stem, before anything else is asked about them.

    Args:
        tensors: weights under canonical names.
        path: where they come from, for messages.
        located: where they lie in the file, so that the message names them as the file does.

    Raises:
        CheckpointError: they are another network's.
    """
    if not any(name.startswith("stem.") for name in tensors):
        shown = {name: name if located is None else ".".join(located[name]) for name in list(tensors)[:3]}
        found = ", ".join(f"{shown[name]} {tuple(tensors[name].shape)}" for name in shown) or "no tensors"
        raise CheckpointError(
            f"{path} holds another network ({found}, ...); {_SUPPORTED}; collect, finetune, judge, export, verify and "
            "inspect take other policies too"
        )


def infer_config(
    tensors: Mapping[str, Tensor], *, activation: str, image_shape: tuple[int, int], normalizer_eps: float, path: object
) -> NetworkConfig:
    """Read the network's sizes off its weights.

    The stride of a convolution is not stored. In this family it equals the kernel size, which the size after flattening
    confirms.

    Args:
        tensors: weights under canonical names.
        activation: name of the activation.
        image_shape: (rows, columns) of the depth image.
        normalizer_eps: epsilon of the normaliser, used if the weights hold one.
        path: where the weights come from, for messages.

    Raises:
        CheckpointError: if a tensor that tells a size is missing or has another number of dimensions.
        OptionError: if the image shape does not fit the weights.
    """
    require_vision_network(tensors, path)
    stem = _infer_stem(tensors, path)
    flatten = _weight(tensors, f"stem.{3 * len(stem) + 1}.weight", 2, path)
    config = NetworkConfig(
        layout=ObservationLayout(_weight(tensors, "state_enc.weight", 2, path).shape[1], image_shape),
        stem=stem,
        feature_size=flatten.shape[0],
        actor_hidden=_infer_widths(tensors, "actor", path)[:-1],
        critic_hidden=_infer_widths(tensors, "critic", path)[:-1] if "critic.0.weight" in tensors else None,
        num_actions=_infer_widths(tensors, "actor", path)[-1],
        activation=activation,
        gate_head=any(name.startswith("aux_decoder.") for name in tensors),
        normalizer_eps=normalizer_eps if any(name.startswith("normalizer.") for name in tensors) else None,
    )
    rows, columns = config.stem_output_shape[1:]
    if min(rows, columns) < 1 or math.prod(config.stem_output_shape) != flatten.shape[1]:
        kernels = ", ".join(str(block.kernel) for block in stem)
        raise OptionError(
            f"image shape {image_shape[0]} x {image_shape[1]} does not fit {path}: with stride = kernel ({kernels}) "
            f"the stem gives {config.stem_output_shape[0]} x {max(rows, 0)} x {max(columns, 0)} values, "
            f"the weights expect {flatten.shape[1]}; "
            "give the trained image shape with --image-shape (other strides are not supported)"
        )
    return config


def _weight(tensors: Mapping[str, Tensor], name: str, dimensions: int, path: object) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{path}: tensor {name} is missing; {_SUPPORTED}")
    tensor = tensors[name]
    if tensor.dim() != dimensions or 0 in tensor.shape:
        raise CheckpointError(
            f"{path}: tensor {name} should have {dimensions} dimensions, found shape {tuple(tensor.shape)}; "
            f"{_SUPPORTED}"
        )
    return tensor


def _infer_stem(tensors: Mapping[str, Tensor], path: object) -> tuple[ConvSpec, ...]:
    blocks: list[ConvSpec] = []
    while (weight := tensors.get(name := f"stem.{3 * len(blocks)}.weight")) is not None:
        weight = _weight(tensors, name, 4, path)
        if weight.shape[2] != weight.shape[3]:
            raise CheckpointError(
                f"{path}: tensor {name} has a {weight.shape[2]} x {weight.shape[3]} kernel; "
                "only square ones are supported"
            )
        blocks.append(ConvSpec(weight.shape[0], weight.shape[2], weight.shape[2]))
    if not blocks:
        _weight(tensors, "stem.0.weight", 4, path)
    return tuple(blocks)


def _infer_widths(tensors: Mapping[str, Tensor], head: str, path: object) -> tuple[int, ...]:
    widths: list[int] = []
    while (name := f"{head}.{2 * len(widths)}.weight") in tensors or not widths:
        widths.append(_weight(tensors, name, 2, path).shape[0])
    return tuple(widths)


def build_network(config: NetworkConfig, tensors: Mapping[str, Tensor], path: object) -> VisionActorCritic:
    """Build the network with the given weights, in eval mode, on the CPU, without gradients.

    Args:
        config: the network's shape.
        tensors: weights under canonical names; they are copied.
        path: where the weights come from, for messages.

    Raises:
        CheckpointError: if a tensor is missing, unexpected, wrongly shaped or not finite, or a variance is negative.
    """
    with torch.device("meta"):
        network = VisionActorCritic(config)
    expected = network.state_dict()
    for name, template in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {name} of shape {tuple(template.shape)} is missing; {_SUPPORTED}")
        if tensors[name].shape != template.shape:
            raise CheckpointError(
                f"{path}: tensor {name} should have shape {tuple(template.shape)}, found {tuple(tensors[name].shape)}"
            )
    if unexpected := [name for name in tensors if name not in expected]:
        raise CheckpointError(
            f"{path}: tensor {unexpected[0]} of shape {tuple(tensors[unexpected[0]].shape)} is not part of the network"
            f"{f' (nor are {len(unexpected) - 1} more)' if len(unexpected) > 1 else ''}; {_SUPPORTED}"
        )
    weights = {
        name: tensors[name].detach().to(template.dtype, copy=True).contiguous() for name, template in expected.items()
    }
    for name, weight in weights.items():
        _check_numbers(name, weight, path)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _check_numbers(name: str, weight: Tensor, path: object) -> None:
    bad = ~torch.isfinite(weight)
    if name.endswith(("running_var", "normalizer.std")):
        bad |= weight < 0
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise CheckpointError(
            f"{path}: tensor {name} holds {weight[index].item()} at index {index}; "
            "the training run has diverged or the file is damaged"
        )
