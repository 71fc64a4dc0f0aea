"""Values of constants, computed through the few operators that exporters put between a weight and its use."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deploy_kit.verify.structure.graph import Array, Node, StructureError

MAX_ELEMENTS = 1 << 26
"""Largest constant that is computed; the networks' largest weight has 2 million values."""

_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}
"""ONNX's numbers of the types that a constant may be cast to."""


def compute(node: Node, values: list[Array | None]) -> Array:
    """Return what an operator makes of constants.

    Raises:
        StructureError: the operator is not on the list, has an unknown attribute, or its inputs do not fit.
    """
    if node.op not in FOLDED:
        raise StructureError(f"{node} works on constants, which is not on the list")
    rule, known = FOLDED[node.op]
    if unknown := set(node.attributes) - known:
        raise StructureError(f"{node} has the attribute {min(unknown)!r}, which is not on the list")
    sizes = [1 if value is None else max(1, value.size) for value in values]
    if sum(sizes) > MAX_ELEMENTS or (node.op in _BROADCAST and np.prod([float(size) for size in sizes]) > MAX_ELEMENTS):
        raise StructureError(f"{node} gives a constant of more than {MAX_ELEMENTS} values")
    try:
        with np.errstate(all="ignore"):
            return np.asarray(rule(node, values))
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        raise StructureError(f"{node} cannot be computed: {error}") from error


def _axes(node: Node, values: list[Any]) -> tuple[int, ...]:
    listed = node.attributes.get("axes")
    return tuple(int(axis) for axis in (values[1].ravel() if listed is None else listed))


def _reshape(node: Node, values: list[Any]) -> Array:
    data, target = values
    keep = node.attributes.get("allowzero", 0) == 0
    return np.reshape(
        data, [data.shape[i] if size == 0 and keep else int(size) for i, size in enumerate(target.tolist())]
    )


def _slice(node: Node, values: list[Any]) -> Array:
    data, starts, ends, *rest = values
    axes = rest[0] if rest and rest[0] is not None else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else np.ones(len(starts), int)
    index: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        if step != 1:
            raise ValueError("only steps of 1 are on the list")
        index[axis] = slice(start, end)
    return data[tuple(index)]  # type: ignore[no-any-return] # an array's slice


def _same_type(function: Callable[..., Any]) -> Callable[[Node, list[Any]], Array]:
    def rule(node: Node, values: list[Any]) -> Array:
        left, right = values
        if left.dtype != right.dtype:
            raise ValueError(f"types {left.dtype} and {right.dtype} differ")
        return np.asarray(function(left, right)).astype(left.dtype)

    return rule


_BROADCAST = ("Add", "Sub", "Mul", "Div")

FOLDED: dict[str, tuple[Callable[[Node, list[Any]], Any], set[str]]] = {
    "Identity": (lambda node, values: values[0], set()),
    "Transpose": (lambda node, values: np.transpose(values[0], node.attributes.get("perm")), {"perm"}),
    "Reshape": (_reshape, {"allowzero"}),
    "Squeeze": (lambda node, values: np.squeeze(values[0], _axes(node, values)), {"axes"}),
    "Unsqueeze": (lambda node, values: np.expand_dims(values[0], _axes(node, values)), {"axes"}),
    "Concat": (lambda node, values: np.concatenate(values, node.attributes["axis"]), {"axis"}),
    "Slice": (_slice, set()),
    "Cast": (lambda node, values: values[0].astype(_CASTS[node.attributes["to"]]), {"to", "saturate"}),
    "Add": (_same_type(np.add), set()),
    "Sub": (_same_type(np.subtract), set()),
    "Mul": (_same_type(np.multiply), set()),
    "Div": (_same_type(np.divide), set()),
}
"""Operators on constants, each with its rule and the attributes that it may have."""
