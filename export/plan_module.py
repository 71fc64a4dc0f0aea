"""A plan as a torch module: what TorchScript is traced from. Inputs and outputs are those of the ONNX graph."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy_kit.policy.plan import Layer, Plan


class PlanModule(nn.Module):
    """Runs a plan, operator by operator.

    ``forward(*groups, *state)`` returns actions, the head's logit if there is a head, and the next state.

    Args:
        plan: the policy's.
        head: reads the features; None for no logit. It is copied.
    """

    def __init__(self, plan: Plan, head: nn.Linear | None) -> None:
        super().__init__()
        self.plan = plan
        layers = list(plan.layers)
        if head is not None:
            constants = {"weight": head.weight.detach(), "bias": head.bias.detach()}
            layers.append(Layer("Gemm", (plan.features,), "head", "head", constants, {"transB": 1}))
        self._layers = tuple(layers)
        self._given = (plan.actions, *([] if head is None else ["head"]), *plan.state)
        # Sizes and indices as plain numbers, so that tracing meets no tensor that becomes one.
        self._fixed: dict[tuple[int, int], Any] = {}
        for number, layer in enumerate(layers):
            for index, tensor in enumerate(layer.constants.values()):
                if tensor.is_floating_point():
                    self.register_buffer(f"c{number}_{index}", tensor.detach().clone())
                else:
                    self._fixed[number, index] = tensor.tolist()
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs for the plan's inputs."""
        values = dict(zip(self.plan.inputs, inputs, strict=True))
        for number, layer in enumerate(self._layers):
            constants = [
                self._fixed[number, index] if (number, index) in self._fixed else getattr(self, f"c{number}_{index}")
                for index in range(len(layer.constants))
            ]
            data = [values[name] for name in layer.inputs]
            values[layer.output] = RULES[layer.op](data, constants, layer.settings)
        outputs = tuple(values[name] for name in self._given)
        return outputs[0] if len(outputs) == 1 else outputs


Rule = Callable[[list[Tensor], list[Any], Mapping[str, Any]], Tensor]


def _conv(data: list[Tensor], constants: list[Any], settings: Mapping[str, Any]) -> Tensor:
    weight, bias = constants
    padding = settings["pads"][: len(settings["pads"]) // 2]
    return functional.conv2d(
        data[0], weight, bias, settings["strides"], padding, settings["dilations"], settings["group"]
    )


def _batch_norm(data: list[Tensor], constants: list[Any], settings: Mapping[str, Any]) -> Tensor:
    weight, bias, mean, variance = constants
    return functional.batch_norm(data[0], mean, variance, weight, bias, False, 0.0, settings["epsilon"])


def _layer_norm(data: list[Tensor], constants: list[Any], settings: Mapping[str, Any]) -> Tensor:
    weight, bias = constants
    return functional.layer_norm(data[0], weight.shape, weight, bias, settings["epsilon"])


def _max_pool(data: list[Tensor], constants: list[Any], settings: Mapping[str, Any]) -> Tensor:
    padding = settings["pads"][: len(settings["pads"]) // 2]
    return functional.max_pool2d(data[0], settings["kernel_shape"], settings["strides"], padding)


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda data, constants, settings: function(*data, *constants)


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda data, constants, settings: function(data[0])


RULES: dict[str, Rule] = {
    "Add": _elementwise(torch.add),
    "BatchNormalization": _batch_norm,
    "Celu": lambda data, constants, settings: functional.celu(data[0], settings["alpha"]),
    "Concat": lambda data, constants, settings: torch.cat(data, settings["axis"]),
    "Conv": _conv,
    "Div": _elementwise(torch.div),
    "Elu": lambda data, constants, settings: functional.elu(data[0], settings["alpha"]),
    "Erf": _unary(torch.erf),
    "Flatten": _unary(lambda value: torch.flatten(value, 1)),
    "Gather": lambda data, constants, settings: torch.select(data[0], settings["axis"], constants[0]),
    "Gemm": lambda data, constants, settings: functional.linear(data[0], *constants),
    "GlobalAveragePool": _unary(lambda value: torch.mean(value, (2, 3), keepdim=True)),
    "GlobalMaxPool": _unary(lambda value: torch.amax(value, (2, 3), keepdim=True)),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda data, constants, settings: functional.leaky_relu(data[0], settings["alpha"]),
    "MaxPool": _max_pool,
    "Mul": _elementwise(torch.mul),
    "Relu": _unary(torch.relu),
    "Reshape": lambda data, constants, settings: data[0].reshape(-1, *constants[0][1:]),
    "Selu": _unary(torch.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": lambda data, constants, settings: torch.ops.aten.slice(data[0], 1, constants[0][0], constants[1][0]),
    "Softplus": _unary(functional.softplus),
    "Sub": _elementwise(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Unsqueeze": lambda data, constants, settings: torch.unsqueeze(data[0], constants[0][0]),
}
"""What each operator of a plan is in torch."""
