"""Variants of a bundle's graph in narrower arithmetic: each follows from the graph and a few stated numbers alone.

- `fp16`: every weight rounded to float16 once, all arithmetic in float16; inputs and outputs stay float32.
- `int8`: the weights of the large linear layers as int8, one scale a row (the row's largest size over 127, zero point
  0); what such a layer reads as uint8, with a scale and a zero point that calibration found; everything else stays
  float32. Standard operators alone (QuantizeLinear, DequantizeLinear), so any runtime reads it.

Who judges a variant makes it anew from the proven graph, with the numbers that the variant states, and compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_kit.bundle.reader import FP16_NAME, INT8_NAME
from deploy_kit.errors import CheckFailedError

VARIANTS = {"fp16": FP16_NAME, "int8": INT8_NAME}
"""File of each variant; its name is that of the profile that judges it, too."""

VARIANT_ENGINES = {f"onnxruntime-{kind}": kind for kind in VARIANTS}
"""Variant that each of the onboard runner's engines flies."""

LARGE = 0.25
"""Share of all weights from which a linear layer is quantised: small ones cost accuracy and save nothing."""

INT8_OPSET = 13
"""First opset whose DequantizeLinear has a scale for each output."""

_LARGEST_HALF = float(np.finfo(np.float16).max)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Range:
    """How a layer's input is quantised: `real = scale * (stored - zero_point)`, stored in uint8.

    Attributes:
        scale: step between two stored numbers.
        zero_point: stored number of 0.
    """

    scale: float
    zero_point: int

    @classmethod
    def spanning(cls, low: float, high: float) -> "Range":
        """Return the range that holds all of [low, high] and 0 exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max(high - low, 1e-12) / 255))
        return cls(scale, round(-low / scale))


def large_layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the linear layers that the variant int8 quantises, by the name of the tensor that each reads."""
    sizes = {tensor.name: int(np.prod(tensor.dims, dtype=np.int64)) for tensor in model.graph.initializer}
    total = sum(sizes.values())
    return {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type == "Gemm" and sizes.get(node.input[1], 0) >= LARGE * total
    }


def int8_variant(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the graph with its large linear layers quantised.

    Args:
        model: the graph, in float32.
        ranges: of what each large layer reads, by the name of that tensor.

    Raises:
        CheckFailedError: there is no large layer, or a range is missing or no usable one.
    """
    layers = large_layers(model)
    if not layers:
        raise CheckFailedError(f"int8: no linear layer has {LARGE:.0%} of the weights; this policy gains nothing by it")
    if (opset := max(entry.version for entry in model.opset_import)) < INT8_OPSET:
        raise CheckFailedError(f"int8: opset {opset} has no scale for each output; export with --opset {INT8_OPSET}")
    if set(ranges) != set(layers):
        raise CheckFailedError(f"int8: ranges are stated for {sorted(ranges)}, needed for {sorted(layers)}")
    variant = onnx.ModelProto()
    variant.CopyFrom(model)
    graph = variant.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if source not in layers or layers[source].output[0] != node.output[0]:
            nodes.append(node)
            continue
        found = ranges[source]
        if not (0 < found.scale < np.inf and 0 <= found.zero_point <= 255):
            raise CheckFailedError(f"int8: the range of {source!r} is {found}")
        name = node.input[1]
        stored, scales, axis = quantised_weight(weights[name], _rows_axis(node))
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(found.scale, np.float32), f"{source}.scale"),
                numpy_helper.from_array(np.array(found.zero_point, np.uint8), f"{source}.zero_point"),
                numpy_helper.from_array(stored, f"{name}.int8"),
                numpy_helper.from_array(scales, f"{name}.scale"),
                numpy_helper.from_array(np.zeros(scales.shape, np.int8), f"{name}.zero_point"),
            ]
        )
        read, weight = f"{source}.dequantised", f"{name}.dequantised"
        quantiser = [f"{source}.scale", f"{source}.zero_point"]
        nodes += [
            helper.make_node("QuantizeLinear", [source, *quantiser], [f"{source}.quantised"]),
            helper.make_node("DequantizeLinear", [f"{source}.quantised", *quantiser], [read]),
            helper.make_node(
                "DequantizeLinear", [f"{name}.int8", f"{name}.scale", f"{name}.zero_point"], [weight], axis=axis
            ),
        ]
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        layer.input[0], layer.input[1] = read, weight
        if len(node.input) > 2:
            layer.input[2] = _quantised_bias(graph, nodes, node.input[2], np.float32(found.scale) * scales)
        nodes.append(layer)
    del graph.node[:]
    graph.node.extend(nodes)
    return variant


def _quantised_bias(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, scales: Float32) -> str:
    """Put a layer's bias into int32 in the steps of its products, and return what gives it back."""
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).astype(np.float64)
    stored = np.clip(np.rint(values / scales.astype(np.float64)), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    graph.initializer.remove(tensor)
    graph.initializer.extend(
        [
            numpy_helper.from_array(stored, f"{name}.int32"),
            numpy_helper.from_array(scales, f"{name}.scale"),
            numpy_helper.from_array(np.zeros(scales.shape, np.int32), f"{name}.zero_point"),
        ]
    )
    read = f"{name}.dequantised"
    inputs = [f"{name}.int32", f"{name}.scale", f"{name}.zero_point"]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [read], axis=0))
    return read


def _rows_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that counts its outputs."""
    return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1


def quantised_weight(tensor: onnx.TensorProto, axis: int) -> tuple[npt.NDArray[np.int8], Float32, int]:
    """Return a weight as int8 with one scale for each output, and the axis of the outputs."""
    values = numpy_helper.to_array(tensor).astype(np.float64)
    largest = np.abs(values).max(axis=1 - axis)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    spread = scales.astype(np.float64)[:, None] if axis == 0 else scales.astype(np.float64)[None, :]
    stored = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
    return stored, scales, axis


def stated_ranges(variant: onnx.ModelProto, model: onnx.ModelProto) -> dict[str, Range]:
    """Return the ranges that a variant states for the large layers of a graph; one that it lacks is left out."""
    constants = {tensor.name: tensor for tensor in variant.graph.initializer}
    found = {}
    for source in large_layers(model):
        scale, zero_point = (constants.get(f"{source}.{part}") for part in ("scale", "zero_point"))
        if scale is None or zero_point is None:
            continue
        values = numpy_helper.to_array(scale), numpy_helper.to_array(zero_point)
        if all(value.ndim == 0 for value in values):
            found[source] = Range(float(values[0]), int(values[1]))
    return found


def fp16_variant(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in float16 between its inputs and outputs.

    Raises:
        CheckFailedError: a weight is too large for float16.
    """
    variant = onnx.ModelProto()
    variant.CopyFrom(model)
    graph = variant.graph
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.all(np.abs(values) <= _LARGEST_HALF):
            raise CheckFailedError(f"fp16: {tensor.name} holds {np.abs(values).max():g}, beyond float16")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    inputs, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    inside = {name: f"{name}.half" for name in (*inputs, *outputs)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    before = [helper.make_node("Cast", [name], [inside[name]], to=TensorProto.FLOAT16) for name in inputs]
    after = [helper.make_node("Cast", [inside[name]], [name], to=TensorProto.FLOAT) for name in outputs]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return variant
