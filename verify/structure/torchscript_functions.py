"""Functions of torch that a TorchScript policy may call, and what they are among ONNX's operators."""

from typing import Any

from deploy_kit.verify.structure.graph import StructureError

Rule = tuple[str, dict[str, Any], list[Any]]
"""(operator, attributes, further inputs)."""


def _plain(op: str, *fixed: tuple[Any, ...]) -> Any:
    """Return a rule without attributes; further arguments must be one of the given tuples."""

    def rule(*settings: Any) -> Rule:
        assert settings in ((), *fixed)
        return op, {}, []

    return rule


def _with_alpha(op: str, default: float) -> Any:
    def rule(alpha: float = default, scale: float = 1.0, input_scale: float = 1.0) -> Rule:
        assert scale == input_scale == 1
        return op, {"alpha": float(alpha)}, []

    return rule


def _convolution(
    stride: list[int], padding: list[int], dilation: list[int], transposed: bool, output: list[int], groups: int,
    *flags: bool,
) -> Rule:  # fmt: skip
    assert transposed is False
    assert output == [0, 0]
    assert all(isinstance(flag, bool) for flag in flags)
    return _conv2d(stride, padding, dilation, groups)


def _conv2d(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Rule:
    attributes = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    return "Conv", attributes, []


def _batch_norm(training: bool, momentum: float, eps: float, cudnn: bool) -> Rule:
    if training is not False:
        raise StructureError("a batch norm is in training mode")
    return "BatchNormalization", {"epsilon": eps, "momentum": momentum}, []


def _flatten(start: int, end: int = -1) -> Rule:
    assert (start, end) == (1, -1)
    return "Flatten", {"axis": 1}, []


def _slice(axis: int, start: int, end: int, step: int = 1) -> Rule:
    if axis == 0 and start == 0 and end == 2**63 - 1 and step == 1:
        return "Identity", {}, []
    return "Slice", {}, [[start], [end], [axis], [step]]


def _reshape(target: list[int]) -> Rule:
    assert all(type(size) is int for size in target)
    return "Reshape", {"allowzero": 1}, [target]


def _concat(axis: int = 0) -> Rule:
    return "Concat", {"axis": axis}, []


def _select(axis: int, index: int) -> Rule:
    assert type(index) is int
    return "Gather", {"axis": axis}, [index]


def _unsqueeze(axis: int) -> Rule:
    return "Unsqueeze", {}, [[axis]]


def _layer_norm(shape: list[int], eps: float = 1e-5, cudnn: bool = True) -> Rule:
    assert isinstance(cudnn, bool)
    return "LayerNormalization", {"axis": -len(shape), "epsilon": eps}, []


def _max_pool(kernel: list[int], stride: list[int], padding: list[int]) -> Rule:
    return "MaxPool", {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding]}, []


def _over_image(op: str) -> Any:
    def rule(axes: list[int], keep: bool) -> Rule:
        assert axes == [2, 3]
        assert keep is True
        return op, {}, []

    return rule


FUNCTIONS: dict[str, tuple[int, Any]] = {
    "_convolution": (3, _convolution),
    "conv2d": (3, _conv2d),
    "batch_norm": (5, _batch_norm),
    "layer_norm": (3, _layer_norm),
    "max_pool2d": (1, _max_pool),
    "mean": (1, _over_image("GlobalAveragePool")),
    "amax": (1, _over_image("GlobalMaxPool")),
    "cat": (0, _concat),
    "select": (1, _select),
    "unsqueeze": (1, _unsqueeze),
    "erf": (1, _plain("Erf")),
    "linear": (3, lambda: ("Gemm", {"transB": 1}, [])),
    "flatten": (1, _flatten),
    "reshape": (1, _reshape),
    "view": (1, _reshape),
    "slice": (1, _slice),
    "add": (2, _plain("Add", (1,))),
    "sub": (2, _plain("Sub", (1,))),
    "mul": (2, _plain("Mul")),
    "div": (2, _plain("Div")),
    "celu": (1, _with_alpha("Celu", 1.0)),
    "elu": (1, _with_alpha("Elu", 1.0)),
    "leaky_relu": (1, _with_alpha("LeakyRelu", 0.01)),
    "gelu": (1, _plain("Gelu")),
    "mish": (1, _plain("Mish")),
    "relu": (1, _plain("Relu")),
    "selu": (1, _plain("Selu")),
    "sigmoid": (1, _plain("Sigmoid")),
    "silu": (1, _plain("Swish")),
    "softplus": (1, _plain("Softplus", (1, 20))),
    "tanh": (1, _plain("Tanh")),
}
"""Functions of torch on the list: how many tensors each takes first, and what it is among ONNX's operators."""
