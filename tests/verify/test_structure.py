"""Static checks on small hand-made graphs; tests/traps has them on real bundles."""

import types

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy_kit.bundle.contract_fields import InputLayout
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.subgraph import cut_encoder, cut_head
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.structure.onnx_file import graph_checks, load_graph
from helpers.networks import small_network


def spec(name, shape):
    return types.SimpleNamespace(name=name, shape=shape, dtype="float32", role=name)


CONTRACT = types.SimpleNamespace(
    inputs=(spec("x", ("batch", 2)),),
    batch=None,
    outputs=(spec("y", ("batch", 2)),),
    versions=types.SimpleNamespace(opset=18, ir_version=8),
    action=types.SimpleNamespace(inside_graph=False),
    gate=None,
    observation=types.SimpleNamespace(layout=InputLayout.FLAT),
)
TRANSFORM = ActionTransform((1.0,) * 4, (0.0,) * 4)


def graph(*nodes, weights=(), outputs=("y",), ir_version=8):
    """features = x + 1 (unless given), then the nodes."""

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])

    initialisers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights]
    initialisers.append(numpy_helper.from_array(np.ones(2, np.float32), "one"))
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["features"]), *nodes],
        "g",
        [value("x")],
        [value(name) for name in outputs],
        initialisers,
        value_info=[value("features")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = ir_version
    return model


def problems(model, name):
    checks = graph_checks(model, CONTRACT, small_network(), TRANSFORM)
    return next(check for check in checks if check.name == name).problems


DOUBLE = helper.make_node("Mul", ["features", "two"], ["y"])
TWO = ("two", np.full(2, 2.0, np.float32))


def test_sound_graph_has_no_problem():
    model = graph(DOUBLE, weights=[TWO])
    names = ("operators", "valid", "signature", "opset")
    assert {name: problems(model, f"onnx/{name}") for name in names} == dict.fromkeys(names, ())


def test_invalid_graph_is_named():
    model = graph(helper.make_node("Mul", ["features", "nowhere"], ["y"]))
    assert "nowhere" in problems(model, "onnx/valid")[0]


def test_wrong_shape_inside_is_named():
    model = graph(helper.make_node("Mul", ["features", "three"], ["y"]), weights=[("three", np.ones(3, np.float32))])
    assert problems(model, "onnx/valid")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: setattr(m.graph.input[0], "name", "z"), "inputs are z, the contract names x"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 3), "has shape"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_param", "n"), "has shape"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "is float64"),
        (lambda m: m.graph.output.append(m.graph.value_info[0]), "outputs are y, features"),
    ],
)
def test_signature_is_the_contracts(change, problem):
    model = graph(DOUBLE, weights=[TWO])
    change(model)
    assert any(problem in line for line in problems(model, "onnx/signature"))


def test_opset_and_ir_version_are_the_contracts():
    model = graph(DOUBLE, weights=[TWO], ir_version=9)
    assert problems(model, "onnx/opset") == ("IR version 9, the contract says 8",)


def test_operators_that_other_runtimes_lack_are_named():
    model = graph(DOUBLE, weights=[TWO])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 18))
    assert problems(model, "onnx/opset") == ("operators of domain 'com.microsoft' are used, which other runtimes lack",)
    model.graph.node[0].domain = "com.microsoft"
    assert "Add is of domain 'com.microsoft', which other runtimes lack" in problems(model, "onnx/operators")


def test_missing_metadata_is_named():
    assert "0 entries" in problems(graph(DOUBLE, weights=[TWO]), "onnx/contract")[0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xff\xff no graph", "is not a readable ONNX file"),
        (b"\x00\x00\x00\x00ORTM", "onnxruntime's own format"),
    ],
)
def test_unreadable_file_is_named(data, problem):
    with pytest.raises(ArtifactError, match=rf"policy\.onnx {problem}|policy\.onnx can be read .* {problem}"):
        load_graph(data, "policy.onnx")


def run(model, contract, name, rows, **arguments):
    return OnnxRunner(model, contract, outputs={name: name}, **arguments)(rows)[name]


def test_parts_compute_what_the_whole_does():
    model = graph(DOUBLE, weights=[TWO])
    x = np.array([[0.0, 1.0], [2.0, -3.0]], np.float32)
    flat = types.SimpleNamespace(**vars(CONTRACT))
    flat.input = lambda role: CONTRACT.inputs[0]
    features = run(cut_encoder(model), flat, "features", x)
    assert features.tolist() == (x + 1).tolist()
    head = cut_head(model)
    assert [node.op_type for node in head.graph.node] == ["Mul"]
    assert run(head, flat, "y", features, features=True).tolist() == (2 * (x + 1)).tolist()


def test_output_beside_the_features_cannot_be_cut():
    model = graph(helper.make_node("Mul", ["features", "x"], ["y"]))
    with pytest.raises(ArtifactError, match="depend on 'x', not on features alone"):
        cut_head(model)


def test_graph_without_features_cannot_be_cut():
    model = graph(DOUBLE, weights=[TWO])
    del model.graph.value_info[:]
    with pytest.raises(ArtifactError, match="cannot be cut"):
        cut_head(model)


def test_provider_that_does_not_run_is_refused():
    model = graph(DOUBLE, weights=[TWO])
    with pytest.raises(ArtifactError, match="has no TensorrtExecutionProvider"):
        OnnxRunner(model, CONTRACT, runtime=Runtime("tensorrt"))


def test_last_batch_is_filled_up_and_cut_again():
    model = graph(DOUBLE, weights=[TWO])
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    fixed = types.SimpleNamespace(inputs=(spec("x", (3, 2)),), batch=3, outputs=CONTRACT.outputs)
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert run(cut_head(model), fixed, "y", rows, features=True).tolist() == (2 * rows).tolist()
    with pytest.raises(ArtifactError, match="cannot run the graph on 7 rows"):
        fixed.batch = None
        run(cut_head(model), fixed, "y", rows, features=True)


def test_model_is_left_as_it_was():
    model = graph(DOUBLE, weights=[TWO])
    before = model.SerializeToString()
    cut_head(model)
    graph_checks(model, CONTRACT, small_network(), TRANSFORM)
    assert model.SerializeToString() == before
    assert onnx.checker.check_model(model) is None
