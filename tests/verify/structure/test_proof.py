"""The proof for all inputs: what our exporter and others write passes, whatever else is refused by name."""

import copy
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.onnx_writer import build_onnx
from deploy_kit.export.torchscript import write_torchscript
from deploy_kit.policy.network import ACTIVATIONS
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.structure.graph import onnx_graph
from deploy_kit.verify.structure.onnx_file import graph_checks, is_runnable
from deploy_kit.verify.structure.proof import prove
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from helpers.equivalent_graphs import (
    ELEMENTARY,
    EQUIVALENT,
    initialiser,
    insert_after,
    node_of,
    normaliser_by_the_inverse,
    set_values,
    values,
)
from helpers.networks import small_network

TRANSFORM = ActionTransform((14.7, 6.0, 6.0, 6.0), (14.7, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def bundle(run):
    return open_bundle(run.bundle)


@pytest.fixture
def model(bundle):
    return onnx.load(bundle.onnx_path)


def problems(model, bundle, run):
    checks = graph_checks(model, bundle.contract, run.network, TRANSFORM)
    return [problem for check in checks if check.name in ("onnx/operators", "onnx/proof") for problem in check.problems]


def shaped(contract, options, names):
    """The contract as it would be for these options."""
    batch = options.batch_size or "batch"
    inputs = tuple(replace(contract.inputs[0], name=name, shape=(batch,)) for name in names)
    return replace(
        contract,
        inputs=inputs,
        action=replace(contract.action, inside_graph=options.transform is not None),
        gate=replace(contract.gate, output=options.gate_output),
        observation=replace(contract.observation, layout=options.layout),
    )


KINDS = {
    **{name: ({"activation": name}, {}) for name in ACTIVATIONS},
    "no normaliser": ({"normalizer_eps": None}, {}),
    "commands and probability": ({}, {"transform": TRANSFORM, "gate_output": GateOutput.PROBABILITY}),
    "flat": ({}, {"layout": InputLayout.FLAT}),
    "flat, batch 3": ({}, {"layout": InputLayout.FLAT, "batch_size": 3}),
    "batch 1": ({}, {"batch_size": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_export_writes_is_proven(bundle, kind, tmp_path):
    network, asked = KINDS[kind]
    network = small_network(3, **network)
    options = GraphOptions(**{"gate_output": GateOutput.LOGIT, **asked})
    policy = DeployedPolicy(network, options)
    names = ("obs",) if options.layout is InputLayout.FLAT else ("state", "depth")
    contract = shaped(bundle.contract, options, names)
    write_torchscript(policy, tmp_path / "policy.pt")
    graphs = [read_torchscript((tmp_path / "policy.pt").read_bytes()).graph]
    graphs += [onnx_graph(build_onnx(policy, names, ("action", "gate"), opset)) for opset in (18, 21)]
    for graph in graphs:
        proven = prove(graph, contract, network, TRANSFORM)
        assert proven.problems == ()
        assert proven.weights >= 16
    other = small_network(4, **KINDS[kind][0])
    for graph in graphs:
        # Every weight of another network is named, but for constants that both share.
        assert len(prove(graph, contract, other, TRANSFORM).problems) >= 16


def test_biases_of_zero_may_be_left_out(bundle):
    """Exporters drop them; a policy whose batch norms were never trained folds to such biases."""
    network = small_network(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
    network.actor[0].bias.data.zero_()
    options = GraphOptions(gate_output=GateOutput.LOGIT)
    model = build_onnx(DeployedPolicy(network, options), ("state", "depth"), ("action", "gate"), 18)
    assert any(node.op_type == "Conv" and len(node.input) == 2 for node in model.graph.node)
    contract = shaped(bundle.contract, options, ("state", "depth"))
    assert prove(onnx_graph(model), contract, network, TRANSFORM).problems == ()


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_a_bias_that_is_not_zero_may_not_be_left_out(bundle, run, model, op):
    node = node_of(model, op)
    model.graph.initializer.remove(initialiser(model, node.input[2]))
    del node.input[2]
    assert any("bias" in problem and "differs in" in problem for problem in problems(model, bundle, run))


# Harmless: other exporters' graphs


@pytest.mark.parametrize("change", EQUIVALENT, ids=lambda change: change.__name__)
def test_equivalent_graph_is_proven(bundle, run, model, change):
    change(model, run.network)
    onnx.checker.check_model(model, full_check=True)
    assert problems(model, bundle, run) == []


def test_a_graph_whose_tensors_grow_is_not_run(bundle, model):
    """Two small constants, broadcast against each other, would take 40 GB."""
    assert is_runnable(model)
    for name, shape in (("row", (1, 100_000)), ("column", (100_000, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.node.append(helper.make_node("Add", ["row", "column"], ["large"]))
    assert not is_runnable(model)


def test_a_graph_of_unknown_sizes_is_not_run(bundle, model):
    model.graph.node.append(helper.make_node("Reshape", ["state", "somewhere"], ["shaped"]))
    model.graph.node.append(helper.make_node("Relu", ["shaped"], ["after"]))
    assert not is_runnable(model)


# Forged


def next_float(model, name, ulps=1):
    array = values(model, name)
    flat = array.reshape(-1)
    for _ in range(ulps):
        flat[0] = np.nextafter(flat[0], np.float32(np.inf))
    set_values(model, name, array)


def attribute(model, op, name, value):
    node = node_of(model, op)
    for entry in [entry for entry in node.attribute if entry.name == name]:
        node.attribute.remove(entry)
    node.attribute.append(helper.make_attribute(name, value))


def sub_graph(model):
    body = helper.make_graph([helper.make_node("Identity", ["features"], ["i"])], "b", [], [])
    node = node_of(model, "Gemm", 2)
    node.attribute.append(helper.make_attribute("then_branch", body))


def function_of_that_name(model):
    model.functions.append(helper.make_function("", "Gemm", ["a", "b", "c"], ["y"], [], [helper.make_opsetid("", 18)]))


def unknown_field(model):
    model.MergeFromString(b"\xf2\x3f\x01x")


def rare_input(model):
    """Right but for inputs that no sample visits."""
    for name, value in (("far", np.float32(39.0)), ("much", np.float32(1.0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    node = node_of(model, "Gemm", 4)
    raw = f"{node.output[0]}_raw"
    nodes = [
        helper.make_node("ReduceMax", ["state"], ["most"], keepdims=1),
        helper.make_node("Greater", ["most", "far"], ["rare"]),
        helper.make_node("Where", ["rare", "much", raw], [node.output[0]]),
    ]
    node.output[0] = raw
    insert_after(model, node, *nodes)


def tiny_leak(model):
    """Below every tolerance, and on operators of the list alone."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-12, np.float32), "tiny"))
    node = next(node for node in model.graph.node if "action" in node.output)
    node.output[0] = "raw"
    insert_after(
        model,
        node,
        helper.make_node("Mul", ["raw", "tiny"], ["leak"]),
        helper.make_node("Add", ["raw", "leak"], ["action"]),
    )


def second_tensor(model):
    tensor = model.graph.initializer.add()
    tensor.CopyFrom(initialiser(model, "actor.0.bias"))


def values_twice(model):
    initialiser(model, "actor.0.bias").float_data.extend([0.0] * 16)


def constant_named_as_input(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 16), np.float32), "state"))


def dead_node(model):
    model.graph.node.append(helper.make_node("Relu", ["features"], ["nowhere"]))


def training_dropout(model):
    for name, value in (("ratio", np.array(0.5, np.float32)), ("train", np.array(True))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    node = node_of(model, "Gemm", 4)
    dropout = helper.make_node("Dropout", [node.input[0], "ratio", "train"], ["dropped"])
    model.graph.node.insert(list(model.graph.node).index(node), dropout)
    node.input[0] = "dropped"


def bias_by_batch(model):
    """A bias that differs from row to row: right for batches of one."""
    node = node_of(model, "Gemm", 2)
    bias = values(model, node.input[2])
    set_values(model, node.input[2], np.stack([bias, bias + 1]))


def turned_image(model):
    """Rows for columns: as many numbers, another order."""
    node = node_of(model, "Reshape")
    source = node.input[0]
    turn = helper.make_node("Transpose", [source], ["turned"], perm=[0, 1, 3, 2])
    model.graph.node.insert(list(model.graph.node).index(node), turn)
    node.input[0] = "turned"


FORGED = {
    "one ulp of a weight": (lambda m: next_float(m, "actor.2.weight"), r"actor\.2\.weight differs in 1 of 256 values"),
    "one ulp of a bias": (lambda m: next_float(m, "aux_decoder.bias"), r"aux_decoder\.bias differs in 1 of 1"),
    "ulps of a folded weight": (lambda m: next_float(m, "stem.0.weight", 8), r"stem\.0\.weight, .* differs in 1 of 36"),
    "NaN": (lambda m: set_values(m, "actor.4.bias", np.full(4, np.nan, np.float32)), r"actor\.4\.bias differs in 4"),
    "normaliser": (lambda m: next_float(m, "normalizer.scale_depth"), "normaliser scale of the depth differs in 1"),
    "slope": (lambda m: attribute(m, "LeakyRelu", "alpha", 0.0100001), "has alpha"),
    "other activation": (lambda m: setattr(node_of(m, "LeakyRelu", 3), "op_type", "Relu"), "Relu"),
    "padding": (lambda m: attribute(m, "Conv", "pads", [0, 0, 1, 1]), "has pads"),
    "stride": (lambda m: attribute(m, "Conv", "strides", [2, 2]), "has strides"),
    "alpha of Gemm": (lambda m: attribute(m, "Gemm", "alpha", 1.0001), "has alpha"),
    "unknown attribute": (lambda m: attribute(m, "Gemm", "precision", 1), "'precision', which is not on the list"),
    "allowzero": (lambda m: set_values(m, node_of(m, "Reshape").input[1], np.array([2, 48])), "reshapes to"),
    "sub-graph": (sub_graph, "it holds 2 graphs"),
    "function": (function_of_that_name, "FunctionProto"),
    "unknown field": (unknown_field, "does not know"),
    "rare input": (rare_input, "ReduceMax .* is not on the list"),
    "tiny leak": (tiny_leak, "reads 'leak', expected a constant"),
    "name twice": (second_tensor, "is given twice"),
    "values twice": (values_twice, "has its values twice"),
    "constant for an input": (constant_named_as_input, "an input has the name of a constant"),
    "dead node": (dead_node, "is no part of the policy"),
    "dropout": (training_dropout, "drops values at random"),
    "bias by row": (bias_by_batch, "does not fit data of shape"),
    "turned image": (turned_image, "Transpose"),
    "run configuration": (lambda m: m.metadata_props.add(key="ort_config", value="{}"), "ort_config"),
    "external": (
        lambda m: setattr(initialiser(m, "actor.0.bias"), "data_location", onnx.TensorProto.EXTERNAL),
        "stored in another file",
    ),
    "random": (
        lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[1])),
        "RandomNormal noise is not on the list",
    ),
}


@pytest.mark.parametrize("change", ELEMENTARY, ids=lambda change: change.__name__)
def test_each_constant_of_an_elementary_batch_norm_is_compared(bundle, run, model, change):
    change(model, run.network)
    names = [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("part")]
    assert len(names) >= 4
    for name in names:
        forged = copy.deepcopy(model)
        next_float(forged, name, 8)
        assert any("batch norm of stem" in line and "differs in 1 of" in line for line in problems(forged, bundle, run))


def test_the_inverse_of_the_normaliser_is_compared(bundle, run, model):
    normaliser_by_the_inverse(model, run.network)
    next_float(model, "normalizer.scale_state", 4)
    assert any("normaliser scale of the state differs in 1 of 16" in line for line in problems(model, bundle, run))


@pytest.mark.parametrize("name", FORGED)
def test_forged_graph_is_refused_by_name(bundle, run, model, name):
    change, problem = FORGED[name]
    change(model)
    found = problems(model, bundle, run)
    assert any(re.search(problem, line) for line in found), found
