"""Steps of the walk from a graph's outputs to its inputs: each asks for an operator and takes it."""

from typing import Any

import numpy as np
from torch import nn

from deploy_kit.verify.structure.constants import compute
from deploy_kit.verify.structure.graph import Array, Graph, Node, StructureError
from deploy_kit.verify.structure.operators import ATTRIBUTES, float32_equal

MAX_NODES = 1000
"""The largest network that is supported has some fifty."""

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class Walk:
    """Remembers which nodes and constants have been reached.

    Args:
        graph: the graph.
        batch: its fixed batch size, None if it is dynamic.

    Raises:
        StructureError: it is too large, or a name is given twice.
    """

    def __init__(self, graph: Graph, batch: int | None) -> None:
        if len(graph.nodes) > MAX_NODES:
            raise StructureError(f"{len(graph.nodes)} operators, a policy has fewer than {MAX_NODES}")
        self.graph, self.batch = graph, batch
        self.producers = graph.producers()
        self._seen: set[int] = set()
        self._used: set[str] = set()
        self._values: dict[str, Array | None] = {}
        for node in graph.nodes:
            # In the order of running, so that no recursion is needed.
            for name in node.outputs:
                self._values[name] = None
            inputs = [name for name in node.inputs if name]
            if inputs and all(self.constant_or_none(name, use=False) is not None for name in inputs):
                self._values[node.outputs[0]] = compute(
                    node, [self.constant_or_none(name, use=False) if name else None for name in node.inputs]
                )

    def constant_or_none(self, name: str, *, use: bool = True) -> Array | None:
        """Return the value of a constant, None for data; `use` marks it, and what it was computed from, as reached."""
        value = self.graph.constants.get(name)
        if value is None:
            value = self._values.get(name)
        if value is not None and use:
            self._mark(name)
        return value

    def _mark(self, name: str) -> None:
        pending = [name]
        while pending:
            item = pending.pop()
            self._used.add(item)
            node = self.producers.get(item)
            if node is not None and id(node) not in self._seen:
                self._seen.add(id(node))
                pending.extend(filter(None, node.inputs))

    def constant(self, name: str, what: str) -> Array:
        """Return the value of a constant."""
        value = self.constant_or_none(name)
        if value is None:
            raise StructureError(f"{what} reads {name!r}, expected a constant")
        return value

    def skip(self, name: str) -> str:
        """Return the tensor that another one is a plain copy of."""
        while (node := self.producers.get(name)) is not None and node.op in ("Identity", "Dropout"):
            self.take(node, "a copy")
            name = node.inputs[0]
        return name

    def node(self, name: str, what: str) -> Node:
        """Return the node that gives a tensor, copies skipped."""
        name = self.skip(name)
        node = self.producers.get(name)
        if node is None:
            raise StructureError(f"{what} is {name!r} itself, expected an operator")
        if name != node.outputs[0]:
            raise StructureError(f"{what} is the second output of {node}")
        return node

    def data_node(self, name: str, what: str, *ops: str) -> Node:
        """Return the node that gives a tensor, which must be one of some operators."""
        node = self.node(name, what)
        if node.op not in ops:
            raise StructureError(f"{what} is {node}, expected {' or '.join(ops)}")
        self.take(node, what)
        return node

    def take(self, node: Node, what: str) -> None:
        """Mark a node as reached, and check its attributes."""
        self._seen.add(id(node))
        known = ATTRIBUTES.get(node.op)
        if known is None:
            raise StructureError(f"{what} is {node}, which is not on the list of operators")
        for name, value in node.attributes.items():
            if name not in known:
                raise StructureError(f"{what}, {node}, has the attribute {name!r}, which is not on the list")
            if not _allowed(value, known[name][1]):
                raise StructureError(f"{what}, {node}, has {name} {value}, expected {known[name][1]}")
        if node.op == "Dropout" and node.input(2) and bool(self.constant(node.input(2), what).any()):
            raise StructureError(f"{what}, {node}, drops values at random")
        if node.op == "Dropout" and node.input(1):
            self.constant(node.input(1), what)
        if node.op not in ("Split",) and any(node.outputs[1:]):
            raise StructureError(f"{what}, {node}, has {len(node.outputs)} outputs")

    def with_constant(self, name: str, op: str, what: str) -> tuple[str, Array]:
        """Return data and constant of an operator on both."""
        node = self.data_node(name, what, op)
        left, right = node.inputs
        if op in ("Add", "Mul") and self.constant_or_none(left) is not None:
            left, right = right, left
        return left, self.constant(right, f"{what}, {node},")

    def has_data_input(self, node: Node, op: str) -> bool:
        """Return whether the data that an operator on data and a constant reads is given by another operator."""
        data = [name for name in node.inputs if self.constant_or_none(name, use=False) is None]
        return len(data) == 1 and (giver := self.producers.get(self.skip(data[0]))) is not None and giver.op == op

    def linear(self, name: str, what: str) -> tuple[str, Array, Array]:
        """Return input, weight (out, in) and bias of a linear layer: Gemm, or MatMul and Add; no bias is one of 0."""
        node = self.data_node(name, what, "Gemm", "Add", "MatMul")
        bias = None
        if node.op == "Add":
            product, bias = self._split_add(node, what)
            node = self.data_node(product, what, "MatMul", "Gemm")
        weight = self.constant(node.input(1), f"{what}, {node},")
        if node.op == "Gemm" and node.input(2):
            if bias is not None:
                raise StructureError(f"{what}, {node}, has two biases")
            bias = self.constant(node.input(2), f"{what}, {node},")
        if bias is None:
            # Exporters leave out a bias whose numbers are all 0.
            bias = np.zeros(1, np.float32)
        if weight.ndim != 2:
            raise StructureError(f"{what}, {node}, has a weight of shape {weight.shape}")
        transposed = node.op == "Gemm" and node.attributes.get("transB", 0) == 1
        return node.inputs[0], weight if transposed else weight.T, bias

    def _split_add(self, node: Node, what: str) -> tuple[str, Array]:
        left, right = node.inputs
        if self.constant_or_none(left) is not None:
            left, right = right, left
        return left, self.constant(right, f"{what}, {node},")

    def convolution(self, name: str, module: nn.Conv2d, what: str) -> tuple[str, Array, Array | None]:
        """Return input, weight and bias of a convolution with the network's kernel and stride."""
        node, bias = self.node(name, what), None
        if node.op == "Add":
            self.take(node, what)
            name, bias = self._split_add(node, what)
            try:
                bias = np.broadcast_to(bias, (1, module.out_channels, 1, 1))
            except ValueError as error:
                raise StructureError(f"{what}, {node}, adds a constant of shape {bias.shape}") from error
        node = self.data_node(name, what, "Conv")
        for key, wanted in (("kernel_shape", module.kernel_size), ("strides", module.stride)):
            found = node.attributes.get(key, [1, 1] if key == "strides" else None)
            if found is not None and tuple(found) != tuple(wanted):
                raise StructureError(f"{what}, {node}, has {key} {found}, expected {list(wanted)}")
        weight = self.constant(node.input(1), f"{what}, {node},")
        if node.input(2):
            if bias is not None:
                raise StructureError(f"{what}, {node}, has two biases")
            bias = self.constant(node.input(2), f"{what}, {node},")
        return node.inputs[0], weight, bias

    def reshaped(self, name: str, shape: tuple[int, ...], what: str) -> str:
        """Return the tensor that becomes rows of this shape, by operators that keep the order within each row."""
        total, count = int(np.prod(shape)), 0
        wanted: list[int] | None = list(shape)
        while (name := self.skip(name)) in self.producers and (node := self.producers[name]).op in _RESHAPES:
            self.take(node, what)
            if node.op in ("Squeeze", "Unsqueeze"):
                wanted = self._without_axes(node, wanted, what)
            else:
                target = [0, -1] if node.op == "Flatten" else self._sizes(node.input(1), f"{what}, {node},")
                self._check_target(target, total, wanted, f"{what}, {node},", node)
                wanted = None
            name, count = node.inputs[0], count + 1
        if not count:
            raise StructureError(f"{what} is {self.producers.get(name, name)}, expected {' or '.join(_RESHAPES)}")
        return name

    def _without_axes(self, node: Node, shape: list[int] | None, what: str) -> list[int] | None:
        """Return the rows' shape before Squeeze or Unsqueeze gives `shape`; None stands for any."""
        listed = node.attributes.get("axes")
        axes = self.constant(node.input(1), what).ravel().tolist() if listed is None else list(listed)
        if not axes or any(axis < 1 for axis in axes) or len(set(axes)) != len(axes):
            raise StructureError(f"{what}, {node}, changes axes {axes}, expected axes of the row alone")
        if shape is None:
            return None
        before = list(shape)
        for axis in sorted(axes, reverse=node.op == "Unsqueeze"):
            if node.op == "Squeeze":
                before.insert(axis - 1, 1)
            elif axis > len(before) or before.pop(axis - 1) != 1:
                raise StructureError(f"{what}, {node}, does not give rows of shape {tuple(shape)}")
        return before

    def _check_target(self, target: list[Any], total: int, shape: list[int] | None, where: str, node: Node) -> None:
        first, rest = (target or [None])[0], target[1:]
        if "batch" in rest:
            raise StructureError(f"{where} reshapes to {target}, expected rows of {total} values each")
        copied = 0 in rest or (first == 0 and node.attributes.get("allowzero", 0))
        whole = -1 not in rest and int(np.prod(rest)) == total
        keeps = first in (0, "batch") or (self.batch is not None and first == self.batch) or (first == -1 and whole)
        fits = whole or rest.count(-1) == 1
        if shape is not None:
            known = [wanted if found == -1 else found for found, wanted in zip(rest, shape, strict=False)]
            fits = fits and len(rest) == len(shape) and known == shape
        if copied or not keeps or not fits:
            raise StructureError(f"{where} reshapes to {target}, expected rows of {total} values each")

    def _sizes(self, name: str, what: str) -> list[Any]:
        """Return sizes that are constants, or the batch size as the graph finds it, as "batch"."""
        value = self.constant_or_none(name)
        if value is not None:
            return [int(size) for size in value.ravel()]
        node = self.producers.get(self.skip(name))
        if node is None:
            raise StructureError(f"{what} takes its sizes from {name!r}")
        self._seen.add(id(node))
        if node.op == "Concat":
            return [size for part in node.inputs for size in self._sizes(part, what)]
        if node.op in ("Unsqueeze", "Squeeze", "Cast", "Reshape"):
            for extra in node.inputs[1:]:
                self.constant(extra, what)
            sizes = self._sizes(node.inputs[0], what)
        elif node.op in ("Gather", "Slice"):
            sizes = self._batch_of_shape(node, what)
        elif node.op == "Shape" and (node.attributes.get("start", 0), node.attributes.get("end")) == (0, 1):
            sizes = ["batch"]
        else:
            raise StructureError(f"{what} takes its sizes from {node}")
        if len(sizes) != 1:
            raise StructureError(f"{what} takes its sizes from {node}")
        return sizes

    def _batch_of_shape(self, node: Node, what: str) -> list[Any]:
        source = self.producers.get(self.skip(node.inputs[0]))
        picked = [self.constant(name, what).ravel().tolist() for name in node.inputs[1:] if name]
        wanted = [[0]] if node.op == "Gather" else [[0], [1], [0], [1]]
        if source is None or source.op != "Shape" or source.attributes or picked != wanted[: len(picked)] or not picked:
            raise StructureError(f"{what} takes its sizes from {node}")
        if node.op == "Gather" and node.attributes.get("axis", 0) != 0:
            raise StructureError(f"{what} takes its sizes from {node}")
        self._seen.add(id(source))
        return ["batch"]

    def columns(self, name: str, bounds: tuple[int, int], size: int, what: str) -> str:
        """Return the tensor of which columns [start, stop) are cut, by Slice or Split."""
        name = self.skip(name)
        node = self.producers.get(name)
        if node is None or node.op not in ("Slice", "Split"):
            raise StructureError(f"{what} is {node or repr(name)}, expected Slice or Split")
        self.take(node, what)
        if node.op == "Slice":
            starts, ends, axes, *steps = (self.constant(part, what).ravel().tolist() for part in node.inputs[1:])
            found = starts[0], min(ends[0], size)
            if any(len(part) != 1 for part in (starts, ends, axes)) or axes != [1] or steps not in ([], [[1]]):
                raise StructureError(f"{what}, {node}, cuts {starts} to {ends} of axes {axes}")
        else:
            listed = node.attributes.get("split")
            sizes = self.constant(node.input(1), what).ravel().tolist() if listed is None else list(listed)
            index = node.outputs.index(name)
            found = sum(sizes[:index]), sum(sizes[: index + 1])
            if node.attributes.get("axis", 0) != 1 or sum(sizes) != size:
                raise StructureError(f"{what}, {node}, splits into {sizes}")
        if found != bounds:
            raise StructureError(f"{what} is columns {found[0]} to {found[1]}, expected {bounds[0]} to {bounds[1]}")
        return node.inputs[0]

    def require_all_seen(self) -> None:
        """Check that nothing is left over.

        Raises:
            StructureError: a node or a constant plays no part in the policy.
        """
        for node in self.graph.nodes:
            if id(node) not in self._seen:
                raise StructureError(f"{node} is no part of the policy")
        if unused := [name for name in self.graph.constants if name not in self._used]:
            raise StructureError(f"the constant {unused[0]!r} is no part of the policy")
        if self.graph.outputs and len(set(self.graph.outputs)) != len(self.graph.outputs):
            raise StructureError("an output is named twice")


def _allowed(found: Any, wanted: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, tuple):
        return any(_allowed(found, one) for one in wanted)
    if isinstance(wanted, float):
        return float32_equal(found, wanted)
    return bool(list(found) == wanted) if isinstance(wanted, list) else bool(found == wanted)
