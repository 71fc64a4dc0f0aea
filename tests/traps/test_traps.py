"""Corrupted bundles that are consistent in themselves. Verify must fail each, by the check that is meant for it."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from deploy_kit.bundle.reader import manifest_text
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.verify.report import Status
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import verify_bundle
from helpers.mutations import (
    add_constants,
    change_weight,
    copied,
    largest_off,
    mutate_before_export,
    mutate_contract,
    mutate_graph,
    publish,
    replace_file,
    splice_input,
    splice_output,
    trace_in_training_mode,
)
from helpers.networks import small_network

REPLAYED = {f"replay/{samples}" for samples in ("golden", "random", "extreme", "kept")}
ONNX = {f"{samples}/onnx" for samples in REPLAYED}
TORCHSCRIPT = {f"{samples}/torchscript" for samples in REPLAYED}
SAFETENSORS = {f"{samples}/safetensors" for samples in REPLAYED}
HEAD = {"replay/heldout/onnx-head"}
DRAWN = {
    f"replay/{samples}/{artifact}"
    for samples in ("near", "flight-like", "search")
    for artifact in ("onnx", "torchscript", "safetensors")
}
"""Drawn in each run; whether they show a small fault is a matter of the draw."""


def failed(run, **changes):
    report = verify_bundle(run.verify(**changes))
    names = {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}
    assert report.passed == (not names)
    assert format_table(report)
    return names


def test_unmutated_bundle_passes(run):
    assert failed(run) == set()


def test_republished_bundle_passes(run, tmp_path):
    assert failed(mutate_graph(run, tmp_path, lambda model: None)) == set()


# The ONNX graph alone


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


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (double_features, ONNX | HEAD),
        (swap_gate_and_thrust, ONNX | HEAD),
        (swap_two_actions, ONNX | HEAD),
        (shift_image_by_a_row, ONNX),
        (change_state_order, ONNX - {"replay/golden/onnx"}),
        (drop_normaliser, ONNX),
        (negate_logit, ONNX | HEAD),
        (probability_instead_of_logit, ONNX | HEAD),
        (nan_where_large, {"replay/extreme/onnx"}),
        (all_nan, ONNX | HEAD),
        (couple_rows, ONNX | HEAD),
        (bake_batch_of_two, ONNX | HEAD),
        (flush_denormals_of_state, {"replay/extreme/onnx"}),
        (train_mode_batch_norm, {"onnx/proof"} | ONNX),
        (permute_features, ONNX | HEAD),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_corrupted_graph_fails(run, tmp_path, mutate, expected):
    names = failed(mutate_graph(run, tmp_path, mutate))
    assert expected <= names
    assert not names & (TORCHSCRIPT | SAFETENSORS | {"golden/stored-outputs", "safetensors/tensors"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stem.0.weight", ONNX),
        ("stem.0.bias", ONNX),
        ("state_enc.weight", ONNX),
        ("actor.0.weight", ONNX | HEAD),
        ("actor.4.bias", ONNX | HEAD),
        ("aux_decoder.weight", ONNX | HEAD),
        ("aux_decoder.bias", ONNX | HEAD),
    ],
)
def test_one_weight_off_by_a_thousandth_fails(run, tmp_path, name, expected):
    names = failed(mutate_graph(run, tmp_path, lambda model: change_weight(model, name, largest_off)))
    # A weight of a channel that is hardly ever active (stem.0) shows in extreme inputs alone.
    assert "replay/extreme/onnx" in names
    assert "onnx/proof" in names
    assert names <= expected | DRAWN | {"onnx/proof"}
    assert (names >= HEAD) == (expected >= HEAD)


def test_weight_that_is_not_finite_fails(run, tmp_path):
    def mutate(values):
        values.flat[0] = np.nan
        return values

    names = failed(mutate_graph(run, tmp_path, lambda model: change_weight(model, "actor.0.weight", mutate)))
    assert {"onnx/proof", *ONNX, *HEAD} <= names


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


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (swap_output_names, {"onnx/signature"}),
        (rename_features, {"onnx/signature", "onnx/features"}),
        (bypass_features, {"onnx/features"} | ONNX),
        (fix_batch, {"onnx/signature"} | ONNX),
        (claim_other_opset, {"onnx/opset"}),
        (use_foreign_operator, {"onnx/opset"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_graph_that_breaks_the_contract_fails(run, tmp_path, mutate, expected):
    assert expected <= failed(mutate_graph(run, tmp_path, mutate))


def test_weights_in_another_file_fail(run, tmp_path):
    result = copied(run, tmp_path)
    model = onnx.load(result.bundle / "policy.onnx")
    onnx.save(model, result.bundle / "policy.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
    (result.bundle / "w.bin").unlink()
    assert {"onnx/operators", "onnx/provider"} <= failed(result)


def test_file_that_is_no_graph_fails(run, tmp_path):
    result = copied(run, tmp_path)
    (result.bundle / "policy.onnx").write_bytes(b"no graph")
    (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
    report = verify_bundle(result.verify())
    assert report.verdict("onnx/provider").status is Status.FAILED
    # What could not be run is not shown as passed.
    assert report.verdict("replay/heldout/onnx-head").status is Status.NOT_RUN
    assert not report.passed


def test_metadata_of_another_contract_fails(run, tmp_path):
    result = copied(run, tmp_path)
    data = json.loads((result.bundle / "contract.json").read_text())
    data["created_utc"] = "2000-01-01T00:00:00+00:00"
    (result.bundle / "contract.json").write_text(json.dumps(data))
    (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
    assert failed(result) == {"onnx/contract"}


# Faults of an exporter: artifacts, golden samples and contract agree, the checkpoint does not


def drop_the_normaliser(network):
    changed = small_network(normalizer_eps=None)
    changed.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("normalizer.")})
    return changed


def change_normaliser_eps(network):
    network.normalizer.eps = 1e-5


def change_batch_norm_eps(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3


def shift_one_weight(network):
    largest_off(network.actor[0].weight.numpy())


def permute_state(network):
    network.state_enc.weight.copy_(network.state_enc.weight[:, list(np.r_[3:6, 0:3, 6:16])])


def take_another_head(network):
    network.aux_decoder = small_network(5).aux_decoder


def take_another_network(network):
    return small_network(6)


ALL = {"replay/golden/onnx", "replay/random/onnx", "onnx/proof", "torchscript/proof"}


@pytest.mark.parametrize(
    ("mutate", "tensors"),
    [
        (drop_the_normaliser, True),
        (change_normaliser_eps, False),
        (change_batch_norm_eps, False),
        (shift_one_weight, True),
        (permute_state, True),
        (take_another_head, True),
        (take_another_network, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fault_before_export_fails(run, tmp_path, mutate, tensors, monkeypatch):
    names = failed(mutate_before_export(run, tmp_path, mutate, monkeypatch))
    assert {"golden/stored-outputs", *ALL} <= names
    assert ("safetensors/tensors" in names) is tensors


# TorchScript, weights and golden samples alone


def test_torchscript_in_training_mode_fails(run, tmp_path):
    result = copied(run, tmp_path)
    trace_in_training_mode(run.network, result.bundle / "policy.pt")
    publish(result.bundle)
    names = failed(result)
    assert names == {"torchscript/proof"}


def test_torchscript_that_does_not_load_fails(run, tmp_path):
    result = copied(run, tmp_path)
    (result.bundle / "policy.pt").write_bytes(b"no module")
    publish(result.bundle)
    assert failed(result) == {"torchscript/proof"}


def change_safetensors(result, change):
    checkpoint = load_checkpoint(result.bundle / "policy.safetensors")
    change(checkpoint.network)
    save_safetensors(
        result.bundle / "policy.safetensors", checkpoint.network, checkpoint.iteration, checkpoint.calibration
    )
    publish(result.bundle)


def test_one_weight_of_safetensors_off_fails(run, tmp_path):
    result = copied(run, tmp_path)
    change_safetensors(result, lambda network: largest_off(network.aux_decoder.weight.numpy()))
    names = failed(result)
    assert {"safetensors/tensors", *SAFETENSORS} <= names
    assert not names & (ONNX | TORCHSCRIPT | HEAD)
    assert names & DRAWN


def test_last_bit_of_safetensors_fails(run, tmp_path):
    def change(network):
        bias = network.actor[0].bias.numpy()
        bias[0] = np.nextafter(bias[0], np.float32(np.inf))

    result = copied(run, tmp_path)
    change_safetensors(result, change)
    assert failed(result) == {"safetensors/tensors"}


def test_changed_golden_outputs_fail(run, tmp_path):
    result = copied(run, tmp_path)
    path = result.bundle / "golden.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["action"][3, 1] += 1e-3
    np.savez(path, **arrays)
    publish(result.bundle)
    assert failed(result) == {"golden/stored-outputs"}


# Artifacts of another policy, together with their manifest entries


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("policy.onnx", {"onnx/proof"} | ONNX | HEAD),
        ("policy.pt", {"torchscript/proof"}),
        ("policy.safetensors", {"safetensors/tensors"} | SAFETENSORS),
        ("golden.npz", {"golden/stored-outputs"}),
    ],
)
def test_replaced_artifact_fails(run, other_run, tmp_path, name, expected):
    assert failed(replace_file(run, tmp_path, other_run, name)) - DRAWN == expected


def test_replaced_artifact_without_its_manifest_entry_fails(run, other_run, tmp_path):
    result = copied(run, tmp_path)
    shutil.copy(other_run.bundle / "policy.onnx", result.bundle / "policy.onnx")
    assert failed(result) == {"bundle/manifest"}


def test_bundle_of_another_checkpoint_fails(run, other_run, tmp_path):
    names = failed(replace(run, bundle=other_run.bundle), report=tmp_path / "report.json")
    assert {"contract/checkpoint", "contract/provenance", "safetensors/tensors", "golden/stored-outputs"} <= names
    assert names >= ONNX | SAFETENSORS | {"onnx/proof", "torchscript/proof"}


# The contract alone


def scaled_thrust(contract):
    scale = (contract.action.scale[0] * 1.05, *contract.action.scale[1:])
    return replace(contract, action=replace(contract.action, scale=scale))


def shifted_offset(contract):
    offset = (contract.action.offset[0] + 0.01, *contract.action.offset[1:])
    return replace(contract, action=replace(contract.action, offset=offset))


def other_action_order(contract):
    names = contract.action.names
    return replace(contract, action=replace(contract.action, names=(names[0], names[2], names[1], names[3])))


def other_threshold(contract):
    probability = 1.0 / (1.0 + math.exp(-0.31))
    return replace(contract, gate=replace(contract.gate, threshold_logit=0.31, threshold_probability=probability))


def other_threshold_probability(contract):
    return replace(contract, gate=replace(contract.gate, threshold_probability=0.5))


def other_release(contract):
    detector = replace(contract.gate.detector, release_logit=-9.0)
    return replace(contract, gate=replace(contract.gate, detector=detector))


def other_refractory_time(contract):
    detector = replace(contract.gate.detector, refractory_steps=1)
    return replace(contract, gate=replace(contract.gate, detector=detector))


def other_label_distance(contract):
    return replace(contract, gate=replace(contract.gate, label_distance_m=0.5))


def other_range(contract):
    first, *rest = contract.observation.terms
    wide = replace(first, low=(-99.0,) * 3, high=(99.0,) * 3)
    return replace(contract, observation=replace(contract.observation, terms=(wide, *rest)))


def other_action_limit(contract):
    return replace(contract, action=replace(contract.action, clip=2.0))


def other_label_offset(contract):
    return replace(contract, gate=replace(contract.gate, label_offset_steps=0))


def other_term_order(contract):
    first, second, *rest = contract.observation.terms
    swapped = (replace(second, start=0, stop=3), replace(first, start=3, stop=6), *rest)
    return replace(contract, observation=replace(contract.observation, terms=swapped))


def other_unit(contract):
    first, *rest = contract.observation.terms
    return replace(contract, observation=replace(contract.observation, terms=(replace(first, unit="ft/s"), *rest)))


def other_clip(contract):
    depth = replace(contract.observation.depth, clip_m=8.0)
    return replace(contract, observation=replace(contract.observation, depth=depth))


def no_normaliser(contract):
    return replace(contract, observation=replace(contract.observation, normalizer=None))


def other_normaliser_eps(contract):
    normalizer = replace(contract.observation.normalizer, eps=1e-5)
    return replace(contract, observation=replace(contract.observation, normalizer=normalizer))


def other_period(contract):
    period = replace(contract.timing.policy_period_s, value=0.02)
    return replace(contract, timing=replace(contract.timing, policy_period_s=period))


def other_latency(contract):
    latency = replace(contract.timing.action_latency_steps, value=0)
    return replace(contract, timing=replace(contract.timing, action_latency_steps=latency))


def other_checkpoint_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, checkpoint_sha256="0" * 64))


def other_feature_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, feature_sha256="0" * 64))


def other_head_hash(contract):
    return replace(contract, provenance=replace(contract.provenance, head_sha256="0" * 64))


def other_activation(contract):
    return replace(contract, network=replace(contract.network, activation="elu"))


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (scaled_thrust, {"contract/action"}),
        (shifted_offset, {"contract/action"}),
        (other_action_order, {"contract/action"}),
        (other_threshold, {"contract/gate"}),
        (other_threshold_probability, {"contract/gate"}),
        (other_label_offset, {"contract/gate"}),
        (other_release, {"contract/gate"}),
        (other_refractory_time, {"contract/gate"}),
        (other_label_distance, {"contract/gate"}),
        (other_range, {"contract/observation"}),
        (other_action_limit, {"contract/action"}),
        (other_term_order, {"contract/observation"}),
        (other_unit, {"contract/observation"}),
        (other_clip, {"contract/observation"}),
        (no_normaliser, {"contract/observation"}),
        (other_normaliser_eps, {"contract/observation"}),
        (other_period, {"contract/timing"}),
        (other_latency, {"contract/timing"}),
        (other_feature_hash, {"contract/provenance"}),
        (other_head_hash, {"contract/provenance"}),
        (other_activation, {"contract/network"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_altered_contract_fails(run, tmp_path, mutate, expected):
    assert failed(mutate_contract(run, tmp_path, mutate)) == expected


def test_altered_checkpoint_hash_is_named(run, tmp_path):
    report = verify_bundle(mutate_contract(run, tmp_path, other_checkpoint_hash).verify())
    check = next(check for check in report.checks if check.name == "contract/checkpoint")
    assert "000000000000" in check.note


def test_contract_of_other_sizes_fails_without_a_replay(run, tmp_path):
    def mutate(contract):
        return replace(contract, network=replace(contract.network, feature_size=25))

    result = copied(run, tmp_path)
    path = result.bundle / "golden.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["features"] = np.pad(arrays["features"], ((0, 0), (0, 1)))
    np.savez(path, **arrays)
    publish(result.bundle)
    report = verify_bundle(mutate_contract(result, tmp_path / "second", mutate).verify())
    assert report.verdict("contract/network").status is Status.FAILED
    assert report.verdict("replay").status is Status.NOT_RUN
    assert not report.passed
