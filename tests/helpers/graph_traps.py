"""Ways to corrupt an ONNX graph; each takes a model and changes it."""

import numpy as np
from onnx import helper

from helpers.mutations import add_constants, splice_input, splice_output


def swap_gate_and_thrust(model):
    first, rest = add_constants(model, np.array([0]), np.array([1, 2, 3]))
    for node in model.graph.node:
        node.output[:] = [f"{name}_raw" if name in ("action", "gate_logit") else name for name in node.output]
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["action_raw", first], ["gate_logit"], axis=1),
            helper.make_node("Gather", ["action_raw", rest], ["action_rest"], axis=1),
            helper.make_node("Concat", ["gate_logit_raw", "action_rest"], ["action"], axis=1),
        ]
    )


def swap_two_actions(model):
    order = add_constants(model, np.array([0, 2, 1, 3]))
    splice_output(model, "action", lambda raw, out: [helper.make_node("Gather", [raw, *order], [out], axis=1)])


def shift_image_by_a_row(model):
    splice_input(model, "depth", "Gather", np.r_[1:24, 23], axis=2)


def change_state_order(model):
    splice_input(model, "state", "Gather", np.r_[3:6, 0:3, 6:16], axis=1)


def drop_normaliser(model):
    for node in model.graph.node:
        if node.op_type in ("Sub", "Div"):
            node.op_type = "Identity"
            del node.input[1:]


def negate_logit(model):
    splice_output(model, "gate_logit", lambda raw, out: [helper.make_node("Neg", [raw], [out])])


def probability_instead_of_logit(model):
    splice_output(model, "gate_logit", lambda raw, out: [helper.make_node("Sigmoid", [raw], [out])])


def nan_where_large(model):
    """NaN for the largest actions only: sqrt(8 - a²) - sqrt(8 - a²) + a."""
    (bound,) = add_constants(model, np.array(8.0, np.float32))
    splice_output(
        model,
        "action",
        lambda raw, out: [
            helper.make_node("Mul", [raw, raw], ["square"]),
            helper.make_node("Sub", [bound, "square"], ["inside"]),
            helper.make_node("Sqrt", ["inside"], ["root"]),
            helper.make_node("Sub", ["root", "root"], ["zero"]),
            helper.make_node("Add", [raw, "zero"], [out]),
        ],
    )


def all_nan(model):
    (nan,) = add_constants(model, np.array(-1.0, np.float32))
    splice_output(
        model,
        "action",
        lambda raw, out: [
            helper.make_node("Sqrt", [nan], ["nan"]),
            helper.make_node("Add", [raw, "nan"], [out]),
        ],
    )


def couple_rows(model):
    """What a batch norm in training mode does, without being one: the batch's mean leaks into each row."""
    (share,) = add_constants(model, np.array(1e-3, np.float32))
    splice_output(
        model,
        "gate_logit",
        lambda raw, out: [
            helper.make_node("ReduceMean", [raw], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", share], ["leak"]),
            helper.make_node("Add", [raw, "leak"], [out]),
        ],
    )


def bake_batch_of_two(model):
    splice_input(model, "features", "Reshape", np.array([2, 24], np.int64))


def flush_denormals_of_state(model):
    """A clamp as fp16 conversions add one: magnitudes above 1e4 are lost."""
    low, high = add_constants(model, np.array(-1e4, np.float32), np.array(1e4, np.float32))
    for node in model.graph.node:
        node.input[:] = ["state_changed" if name == "state" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Clip", ["state", low, high], ["state_changed"]))


def train_mode_batch_norm(model):
    channels = 4
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    names = add_constants(model, ones, zeros, zeros, ones)
    tensor = convolution.output[0]
    for node in model.graph.node:
        node.input[:] = ["normed" if name == tensor else name for name in node.input]
    position = list(model.graph.node).index(convolution) + 1
    node = helper.make_node("BatchNormalization", [tensor, *names], ["normed", "mean_out", "var_out"], training_mode=1)
    model.graph.node.insert(position, node)


def permute_features(model):
    splice_input(model, "features", "Gather", np.roll(np.arange(24), 1), axis=1)


def double_features(model):
    """The outputs are right, but the tensor named features is not what the head was trained on."""
    splice_input(model, "features", "Mul", np.float32(0.5))
    position = next(i for i, node in enumerate(model.graph.node) if "features" in node.output)
    model.graph.node[position].output[0] = "features_raw"
    double = helper.make_node("Mul", ["features_raw", *add_constants(model, np.float32(2.0))], ["features"])
    model.graph.node.insert(position + 1, double)


def swap_output_names(model):
    names = {"action": "gate_logit", "gate_logit": "action"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.name = names[value.name]


def rename_features(model):
    for node in model.graph.node:
        node.input[:] = ["hidden" if name == "features" else name for name in node.input]
        node.output[:] = ["hidden" if name == "features" else name for name in node.output]
    for value in model.graph.value_info:
        value.name = "hidden" if value.name == "features" else value.name


def bypass_features(model):
    """An output that sees the input beside the features."""
    (index,) = add_constants(model, np.array([0]))
    splice_output(
        model,
        "gate_logit",
        lambda raw, out: [
            helper.make_node("Gather", ["state", index], ["first"], axis=1),
            helper.make_node("Add", [raw, "first"], [out]),
        ],
    )


def fix_batch(model):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def claim_other_opset(model):
    model.opset_import[0].version = 17


def use_foreign_operator(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 18))


def place_on_a_device(model):
    """A node that is to run elsewhere."""
    model.graph.node[0].device_configurations.add().configuration_id = "elsewhere"


def denote_image(model):
    """An input that some runtimes take for an image, and convert."""
    model.graph.input[1].type.denotation = "IMAGE"


def shrink_a_product(model):
    """A factor that is one unit in the last place below 1."""
    node = next(node for node in model.graph.node if node.output[0] == "action")
    for entry in [entry for entry in node.attribute if entry.name == "alpha"]:
        node.attribute.remove(entry)
    node.attribute.append(helper.make_attribute("alpha", float(np.nextafter(np.float32(1), np.float32(0)))))
