import numpy as np
import onnx
import pytest

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import CheckFailedError, MissingDependencyError
from deploy_kit.export import execution
from deploy_kit.export.checks import check_execution, check_replay, check_static, compare
from deploy_kit.export.execution import run_batches
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from helpers.bundles import edit_contract, edit_onnx, rewrite_manifest, shift_initializer
from helpers.feature_files import write_policy_file
from helpers.networks import small_network


@pytest.fixture
def network(shared_bundle):
    return load_checkpoint(shared_bundle.safetensors_path).network


def edited(folder, edit):
    edit_onnx(folder, edit)
    return open_bundle(folder)


def test_a_sound_bundle_passes(shared_bundle, network, tmp_path):
    check_static(shared_bundle.onnx_path, shared_bundle.contract)
    results = check_execution(shared_bundle, network)
    assert [result.count for result in results[:2]] == [16, 16]
    assert all(0 <= result.worst < 1 for result in results)
    with open_feature_file(write_policy_file(tmp_path / "f.h5", network)) as file:
        replayed = check_replay(shared_bundle, network, file)
    assert [(result.name, result.count) for result in replayed] == [
        ("ONNX features → outputs, held-out rows", 300),
        ("ONNX, kept observations", 36),
    ]
    assert all(0 <= result.worst < 1 for result in replayed)


def swap_outputs(model):
    model.graph.output.append(model.graph.output[0])
    del model.graph.output[0]


def drop_features(model):
    kept = [value for value in model.graph.value_info if value.name != "features"]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def add_dropout(model):
    model.graph.node.append(onnx.helper.make_node("Dropout", ["features"], ["unused"]))


def make_external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.data")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap_outputs, "outputs are not the contract's"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2),
            "inputs are not the contract",
        ),
        (lambda m: setattr(m.opset_import[0], "version", 17), r"opset \{'': 17\} instead of 18"),
        (lambda m: m.ClearField("metadata_props"), "metadata_props"),
        (
            lambda m: shift_initializer(m, "actor.0.bias", np.nan),
            r"initialisers that are not finite: \['actor.0.bias'\]",
        ),
        (drop_features, "no inner tensor features"),
        (add_dropout, r"a folded policy does not have: \['Dropout'\]"),
        (make_external, r"tensors outside the file|onnx.checker refuses"),
        (lambda m: setattr(m.graph.node[0], "op_type", "NoSuchOperator"), r"onnx.checker refuses"),
    ],
)
def test_static_faults(bundle_copy, edit, message):
    bundle = edited(bundle_copy, edit)
    with pytest.raises(Exception, match=message) as caught:
        check_static(bundle.onnx_path, bundle.contract)
    assert type(caught.value).__name__ in ("CheckFailedError", "BundleError")


def test_a_contract_that_the_graph_does_not_carry(bundle_copy):
    edit_contract(bundle_copy, lambda d: d["action"]["scale"].__setitem__(0, 14.8))
    bundle = open_bundle(bundle_copy)
    with pytest.raises(CheckFailedError, match=r"the contract in metadata_props is not contract\.json"):
        check_static(bundle.onnx_path, bundle.contract)


@pytest.mark.parametrize(
    "name", ["stem.3.weight", "state_enc.bias", "actor.4.bias", "aux_decoder.bias", "normalizer.mean_state"]
)
def test_a_wrong_weight_in_the_onnx_file_alone(bundle_copy, network, name):
    bundle = edited(bundle_copy, lambda model: shift_initializer(model, name, 1e-2))
    with pytest.raises(CheckFailedError, match=r"ONNX, golden samples: (action|gate_logit)\[\d+, \d\] is "):
        check_execution(bundle, network)


