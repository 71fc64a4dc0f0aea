"""Other ways to write the same graph; each takes a model and the network, and changes the model."""

import copy

import numpy as np
import torch
from onnx import helper, numpy_helper


def node_of(model, op, index=0):
    return [node for node in model.graph.node if node.op_type == op][index]


def initialiser(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def values(model, name):
    return numpy_helper.to_array(initialiser(model, name)).copy()


def set_values(model, name, array):
    initialiser(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def insert_after(model, node, *new):
    position = list(model.graph.node).index(node) + 1
    for offset, item in enumerate(new):
        model.graph.node.insert(position + offset, item)


def rename_everything(model, network):
    keep = {value.name for value in (*model.graph.input, *model.graph.output)} | {"features"}
    for node in model.graph.node:
        node.input[:] = [name if name in keep or not name else f"t/{name}" for name in node.input]
        node.output[:] = [name if name in keep else f"t/{name}" for name in node.output]
        node.name = "n" + node.name
    for value in (*model.graph.initializer, *model.graph.value_info):
        value.name = value.name if value.name in keep else f"t/{value.name}"


def matmul_and_add(model, network):
    for node in [node for node in model.graph.node if node.op_type == "Gemm"]:
        source, weight, bias = node.input
        set_values(model, weight, values(model, weight).T)
        product = helper.make_node("MatMul", [source, weight], [f"{node.output[0]}_product"])
        total = helper.make_node("Add", [bias, product.output[0]], [node.output[0]])
        insert_after(model, node, product, total)
        model.graph.node.remove(node)


def transposed_weight(model, network):
    node = node_of(model, "Gemm", 2)
    set_values(model, node.input[1], values(model, node.input[1]).T)
    next(entry for entry in node.attribute if entry.name == "transB").i = 0


def transpose_node(model, network):
    node = node_of(model, "Gemm", 2)
    set_values(model, node.input[1], values(model, node.input[1]).T)
    transpose = helper.make_node("Transpose", [node.input[1]], ["turned"], perm=[1, 0])
    model.graph.node.insert(0, transpose)
    node.input[1] = "turned"


def default_attributes(model, network):
    for node in model.graph.node:
        kept = [entry for entry in node.attribute if entry.name in ("strides", "transB", "allowzero")]
        del node.attribute[:]
        node.attribute.extend(kept)


def flatten(model, network):
    node = node_of(model, "Reshape")
    model.graph.initializer.remove(initialiser(model, node.input[1]))
    insert_after(model, node, helper.make_node("Flatten", [node.input[0]], [node.output[0]], axis=1))
    model.graph.node.remove(node)


def reshape_by_the_batch_size(model, network):
    node = node_of(model, "Reshape")
    set_values(model, node.input[1], np.array([0]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([48]), "rest"))
    target = [
        helper.make_node("Shape", [node.input[0]], ["shape"]),
        helper.make_node("Gather", ["shape", node.input[1]], ["rows"], axis=0),
        helper.make_node("Concat", ["rows", "rest"], ["target"], axis=0),
    ]
    position = list(model.graph.node).index(node)
    for item in reversed(target):
        model.graph.node.insert(position, item)
    node.input[1] = "target"


def unfolded_batch_norm(model, network):
    for index in (0, 3):
        node = next(item for item in model.graph.node if f"stem.{index}.weight" in item.input)
        norm = network.stem[index + 1]
        set_values(model, f"stem.{index}.weight", network.stem[index].weight.numpy())
        model.graph.initializer.remove(initialiser(model, f"stem.{index}.bias"))
        parts = {"g": norm.weight, "b": norm.bias, "m": norm.running_mean, "v": norm.running_var}
        for key, tensor in parts.items():
            model.graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), f"{key}{index}"))
        inputs = [f"raw{index}", *(f"{key}{index}" for key in parts)]
        after = helper.make_node("BatchNormalization", inputs, [node.output[0]], epsilon=norm.eps)
        del node.input[2:]
        node.output[0] = f"raw{index}"
        insert_after(model, node, after)


