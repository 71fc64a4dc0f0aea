import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions, input_specs, output_specs
from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.onnx_writer import build_onnx, convert_opset
from deploy_kit.export.torchscript import write_torchscript
from deploy_kit.task.interface import ActionTransform
from helpers.networks import make_observations, small_network

TRANSFORM = ActionTransform.from_limits(3.0, (6.0, 5.0, 4.0))


def build(network, options=None, opset=18):
    options = options or GraphOptions()
    specs = input_specs(network, options), output_specs(network, options)
    names = (tuple(spec.name for spec in side) for side in specs)
    return build_onnx(DeployedPolicy(network, options), *names, opset)


def run(model, *inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([value.name for value in session.get_inputs()], inputs, strict=True)))


def expected(network, observation, options):
    with torch.inference_mode():
        output = network(torch.from_numpy(observation))
    action = output.action.numpy()
    results = [action if options.transform is None else options.transform.apply(action)]
    if options.gate_output is GateOutput.LOGIT:
        results.append(output.gate_logit.numpy())
    if options.gate_output is GateOutput.PROBABILITY:
        results.append(torch.sigmoid(output.gate_logit).numpy())
    return results


def graph_inputs(network, observation, options):
    if options.layout is InputLayout.FLAT:
        return [observation]
    return [part.numpy() for part in network.split(torch.from_numpy(observation))]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (GraphOptions(), {}),
        (GraphOptions(gate_output=GateOutput.LOGIT), {"normalizer_eps": 0.01}),
        (GraphOptions(InputLayout.FLAT, GateOutput.PROBABILITY, TRANSFORM), {"normalizer_eps": 0.5}),
        (GraphOptions(InputLayout.FLAT, GateOutput.LOGIT, None, 1), {}),
        (GraphOptions(InputLayout.SPLIT, GateOutput.PROBABILITY, TRANSFORM, 4), {"gate_head": True}),
        (GraphOptions(InputLayout.SPLIT), {"gate_head": False, "critic_hidden": None}),
    ],
)
def test_onnx_and_torchscript_give_what_the_network_gives(tmp_path, options, changes):
    network = small_network(**{"normalizer_eps": None, **changes})
    observation = make_observations(network, options.batch_size or 5)
    reference = expected(network, observation, options)
    inputs = graph_inputs(network, observation, options)
    model = build(network, options)
    outputs = run(model, *inputs)
    assert len(outputs) == len(reference)
    for output, wanted in zip(outputs, reference, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)

    path = tmp_path / "policy.pt"
    write_torchscript(DeployedPolicy(network, options), path)
    module = torch.jit.load(path)
    scripted = module(*map(torch.from_numpy, inputs))
    scripted = scripted if isinstance(scripted, tuple) else (scripted,)
    assert "batch_norm" not in str(module.graph)
    assert len(scripted) == len(reference)
    for output, wanted in zip(scripted, reference, strict=True):
        np.testing.assert_allclose(output.numpy(), wanted, rtol=1e-5, atol=1e-5)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert (batch.dim_param, batch.dim_value) == (("", options.batch_size) if options.batch_size else ("batch", 0))


pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")


def test_network_of_the_reference_size(network):
    observation = make_observations(network, 64)
    options = GraphOptions(gate_output=GateOutput.LOGIT)
    model = build(network, options)
    for output, wanted in zip(
        run(model, *graph_inputs(network, observation, options)), expected(network, observation, options), strict=True
    ):
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Conv", "LeakyRelu", "Reshape", "Gemm", "Add"}
    assert len(model.graph.node) == 17


