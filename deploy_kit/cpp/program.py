"""What a network computes, as a list of steps over named buffers: the form from which C++ is written.

A policy of another kind needs a function beside `program_of` that gives such a list, and, where it computes something
new, a class of step here with its text in `network_text`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from deploy_kit.cpp.activations import Activation, activation_of
from deploy_kit.policy.network import VisionActorCritic

Float32 = npt.NDArray[np.float32]

STATE, IMAGE, FEATURES, ACTION, GATE = "state", "image", "features", "action", "gate"
"""Names of the buffers that the rest of the header reads and writes."""


@dataclass(frozen=True)
class Normalise:
    """``target = (source - mean) / scale``, number by number.

    Attributes:
        name: of the step, and of its constants.
        source: buffer that is read.
        target: buffer that is written.
        mean: (n,) what is subtracted.
        scale: (n,) what is divided by.
    """

    name: str
    source: str
    target: str
    mean: Float32
    scale: Float32


@dataclass(frozen=True)
class Convolution:
    """A convolution without padding, and the activation after it.

    Attributes:
        name: of its constants.
        weight: (output channels, input channels, rows, columns).
        bias: (output channels,).
        stride: (rows, columns).
        activation: of its output.
    """

    name: str
    weight: Float32
    bias: Float32
    stride: tuple[int, int]
    activation: Activation


@dataclass(frozen=True)
class Convolutions:
    """A chain of convolutions over an image; the target is ordered rows, columns, channels.

    Attributes:
        source: buffer with the image, (rows, columns) of one channel.
        target: buffer that is written.
        shape: (rows, columns) of the image.
        layers: in order.
    """

    source: str
    target: str
    shape: tuple[int, int]
    layers: tuple[Convolution, ...]


@dataclass(frozen=True)
class Product:
    """A matrix with which a buffer is multiplied.

    Attributes:
        name: of its constant.
        source: buffer that is read.
        weight: (outputs, inputs), the inputs in the order of the buffer.
    """

    name: str
    source: str
    weight: Float32


@dataclass(frozen=True)
class Dense:
    """``target = activation(bias + sum of products)``.

    Attributes:
        name: of its bias.
        products: the sum's terms.
        bias: (outputs,).
        activation: of the output.
        target: buffer that is written.
    """

    name: str
    products: tuple[Product, ...]
    bias: Float32
    activation: Activation
    target: str


Step = Normalise | Convolutions | Dense


@dataclass(frozen=True)
class Program:
    """A network.

    Attributes:
        state_size: numbers of the buffer `STATE`.
        image_shape: (rows, columns) of the buffer `IMAGE`.
        feature_size: numbers of the buffer `FEATURES`.
        num_actions: numbers of the buffer `ACTION`.
        gate: whether the buffer `GATE` is written.
        encoder: steps from state and image to the features.
        heads: steps from the features to action and gate.
    """

    state_size: int
    image_shape: tuple[int, int]
    feature_size: int
    num_actions: int
    gate: bool
    encoder: tuple[Step, ...]
    heads: tuple[Step, ...]


def program_of(network: VisionActorCritic, gate: bool) -> Program:
    """Return what a network computes, with its batch norms folded in float64 and rounded once.

    Args:
        network: in evaluation mode.
        gate: whether the gate output is wanted.
    """
    layout = network.config.layout
    activation = activation_of(network.activation)
    encoder: list[Step] = []
    state, image = STATE, IMAGE
    if network.normalizer is not None:
        mean, split = _values(network.normalizer.mean).ravel(), layout.state_size
        # As the network adds it: in float32.
        scale = _values(network.normalizer.std + network.normalizer.eps).ravel()
        encoder += [
            Normalise("state_norm", STATE, "normal_state", mean[:split], scale[:split]),
            Normalise("image_norm", IMAGE, "normal_image", mean[split:], scale[split:]),
        ]
        state, image = "normal_state", "normal_image"
    encoder.append(Convolutions(image, "flat", layout.image_shape, tuple(_convolutions(network.stem))))
    channels, rows, columns = network.config.stem_output_shape
    linear = network.stem[-1]
    assert isinstance(linear, nn.Linear)
    # The flattened image is ordered rows, columns, channels instead of channels, rows, columns.
    flat = _values(linear.weight).reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1)
    bias = _values(linear.bias).astype(np.float64) + _values(network.state_enc.bias)
    products = (
        Product("stem_linear", "flat", flat.reshape(len(flat), -1)),
        Product("state_enc", state, _values(network.state_enc.weight)),
    )
    encoder.append(Dense("features", products, bias.astype(np.float32), activation, FEATURES))
    heads = list(_mlp("actor", network.actor, FEATURES, ACTION))
    if gate:
        assert network.aux_decoder is not None
        heads += _mlp("aux_decoder", nn.Sequential(network.aux_decoder), FEATURES, GATE)
    return Program(
        layout.state_size,
        layout.image_shape,
        network.config.feature_size,
        network.config.num_actions,
        gate,
        tuple(encoder),
        tuple(heads),
    )


def _convolutions(stem: nn.Sequential) -> list[Convolution]:
    """Return the convolutions of a stem that ends in what flattens and a linear layer."""
    layers: list[Convolution] = []
    names = [name for name, _ in stem.named_children()]
    for index, layer in enumerate(stem):
        if not isinstance(layer, nn.Conv2d):
            continue
        norm = stem[index + 1]
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = fold(layer, norm)
        stride = (int(layer.stride[0]), int(layer.stride[1]))
        layers.append(Convolution(f"stem_{names[index]}", weight, bias, stride, activation_of(stem[index + 2])))
    return layers


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Float32, Float32]:
    """Return weight and bias of a convolution with its batch norm folded in, rounded once.

    Every operation is one that IEEE 754 rounds correctly, so that all machines give the same bits.
    """
    mean, var, gain, shift = (
        _values(tensor).astype(np.float64) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    factor = gain / np.sqrt(var + norm.eps)
    weight = _values(convolution.weight).astype(np.float64) * factor[:, None, None, None]
    bias = 0.0 if convolution.bias is None else _values(convolution.bias).astype(np.float64)
    return weight.astype(np.float32), (shift + (bias - mean) * factor).astype(np.float32)


def _mlp(name: str, layers: nn.Sequential, source: str, target: str) -> list[Dense]:
    """Return the steps of linear layers and activations by turns."""
    steps: list[Dense] = []
    modules = list(layers.named_children())
    for place, (key, layer) in enumerate(modules):
        if not isinstance(layer, nn.Linear):
            continue
        last = place + 1 == len(modules)
        activation = activation_of(nn.Identity() if last else modules[place + 1][1])
        label = name if len(modules) == 1 else f"{name}_{key}"
        product = Product(label, source, _values(layer.weight))
        source = target if last else f"{label}_out"
        steps.append(Dense(label, (product,), _values(layer.bias), activation, source))
    return steps


def _values(tensor: Tensor | None) -> Any:
    assert tensor is not None
    return tensor.detach().cpu().numpy()
