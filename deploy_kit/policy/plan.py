"""A policy as a list of operators: what export writes, what the judge looks for, and what a runtime must offer.

Each layer is one operator of ONNX, by ONNX's name and with ONNX's attributes, on data and constants. One step of a
recurrent network is written with the same elementary operators, on the very weights that torch keeps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Layer:
    """One operator.

    Attributes:
        op: its name in ONNX.
        inputs: values that it reads, in order; its constants follow them.
        output: value that it gives.
        name: name of the layer in the checkpoint, or what it is, for messages.
        constants: weights by name, in the operator's order.
        settings: attributes, where they differ from ONNX's defaults or a default would be guessed.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    name: str
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a network computes in one step.

    Attributes:
        inputs: values that are given, in the order of observation groups and then of state tensors.
        layers: operators, in an order in which they can run.
        actions: value of the actions, (B, A).
        features: value that the head reads, (B, F).
        state: values of the next state, each (layers, B, hidden).
    """

    inputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    actions: str
    features: str
    state: tuple[str, ...] = ()

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators that a runtime must offer, sorted."""
        return tuple(sorted({layer.op for layer in self.layers}))


class PlanBuilder:
    """Writes a plan down, layer by layer; each method returns the name of the value that it adds."""

    def __init__(self) -> None:
        self._inputs: list[str] = []
        self._layers: list[Layer] = []

    def input(self, name: str) -> str:
        """Add an input: an observation group, or a state tensor by its input's name."""
        self._inputs.append(name)
        return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        constants: Mapping[str, Tensor] | None = None,
        **settings: Any,
    ) -> str:
        """Add one operator.

        Args:
            op: its name in ONNX.
            inputs: values that it reads.
            name: name of the layer, for messages.
            constants: weights by name, which follow the inputs.
            **settings: attributes of the operator.
        """
        output = f"v{len(self._layers)}"
        kept = {key: tensor.detach().cpu() for key, tensor in (constants or {}).items()}
        self._layers.append(Layer(op, tuple(inputs), output, name, kept, settings))
        return output

    def finish(self, actions: str, features: str, state: Sequence[str] = ()) -> Plan:
        """Return the plan."""
        return Plan(tuple(self._inputs), tuple(self._layers), actions, features, tuple(state))

    def concatenated(self, parts: Sequence[str], name: str, axis: int = 1) -> str:
        """Add a concatenation; a single part is returned as it is."""
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, name, axis=axis)

    def columns(self, value: str, start: int, stop: int, name: str) -> str:
        """Add columns [start, stop) of rows."""
        bounds = {key: torch.tensor([number]) for key, number in (("start", start), ("stop", stop), ("axis", 1))}
        return self.add("Slice", [value], name, bounds)

    def image(self, value: str, shape: tuple[int, int, int], name: str) -> str:
        """Add rows of (channels, rows, columns) made of flat rows, row-major."""
        return self.add("Reshape", [value], name, {"shape": torch.tensor([0, *shape])})

    def normalised(self, value: str, mean: Tensor, divisor: Tensor, name: str) -> str:
        """Add ``(x - mean) / divisor``."""
        return self.add(
            "Div", [self.add("Sub", [value], name, {"mean": mean})], name, {"standard deviation + eps": divisor}
        )

    def linear(self, value: str, module: nn.Linear, name: str) -> str:
        """Add a linear layer with bias."""
        constants = {"weight": module.weight, "bias": _bias(module.bias, module.out_features)}
        return self.add("Gemm", [value], name, constants, transB=1)

    def scaled(self, value: str, factor: float, name: str) -> str:
        """Add a multiplication by a number."""
        return self.add("Mul", [value], name, {"factor": torch.tensor(factor, dtype=torch.float32)})

    def shifted(self, value: str, term: float, name: str) -> str:
        """Add the addition of a number."""
        return self.add("Add", [value], name, {"term": torch.tensor(term, dtype=torch.float32)})

    def activation(self, value: str, module: nn.Module, name: str) -> str:
        """Add an activation.

        Raises:
            CheckpointError: it is none of those that a plan knows.
        """
        match module:
            case nn.Identity():
                return value
            case nn.ELU() | nn.CELU():
                return self.add("Elu" if isinstance(module, nn.ELU) else "Celu", [value], name, alpha=module.alpha)
            case nn.LeakyReLU():
                return self.add("LeakyRelu", [value], name, alpha=module.negative_slope)
            case nn.ReLU() | nn.SELU() | nn.Sigmoid() | nn.Softplus() | nn.Tanh():
                names = {nn.ReLU: "Relu", nn.SELU: "Selu"}
                return self.add(names.get(type(module), type(module).__name__), [value], name)
            case nn.SiLU():
                return self.add("Mul", [value, self.add("Sigmoid", [value], name)], name)
            case nn.Mish():
                return self.add("Mul", [value, self.add("Tanh", [self.add("Softplus", [value], name)], name)], name)
            case nn.GELU() if module.approximate == "none":
                erf = self.add("Erf", [self.scaled(value, math.sqrt(0.5), name)], name)
                return self.add("Mul", [self.scaled(value, 0.5, name), self.shifted(erf, 1.0, name)], name)
        raise CheckpointError(f"{name}: {module} cannot be exported; see docs/policies.md for the layers that can")

    def module(self, value: str, module: nn.Module, name: str) -> str:
        """Add a layer of torch, or a sequence of them.

        Raises:
            CheckpointError: it is none of those that a plan knows; the message names it.
        """
        match module:
            case nn.Sequential():
                # Not named_children, which leaves out the second use of a shared activation.
                for part, layer in module._modules.items():
                    assert layer is not None
                    value = self.module(value, layer, f"{name}.{part}")
                return value
            case nn.Linear():
                return self.linear(value, module, name)
            case nn.Conv2d():
                return self._convolution(value, module, name)
            case nn.BatchNorm2d() if module.track_running_stats and module.affine:
                norm = {
                    "weight": module.weight,
                    "bias": module.bias,
                    "running_mean": module.running_mean,
                    "running_var": module.running_var,
                }
                constants = {key: tensor for key, tensor in norm.items() if tensor is not None}
                return self.add("BatchNormalization", [value], name, constants, epsilon=module.eps)
            case nn.LayerNorm() if module.elementwise_affine:
                axis, constants = -len(module.normalized_shape), {"weight": module.weight, "bias": module.bias}
                return self.add("LayerNormalization", [value], name, constants, axis=axis, epsilon=module.eps)
            case nn.MaxPool2d(dilation=1, ceil_mode=False, return_indices=False):
                kernel, stride, pad = (_pair(size) for size in (module.kernel_size, module.stride, module.padding))
                return self.add(
                    "MaxPool", [value], name, kernel_shape=list(kernel), strides=list(stride), pads=[*pad, *pad]
                )
            case nn.AdaptiveMaxPool2d() | nn.AdaptiveAvgPool2d() if _pair(module.output_size) == (1, 1):
                op = "GlobalMaxPool" if isinstance(module, nn.AdaptiveMaxPool2d) else "GlobalAveragePool"
                return self.add(op, [value], name)
            case nn.Flatten(start_dim=1, end_dim=-1):
                return self.add("Flatten", [value], name, axis=1)
            case nn.Unflatten():
                # Rows stay flat: what reads them takes columns.
                return value
        return self.activation(value, module, name)

    def _convolution(self, value: str, module: nn.Conv2d, name: str) -> str:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise CheckpointError(f"{name}: padding {module.padding_mode!r} cannot be exported, only zeros or none can")
        pads = [*module.padding, *module.padding]
        return self.add(
            "Conv",
            [value],
            name,
            {"weight": module.weight, "bias": _bias(module.bias, module.out_channels)},
            kernel_shape=list(module.kernel_size),
            strides=list(module.stride),
            pads=pads,
            dilations=list(module.dilation),
            group=module.groups,
        )

    def recurrent(self, value: str, module: nn.RNNBase, state: Sequence[str], name: str) -> tuple[str, tuple[str, ...]]:
        """Add one step of an LSTM or GRU of any number of layers.

        Args:
            value: rows that it reads, (B, input).
            module: torch's module; one direction, with biases, without projection.
            state: its state tensors, each (layers, B, hidden): hidden, and for an LSTM cell state.
            name: its name in the checkpoint.

        Returns:
            What it gives, (B, hidden), and the next state.

        Raises:
            CheckpointError: it is of another kind.
        """
        kinds = isinstance(module, (nn.LSTM, nn.GRU))
        if not kinds or module.bidirectional or not module.bias or module.proj_size:
            raise CheckpointError(f"{name}: {module} cannot be exported; only LSTM and GRU of one direction can")
        after: list[list[str]] = [[] for _ in state]
        for layer in range(module.num_layers):
            index = {"layer": torch.tensor(layer)}
            before = [
                self.add("Gather", [tensor], f"{name}, state of layer {layer}", index, axis=0) for tensor in state
            ]
            step = self._lstm_step if isinstance(module, nn.LSTM) else self._gru_step
            given = step(value, before, module, layer, name)
            value = given[0]
            for collected, tensor in zip(after, given, strict=True):
                axes = {"axes": torch.tensor([0])}
                collected.append(self.add("Unsqueeze", [tensor], f"{name}, next state of layer {layer}", axes))
        return value, tuple(self.concatenated(tensors, f"{name}, next state", axis=0) for tensors in after)

    def _gates(self, value: str, hidden: str, module: nn.RNNBase, layer: int, name: str) -> tuple[str, str]:
        parts = []
        for source, side in ((value, "ih"), (hidden, "hh")):
            constants = {
                f"weight_{side}_l{layer}": getattr(module, f"weight_{side}_l{layer}"),
                f"bias_{side}_l{layer}": getattr(module, f"bias_{side}_l{layer}"),
            }
            parts.append(self.add("Gemm", [source], name, constants, transB=1))
        return parts[0], parts[1]

    def _lstm_step(self, value: str, before: list[str], module: nn.RNNBase, layer: int, name: str) -> list[str]:
        size, (hidden, cell) = module.hidden_size, before
        total = self.add("Add", self._gates(value, hidden, module, layer, name), f"{name}, gates of layer {layer}")
        gates = {}
        for index, (gate, op) in enumerate(
            (("input", "Sigmoid"), ("forget", "Sigmoid"), ("cell", "Tanh"), ("output", "Sigmoid"))
        ):
            what = f"{name}, {gate} gate of layer {layer}"
            gates[gate] = self.add(op, [self.columns(total, index * size, (index + 1) * size, what)], what)
        what = f"{name}, cell of layer {layer}"
        kept, new = (
            self.add("Mul", [gates["forget"], cell], what),
            self.add("Mul", [gates["input"], gates["cell"]], what),
        )
        cell = self.add("Add", [kept, new], what)
        return [self.add("Mul", [gates["output"], self.add("Tanh", [cell], what)], what), cell]

    def _gru_step(self, value: str, before: list[str], module: nn.RNNBase, layer: int, name: str) -> list[str]:
        size, (hidden,) = module.hidden_size, before
        given, recalled = self._gates(value, hidden, module, layer, name)
        gates = {}
        for index, gate in enumerate(("reset", "update")):
            what, bounds = f"{name}, {gate} gate of layer {layer}", (index * size, (index + 1) * size)
            total = self.add("Add", [self.columns(part, *bounds, what) for part in (given, recalled)], what)
            gates[gate] = self.add("Sigmoid", [total], what)
        what, bounds = f"{name}, new gate of layer {layer}", (2 * size, 3 * size)
        gated = self.add("Mul", [gates["reset"], self.columns(recalled, *bounds, what)], what)
        new = self.add("Tanh", [self.add("Add", [self.columns(given, *bounds, what), gated], what)], what)
        what = f"{name}, hidden state of layer {layer}"
        kept = self.add("Mul", [gates["update"], self.add("Sub", [hidden, new], what)], what)
        return [self.add("Add", [new, kept], what)]


def _bias(bias: Tensor | None, size: int) -> Tensor:
    return torch.zeros(size) if bias is None else bias


def _pair(size: Any) -> tuple[Any, Any]:
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)
