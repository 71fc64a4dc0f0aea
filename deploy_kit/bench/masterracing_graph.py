"""The bundle's network in the form that MasterRacing's export gives it, for comparison.

Opset 11; state and image are put together to one observation (Reshape, Concat) and taken apart again (Slice, Slice,
Reshape) before the network reads them; the gate head's output goes through a Sigmoid.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import InputLayout
from deploy_kit.errors import OptionError
from deploy_kit.export.onnx_writer import convert_opset
from deploy_kit.export.options import NATIVE_OPSET

OPSET = 11


def masterracing_graph(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Return a graph of the same weights, inputs and arithmetic in MasterRacing's form.

    Args:
        model: the bundle's graph.
        contract: the bundle's; its layout must be the split one.

    Raises:
        OptionError: the bundle's graph cannot be put into this form.
    """
    if contract.observation.layout is not InputLayout.SPLIT:
        raise OptionError("MasterRacing's form has two inputs, this bundle's graph has one")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") not in (OPSET, NATIVE_OPSET):
        raise OptionError(f"MasterRacing's form is made of opset {NATIVE_OPSET}, this bundle's graph has {versions}")
    formed = onnx.ModelProto()
    formed.CopyFrom(model)
    if versions[""] != OPSET:
        formed = convert_opset(formed, OPSET)
    graph, spec = formed.graph, contract.observation
    state, depth = contract.input("state").name, contract.input("depth").name
    for node in graph.node:
        node.input[:] = [{state: "cut_state", depth: "cut_depth"}.get(name, name) for name in node.input]
    split, size = spec.state_size, spec.state_size + spec.depth.rows * spec.depth.columns
    constants = {
        "flat_shape": [0, -1],
        "image_shape": [-1, 1, spec.depth.rows, spec.depth.columns],
        "start_of_state": [0],
        "start_of_image": [split],
        "end_of_image": [size],
        "columns": [1],
    }
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items())
    before = [
        helper.make_node("Reshape", [depth, "flat_shape"], ["flat_depth"]),
        helper.make_node("Concat", [state, "flat_depth"], ["observation_of_both"], axis=1),
        helper.make_node(
            "Slice", ["observation_of_both", "start_of_state", "start_of_image", "columns"], ["cut_state"]
        ),
        helper.make_node("Slice", ["observation_of_both", "start_of_image", "end_of_image", "columns"], ["cut_image"]),
        helper.make_node("Reshape", ["cut_image", "image_shape"], ["cut_depth"]),
    ]
    after = []
    logit = next((spec.name for spec in contract.outputs if spec.role == "gate_logit"), None)
    if logit is not None:
        for node in graph.node:
            node.output[:] = ["logit_before" if name == logit else name for name in node.output]
        after.append(helper.make_node("Sigmoid", ["logit_before"], [logit]))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    formed.ClearField("metadata_props")
    onnx.checker.check_model(formed)
    return formed