def test_a_wrong_torchscript_file_alone(bundle_copy, network, tmp_path):
    from deploy_kit.bundle.contract import GateOutput
    from deploy_kit.bundle.graph_options import GraphOptions
    from deploy_kit.export.graph import DeployedPolicy
    from deploy_kit.export.torchscript import write_torchscript

    other = DeployedPolicy(small_network(1), GraphOptions(gate_output=GateOutput.LOGIT))
    write_torchscript(other, bundle_copy / "policy.pt")
    rewrite_manifest(bundle_copy)
    with pytest.raises(CheckFailedError, match="TorchScript, golden samples: action"):
        check_execution(open_bundle(bundle_copy), network)


def test_wrong_weights_alone(bundle_copy, network):
    other = load_checkpoint(bundle_copy / "policy.safetensors").network
    other.actor[0].bias[0] += 1e-6
    save_safetensors(bundle_copy / "policy.safetensors", other)
    rewrite_manifest(bundle_copy)
    with pytest.raises(CheckFailedError, match=r"tensor actor\.0\.bias differs"):
        check_execution(open_bundle(bundle_copy), network)
    save_safetensors(bundle_copy / "policy.safetensors", small_network(normalizer_eps=0.02))
    rewrite_manifest(bundle_copy)
    with pytest.raises(CheckFailedError, match="read back as"):
        check_execution(open_bundle(bundle_copy), network)


def test_replay_finds_a_wrong_head_and_wrong_features(bundle_copy, network, tmp_path):
    with open_feature_file(write_policy_file(tmp_path / "f.h5", network)) as file:
        head = edited(bundle_copy, lambda model: shift_initializer(model, "aux_decoder.weight", 1e-2))
        with pytest.raises(CheckFailedError, match=r"gate_logit\[\d+, 0\]"):
            check_replay(head, network, file)
        edited(bundle_copy, lambda model: shift_initializer(model, "aux_decoder.weight", -1e-2))
        stem = edited(bundle_copy, lambda model: shift_initializer(model, "stem.0.weight", 1e-1))
        with pytest.raises(CheckFailedError, match=r"(action|gate_logit)\[\d+, \d\]"):
            check_replay(stem, network, file)


def test_compare_names_the_worst_element():
    expected = np.array([[0.0, 100.0], [1.0, 2.0]])
    actual = expected + np.array([[0.9e-5, 1.0e-3], [0.0, 0.0]])
    assert compare("x", actual, expected).worst == pytest.approx(1e-3 / 1.01e-3)
    actual[0, 1] += 1e-4
    with pytest.raises(CheckFailedError, match=r"x\[0, 1\] is 100\.0011, PyTorch gives 100 .*1 of 4 numbers"):
        compare("x", actual, expected)
    with pytest.raises(CheckFailedError, match=r"x\[31, 1\]"):
        compare("x", actual, expected, rows=np.array([31, 32]))
    assert compare("x", actual, expected, scale=np.array([1.0, 20.0])).worst < 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_compare_refuses_what_is_not_finite(value):
    expected = np.zeros((2, 2))
    actual = expected.copy()
    actual[1, 0] = value
    with pytest.raises(CheckFailedError, match=r"x\[1, 0\] is -?(nan|inf)"):
        compare("x", actual, expected)
    with pytest.raises(CheckFailedError):
        compare("x", actual, actual)


def test_compare_refuses_other_shapes():
    with pytest.raises(CheckFailedError, match=r"shape \(2, 1\), expected \(2, 2\)"):
        compare("x", np.zeros((2, 1)), np.zeros((2, 2)))


def test_fixed_batches_are_filled_up_and_cut_again():
    seen = []

    def runner(inputs):
        seen.append(len(inputs[0]))
        return [inputs[0] * 2]

    values = np.arange(7, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(run_batches(runner, [values], 3)[0], values * 2)
    assert seen == [3, 3, 3]
    run_batches(runner, [values], None)
    assert seen[-1] == 7


def test_a_graph_that_onnxruntime_refuses():
    with pytest.raises(CheckFailedError, match="onnxruntime refuses the graph"):
        execution.onnx_runner(b"no graph")


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deploy-kit\[cpu\]'"):
        execution.require_onnxruntime()


pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")
