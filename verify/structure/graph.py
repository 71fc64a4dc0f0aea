"""A graph as plain data: nodes with ONNX's names for operators, constants as arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]


class StructureError(ValueError):
    """A graph holds something that is not on the list, or is built in another way than the network."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
        op: its name.
        inputs: names of tensors, "" for one that is left out.
        outputs: names of tensors.
        attributes: attributes by name.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> str:
        """Return the name of an input, "" if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"{self.op} that gives {self.outputs[0]!r}"


@dataclass(frozen=True)
class Graph:
    """Nodes between inputs and outputs.

    Attributes:
        inputs: names, in order.
        outputs: names, in order.
        nodes: nodes in the order of running.
        constants: weights and other constants, by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]

    def producers(self) -> dict[str, Node]:
        """Return the node that gives each tensor.

        Raises:
            StructureError: a name is given twice, so that what it means depends on the runtime.
        """
        taken = dict.fromkeys((*self.inputs, *self.constants))
        if len(taken) != len(self.inputs) + len(self.constants):
            raise StructureError("an input has the name of a constant, which would replace it where it is not fed")
        producers: dict[str, Node] = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in taken or name in producers:
                    raise StructureError(f"the tensor name {name!r} is given twice")
                producers[name] = node
        return producers


_CONSTANT_VALUES = ("value_float", "value_floats", "value_int", "value_ints")


def onnx_graph(model: onnx.ModelProto) -> Graph:
    """Return an ONNX graph as plain data; constant nodes become constants.

    Raises:
        StructureError: a name is given twice, or a constant has no usable value.
    """
    constants: dict[str, Array] = {}
    nodes: list[Node] = []

    def add(name: str, value: Array) -> None:
        if name in constants:
            raise StructureError(f"the tensor name {name!r} is given twice")
        constants[name] = value

    for tensor in model.graph.initializer:
        add(tensor.name, tensor_values(tensor))
    for proto in model.graph.node:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute}
        if len(attributes) != len(proto.attribute):
            raise StructureError(f"{proto.op_type} {proto.name or proto.output[0]} has an attribute twice")
        if proto.op_type == "Constant" and len(proto.output) == 1:
            add(proto.output[0], _constant(proto.output[0], attributes))
            continue
        if not proto.output or not proto.output[0]:
            raise StructureError(f"{proto.op_type} {proto.name} gives nothing")
        nodes.append(Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes))
    return Graph(
        tuple(value.name for value in model.graph.input),
        tuple(value.name for value in model.graph.output),
        tuple(nodes),
        constants,
    )


def tensor_values(tensor: onnx.TensorProto) -> Array:
    """Return a stored tensor's values.

    Raises:
        StructureError: it is stored elsewhere, in several places at once, or its bytes do not fit its shape.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise StructureError(f"{tensor.name} is stored in another file")
    filled = [entry.name for entry, _ in tensor.ListFields() if entry.name.endswith("_data")]
    if len(filled) > 1:
        raise StructureError(f"{tensor.name} has its values twice, in {' and '.join(filled)}")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise StructureError(f"{tensor.name} cannot be read: {error}") from error


def _constant(name: str, attributes: Mapping[str, Any]) -> Array:
    if len(attributes) == 1:
        if isinstance(value := attributes.get("value"), onnx.TensorProto):
            return tensor_values(value)
        for key in _CONSTANT_VALUES:
            if key in attributes:
                return np.array(attributes[key], np.float32 if "float" in key else np.int64)
    raise StructureError(f"the constant {name!r} has no value of a known kind")


def messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages inside it."""
    pending = [message]
    while pending:
        item = pending.pop()
        yield item
        for entry, value in item.ListFields():
            if entry.message_type is None:
                continue
            pending.extend(value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value])