def elementary_batch_norm(steps):
    """A batch norm as other exporters and simplifiers write it, in `steps` operators."""

    def change(model, network):
        for index in (0, 3):
            norm = network.stem[index + 1]
            mean, var = norm.running_mean.double(), norm.running_var.double()
            std = torch.sqrt(var + norm.eps)
            scale = norm.weight.double() / std
            parts = {
                2: [("Mul", scale), ("Add", norm.bias.double() - mean * scale)],
                3: [("Sub", mean), ("Mul", scale), ("Add", norm.bias)],
                4: [("Sub", mean), ("Div", std), ("Mul", norm.weight), ("Add", norm.bias)],
                5: [("Sub", mean), ("Mul", 1 / std), ("Mul", norm.weight), ("Add", norm.bias)],
            }[steps]
            node = next(item for item in model.graph.node if f"stem.{index}.weight" in item.input)
            set_values(model, f"stem.{index}.weight", network.stem[index].weight.numpy())
            model.graph.initializer.remove(initialiser(model, f"stem.{index}.bias"))
            del node.input[2:]
            names = [f"raw{index}", *(f"step{index}_{number}" for number in range(len(parts) - 1)), node.output[0]]
            node.output[0] = names[0]
            new = []
            for number, (op, tensor) in enumerate(parts):
                constant = tensor.detach().float().numpy().reshape(-1, 1, 1)
                model.graph.initializer.append(numpy_helper.from_array(constant, f"part{index}_{number}"))
                new.append(helper.make_node(op, [names[number], f"part{index}_{number}"], [names[number + 1]]))
            insert_after(model, node, *new)

    change.__name__ = f"batch_norm_of_{steps}_operators"
    return change


ELEMENTARY = [elementary_batch_norm(steps) for steps in (2, 3, 4, 5)]


def normaliser_by_the_inverse(model, network):
    for node in [node for node in model.graph.node if node.op_type == "Div"]:
        set_values(model, node.input[1], np.float32(1.0) / values(model, node.input[1]))
        node.op_type = "Mul"


def folded_in_float32(model, network):
    for index in (0, 3):
        norm = network.stem[index + 1]
        fused = torch.nn.utils.fusion.fuse_conv_bn_eval(copy.deepcopy(network.stem[index]), copy.deepcopy(norm))
        set_values(model, f"stem.{index}.weight", fused.weight.detach().numpy())
        set_values(model, f"stem.{index}.bias", fused.bias.detach().numpy())


def weights_in_constant_nodes(model, network):
    for tensor in list(model.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
        model.graph.initializer.remove(tensor)


def identities(model, network):
    node = node_of(model, "Gemm", 3)
    copy_node = helper.make_node("Identity", [node.input[0]], ["copied"])
    model.graph.node.insert(list(model.graph.node).index(node), copy_node)
    node.input[0] = "copied"


def foreign_metadata(model, network):
    model.producer_name, model.doc_string = "another exporter", "notes"
    model.metadata_props.add(key="author", value="someone")


EQUIVALENT = {
    rename_everything: "inner tensors and nodes renamed",
    matmul_and_add: "Gemm as MatMul and Add",
    transposed_weight: "a weight transposed",
    transpose_node: "a weight behind a Transpose node",
    default_attributes: "attributes left out where they have their default",
    flatten: "Flatten for Reshape",
    reshape_by_the_batch_size: "Reshape to a batch size that the graph computes",
    unfolded_batch_norm: "batch norms not folded",
    folded_in_float32: "batch norms folded in float32",
    **{
        change: f"batch norms as {steps} elementary operators"
        for change, steps in zip(ELEMENTARY, (2, 3, 4, 5), strict=True)
    },
    normaliser_by_the_inverse: "normaliser as a multiplication by the inverse",
    weights_in_constant_nodes: "weights in Constant nodes",
    identities: "an Identity in between",
    foreign_metadata: "another producer, notes and metadata",
}
"""Each with what it does, in words."""