def test_a_network_in_training_mode_is_exported_in_eval_mode_and_left_alone():
    network = small_network()
    observation = make_observations(network, 5)
    wanted = expected(network, observation, GraphOptions())[0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    output = run(build(network), *graph_inputs(network, observation, GraphOptions()))[0]
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_folding_is_exact_to_float32():
    network = small_network()
    twin = DeployedPolicy(network, GraphOptions())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())
    convolution, norm = network.stem[0], network.stem[1]
    factor = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = convolution.weight.double() * factor[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * factor
    torch.testing.assert_close(twin.stem[0].weight, weight.float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(twin.stem[0].bias, bias.float(), rtol=1e-6, atol=1e-7)


def test_features_are_named_inside_and_the_head_can_be_cut_out():
    network = small_network()
    options = GraphOptions(gate_output=GateOutput.LOGIT, output_names=("actions", "auxiliary"))
    model = build(network, options)
    assert [value.name for value in model.graph.output] == ["actions", "auxiliary"]
    inner = {value.name: value for value in model.graph.value_info}["features"]
    assert [dim.dim_param or dim.dim_value for dim in inner.type.tensor_type.shape.dim] == ["batch", 24]
    head = onnx.utils.Extractor(model).extract_model(["features"], ["actions", "auxiliary"])
    for rows in (1, 7):
        features = np.random.default_rng(rows).normal(size=(rows, 24)).astype(np.float32)
        with torch.inference_mode():
            wanted = network.heads(torch.from_numpy(features))
        action, logit = run(head, features)
        np.testing.assert_allclose(action, wanted.action.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(logit, wanted.gate_logit.numpy(), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def largest_graph():
    """Network, options and native graph with every operator that the exporter can be asked for."""
    network = small_network()
    options = GraphOptions(InputLayout.FLAT, GateOutput.PROBABILITY, TRANSFORM)
    return network, options, build(network, options)


@pytest.mark.parametrize("opset", [11, 13, 14, 17, 20, 24])
def test_opset_is_the_one_asked_for(largest_graph, opset):
    network, options, native = largest_graph
    model = convert_opset(copy.deepcopy(native), opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    observation = make_observations(network, 3)
    for output, wanted in zip(run(model, observation), expected(network, observation, options), strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-4)


def test_file_version_is_the_oldest_that_holds_the_opset():
    model = build(small_network(), opset=13)
    assert ([entry.version for entry in model.opset_import], model.ir_version) == ([13], 7)


@pytest.mark.parametrize("opset", [10, 25, 0])
def test_opsets_that_cannot_be_written(opset):
    with pytest.raises(OptionError, match=rf"--opset {opset}: this version writes opsets 11 to 24"):
        build(small_network(), opset=opset)


def test_an_operator_that_an_old_opset_lacks():
    with pytest.raises(OptionError, match="--opset 15: an operator of this policy does not exist there"):
        build(small_network(activation="mish"), opset=15)


@pytest.mark.parametrize("activation", ["gelu", "mish", "selu"])
def test_every_activation(activation):
    network = small_network(activation=activation)
    observation = make_observations(network, 3)
    options = GraphOptions(InputLayout.FLAT)
    output = run(build(network, options), observation)[0]
    np.testing.assert_allclose(output, expected(network, observation, options)[0], rtol=1e-5, atol=1e-5)


def test_the_file_says_nothing_of_the_exporting_machine():
    text = build(small_network()).SerializeToString()
    for trace in (b"site-packages", b".py", b"torch"):
        assert trace not in text


def test_gate_output_without_gate_head():
    with pytest.raises(CheckpointError, match=r"aux_decoder\.weight is missing: .* without the auxiliary head"):
        DeployedPolicy(small_network(gate_head=False), GraphOptions(gate_output=GateOutput.LOGIT))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_names": ("state",)}, r"--input-names: 1 given \(state\), the graph has 2"),
        ({"output_names": ("action", "gate")}, "--output-names: 2 given"),
        ({"output_names": ("features",)}, "names the features inside the graph"),
        ({"output_names": ("a b",)}, "is no tensor name"),
        ({"output_names": ("",)}, "is no tensor name"),
        ({"input_names": ("x", "x")}, "'x' is given twice"),
        ({"output_names": ("state",)}, "already the name of a tensor"),
    ],
)
def test_names_that_do_not_fit(changes, message):
    with pytest.raises(OptionError, match=message):
        build(small_network(), GraphOptions(**changes))


def test_names_may_be_exchanged():
    network = small_network()
    model = build(network, GraphOptions(input_names=("depth", "state")))
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    assert shapes == {"depth": 2, "state": 4}
    state, depth = graph_inputs(network, observation := make_observations(network, 2), GraphOptions())
    np.testing.assert_allclose(
        run(model, state, depth)[0], expected(network, observation, GraphOptions())[0], atol=1e-5
    )
