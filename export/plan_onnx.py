"""Write the plan of any policy as one self-contained ONNX file: one operator a layer, with the checkpoint's weights."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deploy_kit import __version__
from deploy_kit.bundle.contract_fields import TensorSpec
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import OptionError
from deploy_kit.export.options import MAX_OPSET
from deploy_kit.policy.plan import Layer, Plan

MIN_PLAN_OPSET = 13
"""Sizes and axes are inputs of their operators from here on."""

_LAYER_NORM_OPSET = 17


def plan_model(
    plan: Plan, head: nn.Linear | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], opset: int
) -> onnx.ModelProto:
    """Return the ONNX model of a plan.

    Args:
        plan: the policy's.
        head: reads the features; None for a graph without its logit.
        inputs: the graph's inputs, in the plan's order.
        outputs: its outputs: actions, the head's logit where there is a head, and the next state.
        opset: version of the default operator set.

    Raises:
        OptionError: the opset cannot be written, or an operator does not exist there.
    """
    least = _LAYER_NORM_OPSET if "LayerNormalization" in plan.operators else MIN_PLAN_OPSET
    if not least <= opset <= MAX_OPSET:
        raise OptionError(f"--opset {opset}: for this policy opsets {least} to {MAX_OPSET} are written")
    graph = _Graph(dict(zip(plan.inputs, (spec.name for spec in inputs), strict=True)))
    given = [plan.actions, *([] if head is None else ["head"]), *plan.state]
    names = dict(zip(given, (spec.name for spec in outputs), strict=True))
    features = plan.features
    if features in plan.inputs or features in names:
        graph.node("Identity", (graph.names.get(features, features),), FEATURES_TENSOR, {})
        graph.names.setdefault("features", FEATURES_TENSOR)
    else:
        graph.names[features] = FEATURES_TENSOR
    for value, name in names.items():
        graph.names[value] = name
    for layer in plan.layers:
        graph.add(layer)
    if head is not None:
        constants = {"weight": head.weight, "bias": head.bias}
        source = graph.names.get(features, features)
        graph.add(Layer("Gemm", (source,), "head", "head", constants, {"transB": 1}))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [_value(spec) for spec in inputs],
            [_value(spec) for spec in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name, model.producer_version = "deploy-kit", __version__
    return model


class _Graph:
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken: set[str] = set()

    def add(self, layer: Layer) -> None:
        constants = [
            self.constant(f"{layer.name}.{key}", tensor.detach().cpu().numpy())
            for key, tensor in layer.constants.items()
        ]
        inputs = [*(self.names.get(name, name) for name in layer.inputs), *constants]
        self.node(layer.op, tuple(inputs), self.names.get(layer.output, layer.output), dict(layer.settings))

    def node(self, op: str, inputs: tuple[str, ...], output: str, settings: dict[str, object]) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), [output], **settings))

    def constant(self, name: str, value: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
        name = "".join(character if character.isalnum() or character in "._" else "_" for character in name)
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), unique))
        return unique


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape))
