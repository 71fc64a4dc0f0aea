"""What known faults would give on the same inputs, to be held against what an artifact gave."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.runners import Float32, Outputs, Reference
from deploy_kit.policy.network import ObservationNormalizer, VisionActorCritic

Hypothesis = tuple[str, Callable[[], Outputs]]
"""(cause in words, what it would give)."""

NORMALISER_MISSING = "the observation normaliser is missing"
TRAINING_MODE = "a batch norm in training mode: it takes mean and variance from the batch instead of the checkpoint"
SWAPPED = "outputs are swapped or permuted"
FP16 = "computed with weights rounded to fp16"
TF32 = "computed with TF32 (10-bit mantissas)"
CONSTANT = "a constant was inlined: the outputs do not depend on the input"


def hypotheses(reference: Reference, observation: Float32, terms: tuple[tuple[str, int, int], ...]) -> Iterator[
    Hypothesis
]:  # fmt: skip
    """Yield known faults.

    Args:
        reference: the checkpoint.
        observation: (n, 6928) the inputs.
        terms: name, first and last index of each term of the state.
    """
    network = reference.network
    for cause, variant in _networks(network):
        yield cause, _lazily(Reference(variant, reference.transform), observation)
    yield TRAINING_MODE, lambda: _trained(reference, observation)
    for cause, changed in _inputs(network, observation, terms):
        yield cause, _lazily(reference, changed)


def output_hypotheses(expected: Outputs) -> Iterator[Hypothesis]:
    """Yield faults that change the outputs alone, given the checkpoint's."""
    if "gate_logit" in expected:
        logit = expected["gate_logit"]
        yield "the gate logit is negated", lambda: {**expected, "gate_logit": -logit}
        yield (
            "the gate output is a probability where a logit is expected",
            lambda: {**expected, "gate_logit": np.asarray(sigmoid(logit))},
        )
    yield (
        "actions are physical commands where the network's own are expected",
        lambda: {**expected, "action": expected["command"]},
    )
    yield "actions are squashed by tanh", lambda: {**expected, "action": np.tanh(expected["action"])}


def _lazily(reference: Reference, observation: Float32) -> Callable[[], Outputs]:
    return lambda: reference(observation)


def _networks(network: VisionActorCritic) -> Iterator[tuple[str, VisionActorCritic]]:
    layout = network.config.layout
    if network.normalizer is not None:
        without = copy.deepcopy(network)
        without.normalizer = None
        yield NORMALISER_MISSING, without
        for eps in (0.0, 1e-8, 1e-5, 1e-3, 1e-2):
            if eps != network.normalizer.eps:
                other = copy.deepcopy(network)
                assert other.normalizer is not None
                other.normalizer.eps = eps
                yield f"the normaliser's epsilon is {eps:g}, the checkpoint's {network.normalizer.eps:g}", other
    else:
        added = copy.deepcopy(network)
        added.normalizer = ObservationNormalizer(layout, 1e-2)
        yield "a normaliser is applied, the checkpoint has none", added
    for eps in (0.0, 1e-8, 1e-3):
        other = copy.deepcopy(network)
        for module in other.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
        yield f"the batch norms' epsilon is {eps:g}", other
    for cause, dtype in ((FP16, torch.float16), ("computed with weights rounded to bfloat16", torch.bfloat16)):
        rounded = copy.deepcopy(network)
        for module in rounded.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight.data = module.weight.data.to(dtype).float()
        yield cause, rounded
    for cause, per_row in (
        ("quantised to int8, one scale a tensor", False),
        ("quantised to int8, one scale a channel", True),
    ):
        quantised = copy.deepcopy(network)
        for module in quantised.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight.data = _int8(module.weight.data, per_row)
        yield cause, quantised
    short = copy.deepcopy(network)
    for module in short.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.data = _tf32(module.weight.data)
            module.register_forward_pre_hook(lambda module, inputs: (_tf32(inputs[0]),))
    yield TF32, short


def _int8(value: torch.Tensor, per_row: bool) -> torch.Tensor:
    size = value.abs().flatten(1).amax(1).reshape(-1, *[1] * (value.dim() - 1)) if per_row else value.abs().max()
    scale = torch.clamp(size / 127.0, min=1e-30)
    return torch.round(value / scale) * scale


def _tf32(value: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers rounded to 10 bits of mantissa."""
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _trained(reference: Reference, observation: Float32) -> Outputs:
    network = copy.deepcopy(reference.network).train()
    with torch.inference_mode():
        return reference.roles(network(torch.from_numpy(observation)))


def _inputs(
    network: VisionActorCritic, observation: Float32, terms: tuple[tuple[str, int, int], ...]
) -> Iterator[tuple[str, Float32]]:
    split, shape = network.config.layout.state_size, network.config.layout.image_shape
    image = observation[:, split:].reshape(-1, *shape)
    for cause, changed in (
        ("the image is upside down", image[:, ::-1]),
        ("the image is mirrored", image[:, :, ::-1]),
        ("the image is turned by half a turn", image[:, ::-1, ::-1]),
        ("the image is transposed", image.transpose(0, 2, 1)),
        ("the image is read column by column", image.reshape(-1, *shape[::-1]).transpose(0, 2, 1)),
        ("the image is shifted down by a row", np.roll(image, 1, axis=1)),
        ("the image is shifted up by a row", np.roll(image, -1, axis=1)),
        ("the image is shifted by a column", np.roll(image, 1, axis=2)),
        ("the image is inverted", 1.0 - image),
    ):
        yield cause, _joined(observation[:, :split], changed)
    for index, (name, start, stop) in enumerate(terms):
        negated = observation.copy()
        negated[:, start:stop] *= -1
        yield f"{name} has the opposite sign", negated
        for other, first, last in terms[index + 1 :]:
            if last - first == stop - start:
                swapped = observation.copy()
                swapped[:, start:stop], swapped[:, first:last] = observation[:, first:last], observation[:, start:stop]
                yield f"{name} and {other} are swapped in the state", swapped


def _joined(state: Float32, image: npt.NDArray[np.floating]) -> Float32:
    rows = np.concatenate((state, image.reshape(len(state), -1)), axis=1)
    return np.ascontiguousarray(rows, np.float32)
