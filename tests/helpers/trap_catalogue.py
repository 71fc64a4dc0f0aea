"""Wrong bundles that verify must catch, one entry each: what was done, which checks fail, what the diagnosis says.

The table in docs/traps.md is written from here, and tests/traps runs every entry.
"""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from deploy_kit.bundle.reader import manifest_text
from deploy_kit.cpp import header as cpp_header
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from helpers import contract_traps as contracts
from helpers import graph_traps as graphs
from helpers import network_traps as networks
from helpers.bundles import Run, edit_golden, rewrite_manifest
from helpers.cpp_headers import first_number, first_whole, replaced, with_header
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
from helpers.small_flights import FLOWN, fly_small_policies
from helpers.two_archives import rezipped, two_archives, without_weights
from helpers.variants import described, narrowed, shift_number
from helpers.vehicles import VEHICLE


@dataclass(frozen=True)
class Kit:
    """What a trap is built from: a right bundle, another policy's, and a folder."""

    run: Run
    other: Run
    folder: Path
    monkeypatch: pytest.MonkeyPatch


@dataclass(frozen=True)
class Trap:
    """A wrong bundle.

    Attributes:
        part: what of the bundle is wrong, or "all" where several parts may fail.
        what: what was done, in words.
        make: builds it.
        caught_by: checks that fail.
        diagnosis: what the diagnosis says among other things.
        options: of the verification.
    """

    part: str
    what: str
    make: Callable[[Kit], Run]
    caught_by: tuple[str, ...]
    diagnosis: str
    options: Mapping[str, Any] = field(default_factory=dict)


HIDDEN = ("onnx/operators", "onnx/provider")
PROOF, GOLDEN, EXTREME, HEAD = "onnx/proof", "replay/golden/onnx", "replay/extreme/onnx", "replay/heldout/onnx-head"


def _graph(what: str, change: Callable[[onnx.ModelProto], None], diagnosis: str, *caught_by: str) -> Trap:
    return Trap("onnx", what, lambda kit: mutate_graph(kit.run, kit.folder, change), caught_by or (PROOF,), diagnosis)


def _weights(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    def mutate(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith(".weight"):
                values = change(numpy_helper.to_array(tensor)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return mutate


def _bfloat16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values.copy()).bfloat16().float().numpy()


def _int8(values: np.ndarray) -> np.ndarray:
    scale = np.abs(values).reshape(len(values), -1).max(axis=1).reshape(-1, *[1] * (values.ndim - 1)) / np.float32(127)
    return np.round(values / scale) * scale


def _next_float(values: np.ndarray) -> np.ndarray:
    values.flat[0] = np.nextafter(values.flat[0], np.float32(np.inf))
    return values


def _first_nan(values: np.ndarray) -> np.ndarray:
    values.flat[0] = np.nan
    return values


def _flip(axis: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: splice_input(model, "depth", "Gather", np.arange((24, 32)[axis - 2])[::-1].copy(), axis=axis)


def _negate_velocity(model: onnx.ModelProto) -> None:
    splice_input(model, "state", "Mul", np.r_[-np.ones(3), np.ones(13)].astype(np.float32))


def _ignore_state(model: onnx.ModelProto) -> None:
    splice_input(model, "state", "Mul", np.float32(0.0))


def _constant_outputs(model: onnx.ModelProto) -> None:
    splice_input(model, "features", "Mul", np.float32(0.0))


def _double_outputs(model: onnx.ModelProto) -> None:
    (two,) = add_constants(model, np.float32(2.0))
    splice_output(model, "action", lambda raw, out: [helper.make_node("Mul", [raw, two], [out])])


def _tanh(model: onnx.ModelProto) -> None:
    splice_output(model, "action", lambda raw, out: [helper.make_node("Tanh", [raw], [out])])


def _rare_input(model: onnx.ModelProto) -> None:
    """Right but for inputs that no sample visits."""
    far, much, row = add_constants(model, np.float32(39.0), np.float32(1.0), np.array([1]))
    splice_output(
        model,
        "gate_logit",
        lambda raw, out: [
            helper.make_node("ReduceMax", ["state", row], ["most"], keepdims=1),
            helper.make_node("Greater", ["most", far], ["rare"]),
            helper.make_node("Where", ["rare", much, raw], [out]),
        ],
    )


def _noise(model: onnx.ModelProto) -> None:
    splice_output(
        model,
        "action",
        lambda raw, out: [
            helper.make_node("RandomNormalLike", [raw], ["noise"], scale=1e-9),
            helper.make_node("Add", [raw, "noise"], [out]),
        ],
    )


def _slope(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "LeakyRelu":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("alpha", 0.02))


def _padding(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    for entry in [entry for entry in node.attribute if entry.name == "pads"]:
        node.attribute.remove(entry)
    node.attribute.append(helper.make_attribute("pads", [1, 1, 0, 0]))


def _third_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 24]))


def _settings_of_onnxruntime(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    model = onnx.load(result.bundle / "policy.onnx")
    model.metadata_props.add(key="ort_config", value="{}")
    return _saved(result, model)


def _externalised(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    model = onnx.load(result.bundle / "policy.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith("actor.0.weight"):
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
    return _saved(result, model)


def _saved(result: Run, model: onnx.ModelProto) -> Run:
    (result.bundle / "policy.onnx").write_bytes(model.SerializeToString())
    (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
    return result


GRAPHS = [
    _graph("gate logit and thrust swapped", graphs.swap_gate_and_thrust, "outputs are swapped", PROOF, GOLDEN, HEAD),
    _graph("two actions swapped", graphs.swap_two_actions, "outputs are swapped", PROOF, GOLDEN, HEAD),
    _graph(
        "names of the outputs swapped", graphs.swap_output_names, "outputs are gate_logit, action", "onnx/signature"
    ),
    _graph("gate logit negated", graphs.negate_logit, "the gate logit is negated", PROOF, GOLDEN, HEAD),
    _graph(
        "probability instead of logit",
        graphs.probability_instead_of_logit,
        "a probability where a logit",
        PROOF,
        GOLDEN,
    ),
    _graph("actions squashed by tanh", _tanh, "squashed by tanh", PROOF, GOLDEN, HEAD),
    _graph("actions doubled", _double_outputs, "expected Gemm", PROOF, GOLDEN, HEAD),
    _graph("image upside down", _flip(2), "the image is upside down", PROOF, GOLDEN),
    _graph("image mirrored", _flip(3), "the image is mirrored", PROOF, GOLDEN),
    _graph("image shifted by a row", graphs.shift_image_by_a_row, "the image is shifted up by a row", PROOF, GOLDEN),
    _graph(
        "velocity and orientation swapped in the state",
        graphs.change_state_order,
        "base_lin_vel and base_orientation are swapped",
        PROOF,
        EXTREME,
    ),
    _graph("velocity negated", _negate_velocity, "base_lin_vel has the opposite sign", PROOF, EXTREME),
    _graph("state without effect", _ignore_state, "do not depend on the state", PROOF, EXTREME),
    _graph("outputs that are constant", _constant_outputs, "a constant was inlined", PROOF, GOLDEN, HEAD),
    _graph("normaliser left out", graphs.drop_normaliser, "the observation normaliser is missing", PROOF, GOLDEN),
    _graph("batch norm in training mode", graphs.train_mode_batch_norm, "a batch norm in training mode", PROOF, GOLDEN),
    _graph("rows of a batch that influence each other", graphs.couple_rows, "rows of a batch influence", PROOF, GOLDEN),
    _graph("batch size of two baked in", graphs.bake_batch_of_two, "cannot be run", PROOF, GOLDEN, HEAD),
    _graph("NaN where actions are large", graphs.nan_where_large, "on extreme inputs alone", PROOF, EXTREME),
    _graph("NaN everywhere", graphs.all_nan, "NaN or infinite", PROOF, GOLDEN, HEAD),
    _graph(
        "state cut at 1e4, as fp16 conversions do",
        graphs.flush_denormals_of_state,
        "on extreme inputs alone",
        PROOF,
        EXTREME,
    ),
    _graph(
        "features permuted before the heads", graphs.permute_features, "'features' is not what actor", PROOF, GOLDEN
    ),
    _graph("features doubled, and halved again", graphs.double_features, "'features' is not what actor", PROOF, HEAD),
    _graph(
        "tensor of the features renamed",
        graphs.rename_features,
        "no tensor is named 'features'",
        "onnx/signature",
        "onnx/features",
    ),
    _graph(
        "an output that sees the input beside the features",
        graphs.bypass_features,
        "expected a constant",
        PROOF,
        "onnx/features",
    ),
    _graph("wrong for inputs that no sample visits", _rare_input, "is not on the list", "onnx/operators", PROOF),
    _graph("noise of 1e-9", _noise, "is not on the list", "onnx/operators", "onnx/provider"),
    _graph("slope of the activation 0.02", _slope, "has alpha", PROOF, GOLDEN),
    _graph("factor of a product one unit below 1", graphs.shrink_a_product, "has alpha", PROOF),
    _graph("a node for another device", graphs.place_on_a_device, "NodeDeviceConfigurationProto", *HIDDEN),
    _graph("an input denoted as an image", graphs.denote_image, "is denoted as 'IMAGE'", *HIDDEN),
    _graph("padding of a convolution moved", _padding, "ShapeInferenceError", "onnx/valid", PROOF),
    _graph("a third output", _third_output, "outputs are action, gate_logit, features", "onnx/signature", PROOF),
    _graph("operators of another domain", graphs.use_foreign_operator, "which other runtimes lack", "onnx/opset"),
    _graph(
        "another opset than the contract's", graphs.claim_other_opset, "opset 17, the contract says 18", "onnx/opset"
    ),
    _graph(
        "fixed batch size that the contract does not name", graphs.fix_batch, "cannot be run", "onnx/signature", GOLDEN
    ),
    _graph(
        "one weight off by 1e-3",
        lambda model: change_weight(model, "actor.0.weight", largest_off),
        "weights were changed: actor.0.weight (1 of 384 values)",
        PROOF,
        HEAD,
    ),
    _graph(
        "last bit of one weight",
        lambda model: change_weight(model, "actor.2.weight", _next_float),
        "weights were changed: actor.2.weight (1 of 256 values)",
    ),
    _graph(
        "a weight that is NaN",
        lambda model: change_weight(model, "actor.0.weight", _first_nan),
        "NaN or infinite",
        PROOF,
        GOLDEN,
        HEAD,
    ),
    _graph(
        "weights rounded to fp16", _weights(lambda v: v.astype(np.float16)), "weights rounded to fp16", PROOF, GOLDEN
    ),
    _graph("weights rounded to bfloat16", _weights(_bfloat16), "weights rounded to bfloat16", PROOF, GOLDEN),
    _graph("weights quantised to int8", _weights(_int8), "quantised to int8, one scale a channel", PROOF, GOLDEN),
]


def _fault(what: str, change: Callable[[Any], Any], diagnosis: str, *besides: str) -> Trap:
    return Trap(
        "all",
        f"exported wrongly, all artifacts alike: {what}",
        lambda kit: mutate_before_export(kit.run, kit.folder, change, kit.monkeypatch),
        (PROOF, "torchscript/proof", "golden/stored-outputs", *besides),
        diagnosis,
    )


EXPORTS = [
    _fault(
        "normaliser left out",
        networks.drop_the_normaliser,
        "the observation normaliser is missing",
        "safetensors/tensors",
    ),
    _fault(
        "normaliser's epsilon 1e-5",
        networks.change_normaliser_eps,
        "the normaliser's epsilon is 1e-05, the checkpoint's 0.01",
    ),
    _fault("batch norms' epsilon 1e-3", networks.change_batch_norm_eps, "the batch norms' epsilon is 0.001"),
    _fault("one weight off", networks.shift_one_weight, "weights were changed: actor.0.weight", "safetensors/tensors"),
    _fault(
        "columns of the state permuted",
        networks.permute_state,
        "weights were changed: state_enc.weight",
        "safetensors/tensors",
    ),
    _fault(
        "another gate head",
        networks.take_another_head,
        "weights were changed: aux_decoder.weight",
        "safetensors/tensors",
    ),
    _fault("another policy", networks.take_another_network, "weights of another checkpoint", "safetensors/tensors"),
]


def _two_archives(bundle: Path) -> None:
    path = bundle / "policy.pt"
    right = path.read_bytes()
    path.write_bytes(two_archives(rezipped(right, without_weights), rezipped(right)))


def _file(part: str, what: str, change: Callable[[Path], None], diagnosis: str, *caught_by: str) -> Trap:
    def make(kit: Kit) -> Run:
        result = copied(kit.run, kit.folder)
        change(result.bundle)
        publish(result.bundle)
        return result

    return Trap(part, what, make, caught_by, diagnosis)


def _other(part: str, name: str, diagnosis: str, *caught_by: str) -> Trap:
    what = f"`{name}` of another policy"
    return Trap(part, what, lambda kit: replace_file(kit.run, kit.folder, kit.other, name), caught_by, diagnosis)


def _in_training_mode(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    trace_in_training_mode(kit.run.network, result.bundle / "policy.pt")
    publish(result.bundle)
    return result


def _stored(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def mutate(bundle: Path) -> None:
        checkpoint = load_checkpoint(bundle / "policy.safetensors")
        change(checkpoint.network)
        save_safetensors(
            bundle / "policy.safetensors", checkpoint.network, checkpoint.iteration, checkpoint.calibration
        )

    return mutate


def _golden_action(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as archive:
        action = archive["action"].copy()
    action[3, 1] += 1e-3
    edit_golden(bundle, action=action)


def _commands(bundle: Path, action: np.ndarray) -> np.ndarray:
    """Return what the bundle's vehicle flies for actions."""
    spec = json.loads((bundle / "contract.json").read_text())["action"]
    return (np.tanh(action) * spec["scale"] + spec["offset"]).astype(np.float32)


def _golden_thrust(bundle: Path) -> None:
    """Commands of a vehicle with a tenth more thrust, as an exporter with a wrong constant would store them."""
    with np.load(bundle / "golden.npz") as archive:
        command = archive["command"].copy()
    command[:, 0] *= 1.1
    edit_golden(bundle, command=command)


def _golden_not_finite(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as archive:
        action = archive["action"].copy()
    action[0, 0] = np.nan
    edit_golden(bundle, action=action)


def _golden_doubled(second: str) -> Callable[[Path], None]:
    """Store the actions twice, of which Python takes the last, another reader may take the first."""

    def mutate(bundle: Path) -> None:
        with zipfile.ZipFile(bundle / "golden.npz", "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(second, archive.read("action.npy"))

    return mutate


def _golden_forged(kit: Kit) -> Run:
    """Observations of this policy with what another one makes of them: consistent in itself."""
    result = copied(kit.run, kit.folder)
    with np.load(result.bundle / "golden.npz") as archive:
        observation = archive["observation"]
    with torch.inference_mode():
        output = kit.other.network(torch.from_numpy(observation))
        terms = kit.other.network.gate_terms(output.features)
    edit_golden(
        result.bundle,
        action=output.action.numpy(),
        features=output.features.numpy(),
        gate_logit=output.gate_logit.numpy(),
        gate_terms=terms.numpy(),
        command=_commands(result.bundle, output.action.numpy()),
    )
    publish(result.bundle)
    return result


FILES = [
    _other("onnx", "policy.onnx", "weights of another checkpoint", PROOF, GOLDEN, HEAD),
    _other("torchscript", "policy.pt", "weights of another checkpoint", "torchscript/proof"),
    _other("safetensors", "policy.safetensors", "weights of another checkpoint", "safetensors/tensors"),
    _other("golden", "golden.npz", "outputs of another network", "golden/stored-outputs"),
    Trap(
        "torchscript",
        "TorchScript traced in training mode",
        _in_training_mode,
        ("torchscript/proof",),
        "a batch norm in training mode",
    ),
    _file(
        "torchscript",
        "TorchScript in which torch reads another archive than Python",
        _two_archives,
        "readers may find different parts",
        "torchscript/proof",
    ),
    _file(
        "torchscript",
        "TorchScript that is no archive",
        lambda bundle: (bundle / "policy.pt").write_bytes(b"no module") and None,
        "not a readable TorchScript archive",
        "torchscript/proof",
    ),
    Trap(
        "onnx",
        "an ONNX graph's weights in another file",
        _externalised,
        ("onnx/operators", "onnx/provider"),
        "is stored in another file",
    ),
    Trap(
        "onnx",
        "settings of onnxruntime in the metadata",
        _settings_of_onnxruntime,
        ("onnx/operators", "onnx/provider"),
        "ort_config",
    ),
    _file(
        "safetensors",
        "one weight of the safetensors file off by 1e-3",
        _stored(lambda network: largest_off(network.aux_decoder.weight.numpy())),
        "weights were changed: aux_decoder.weight (1 of 24 values)",
        "safetensors/tensors",
    ),
    _file(
        "safetensors",
        "last bit of one weight of the safetensors file",
        _stored(lambda network: _next_float(network.actor[0].bias.numpy())),
        "weights were changed: actor.0.bias (1 of 16 values)",
        "safetensors/tensors",
    ),
    _file(
        "safetensors",
        "a weight of the critic",
        _stored(lambda network: largest_off(network.critic[0].weight.numpy())),
        "weights were changed: critic.0.weight",
        "safetensors/tensors",
    ),
    _file(
        "golden",
        "one stored action off by 1e-3",
        _golden_action,
        "1 of 16 stored samples were changed, the first is 3",
        "golden/stored-outputs",
    ),
    _file(
        "golden",
        "stored commands with a thrust scale of 1.1",
        _golden_thrust,
        "scaled by 1.1",
        "golden/stored-commands",
    ),
    _file("golden", "a stored action that is NaN", _golden_not_finite, "not finite", "golden/stored-outputs"),
    _file(
        "golden",
        "an array of the golden samples that is there twice",
        _golden_doubled("action.npy"),
        "an array is there twice",
        "golden/stored-outputs",
    ),
    _file(
        "golden",
        "an array of the golden samples that is there twice, once without `.npy`",
        _golden_doubled("action"),
        "an array is there twice",
        "golden/stored-outputs",
    ),
    Trap(
        "golden",
        "outputs of another policy for the stored observations",
        _golden_forged,
        ("golden/stored-outputs",),
        "outputs of another network",
    ),
]


EDITED = "the contract was edited, or written for another run"
ANOTHER_VEHICLE = "the bundle is for another vehicle than the one that you name"


def _contract(what: str, change: Callable[[Any], Any], diagnosis: str, *caught_by: str) -> Trap:
    return Trap("contract", what, lambda kit: mutate_contract(kit.run, kit.folder, change), caught_by, diagnosis)


CONTRACTS = [
    _contract("scale of the thrust 5 % larger", contracts.scaled_thrust, ANOTHER_VEHICLE, "contract/action"),
    _contract("offset of the thrust", contracts.shifted_offset, ANOTHER_VEHICLE, "contract/action"),
    _contract("order of the actions", contracts.other_action_order, ANOTHER_VEHICLE, "contract/action"),
    _contract("limit of the actions", contracts.other_action_limit, ANOTHER_VEHICLE, "contract/action"),
    _contract("period of the policy", contracts.other_period, ANOTHER_VEHICLE, "contract/timing"),
    _contract("latency of the actions", contracts.other_latency, ANOTHER_VEHICLE, "contract/timing"),
    _contract("threshold of the gate", contracts.other_threshold, EDITED, "contract/gate"),
    _contract("probability beside the threshold", contracts.other_threshold_probability, EDITED, "contract/gate"),
    _contract("distance of the label rule", contracts.other_label_distance, EDITED, "contract/gate"),
    _contract("step of the label rule", contracts.other_label_offset, EDITED, "contract/gate"),
    _contract("release of the detector", contracts.other_release, EDITED, "contract/gate"),
    _contract("refractory time of the detector", contracts.other_refractory_time, EDITED, "contract/gate"),
    _contract("range of the velocity", contracts.other_range, EDITED, "contract/observation"),
    _contract("order of the state", contracts.other_term_order, EDITED, "contract/observation"),
    _contract("unit of the velocity", contracts.other_unit, EDITED, "contract/observation"),
    _contract("clip of the depth", contracts.other_clip, EDITED, "contract/observation"),
    _contract("normaliser left out", contracts.no_normaliser, EDITED, "contract/observation"),
    _contract("epsilon of the normaliser", contracts.other_normaliser_eps, EDITED, "contract/observation"),
    _contract("activation", contracts.other_activation, EDITED, "contract/network"),
    _contract("fingerprint of the features", contracts.other_feature_hash, EDITED, "contract/provenance"),
    _contract("fingerprint of the gate head", contracts.other_head_hash, EDITED, "contract/provenance"),
]


def _other_contract_inside(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    data = json.loads((result.bundle / "contract.json").read_text())
    data["created_utc"] = "2000-01-01T00:00:00+00:00"
    (result.bundle / "contract.json").write_text(json.dumps(data))
    (result.bundle / "manifest.json").write_text(manifest_text(result.bundle))
    return result


def _unlisted_file(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    (result.bundle / "weights.bin").write_bytes(b"x")
    return result


def _swapped_unlisted(kit: Kit) -> Run:
    result = copied(kit.run, kit.folder)
    shutil.copy(kit.other.bundle / "policy.onnx", result.bundle / "policy.onnx")
    return result


def _stored_features(kit: Kit) -> Run:
    dataset = kit.folder / "features.h5"
    shutil.copy(kit.run.dataset, dataset)
    with h5py.File(dataset, "r+") as file:
        file["observations/features"][0, 0] += 1e-2
    return replace(copied(kit.run, kit.folder), dataset=dataset)


def _named_vehicle(kit: Kit) -> Run:
    (kit.folder / "vehicle.yaml").write_text(VEHICLE.replace("max_thrust_to_weight: 3.0", "max_thrust_to_weight: 2.5"))
    return copied(kit.run, kit.folder)


OTHERS = [
    Trap(
        "all",
        "bundle of another checkpoint",
        lambda kit: replace(copied(kit.other, kit.folder), checkpoint=kit.run.checkpoint, dataset=kit.run.dataset),
        ("contract/checkpoint", PROOF, "torchscript/proof", "safetensors/tensors", "golden/stored-outputs"),
        "made from another checkpoint",
    ),
    Trap(
        "onnx", "another contract inside the graph", _other_contract_inside, ("onnx/contract",), "created_utc differs"
    ),
    Trap(
        "bundle",
        "a file that the manifest does not list",
        _unlisted_file,
        ("bundle/manifest",),
        "'weights.bin' lies in the folder",
    ),
    Trap("bundle", "a file that is not the one that the manifest lists", _swapped_unlisted, ("bundle/manifest",), ""),
    Trap("dataset", "a feature in the feature file changed", _stored_features, ("replay/stored-features",), ""),
    Trap(
        "contract",
        "another vehicle than the one that the user names",
        _named_vehicle,
        ("contract/action", "contract/vehicle", "golden/stored-commands"),
        ANOTHER_VEHICLE,
        {"vehicle_file": "vehicle.yaml"},
    ),
]


def _cpp(what: str, change: Callable[[str], str]) -> Trap:
    return Trap("cpp", what, lambda kit: with_header(kit.run, kit.folder, change), ("cpp/text",), "")


def _other_header(kit: Kit) -> Run:
    other = with_header(kit.other, kit.folder / "other")
    return with_header(kit.run, kit.folder, lambda _: (other.bundle / "policy.hpp").read_text())


SHADOW = "live/shadow@cpp"


def _memory(what: str, old: str, new: str, caught_by: str = SHADOW) -> Trap:
    """Return a fault of the generator: the header is what was to be written, and inputs one by one show nothing."""

    def make(kit: Kit) -> Run:
        part = cpp_header._part
        faulty = replaced(old, new)
        kit.monkeypatch.setattr(
            cpp_header, "_part", lambda name: faulty(part(name)) if name == "policy.hpp" else part(name)
        )
        fly_small_policies(kit.monkeypatch)
        return with_header(kit.run, kit.folder)

    return Trap("cpp", f"C++: {what}", make, (caught_by,), "", FLOWN)


CPP = [
    _cpp("C++: one weight to the next float", first_number("kActor0Weight", lambda v: np.nextafter(v, np.float32(9)))),
    _cpp("C++: one stride", lambda text: text.replace("kStrideColumns = 3;", "kStrideColumns = 2;", 1)),
    _cpp("C++: the depth's clip", lambda text: text.replace("kDepthClip = 0x1.4p+3f", "kDepthClip = 0x1.5p+3f")),
    _cpp("C++: the sign of a command", replaced("std::tanh(value) *", "-std::tanh(value) *")),
    _cpp("C++: a guard that lets NaN pass", replaced("unusable |= !(depth >= 0.0f)", "unusable |= depth < 0.0f")),
    _cpp(
        "C++: one more statement",
        replaced("  encode(b);\n  run_heads(b);\n", "  encode(b);\n  b.features[0] = 0;\n  run_heads(b);\n"),
    ),
    _cpp("C++: a golden sample that fits another weight", first_number("kGoldenAction", lambda v: v * 2)),
    _cpp("C++: lines that end with carriage returns", lambda text: text.replace("\n", "\r\n")),
    Trap("cpp", "C++: another policy's header", _other_header, ("cpp/text",), ""),
    _memory("generator forgets the command that acts", "    push(made.command);\n", ""),
    _memory(
        "generator lets a command act a step early", "count, acting_[first_],", "count, acting_[(first_ + 1) % 2],"
    ),
    _memory(
        "generator begins with a detector that is not armed",
        "    armed_ = true;\n    last_",
        "    armed_ = false;\n    last_",
        f"{SHADOW}-steps",
    ),
]


def _narrow_header(form: str, what: str, change: Callable[[str], str]) -> Trap:
    return Trap(
        form,
        f"{form}: {what}",
        lambda kit: with_header(kit.run, kit.folder, change, (form,)),
        (f"{form}/text",),
        "",
    )


def _renamed_header(kit: Kit) -> Run:
    plain = (with_header(kit.run, kit.folder / "plain").bundle / "policy.hpp").read_text()
    return with_header(kit.run, kit.folder, lambda _: plain, ("cpp-fp16",))


NARROW_HEADERS = [
    _narrow_header(
        "cpp-int8", "one weight by one step", first_whole("std::int8_t kStemLinearWeight", lambda v: str(int(v) ^ 1))
    ),
    _narrow_header("cpp-int8", "the scale of one output", first_number("kStemLinearScale", lambda v: v * 2)),
    _narrow_header(
        "cpp-int8",
        "a weight of a matrix that stays float32",
        first_number("kActor4Weight", lambda v: np.nextafter(v, np.float32(9))),
    ),
    _narrow_header(
        "cpp-fp16",
        "one weight to the next half",
        first_whole("std::uint16_t kStemLinearWeight", lambda v: f"0x{int(v, 16) ^ 1:04x}"),
    ),
    _narrow_header("cpp-fp16", "another decoding", replaced("(112u << 23)", "(111u << 23)")),
    Trap("cpp-fp16", "cpp-fp16: the header of float32 under its name", _renamed_header, ("cpp-fp16/text",), ""),
]


def _narrow(kind: str, what: str, change: Callable[[onnx.ModelProto], object]) -> Trap:
    return Trap(
        kind, f"{kind}: {what}", lambda kit: narrowed(kit.run, kit.folder, kind, change), (f"{kind}/graph",), ""
    )


def _drop_quantiser(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    node.input[0] = model.graph.node[0].output[0]


def _append_identity(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", [model.graph.node[0].output[0]], ["more"]))


def _narrow_range(model: onnx.ModelProto) -> None:
    scale = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(50), scale))


def _other_variant(kit: Kit) -> Run:
    other, run = narrowed(kit.other, kit.folder / "other"), narrowed(kit.run, kit.folder)
    shutil.copy(other.bundle / "policy.int8.onnx", run.bundle / "policy.int8.onnx")
    rewrite_manifest(run.bundle)
    return run


NARROW = [
    _narrow("int8", "one weight by one step", shift_number("weight.int8", 1)),
    _narrow("int8", "the scale of one output", shift_number("weight.scale", 1e-4)),
    _narrow("int8", "one bias by one step", shift_number("bias.int32", 1)),
    _narrow("int8", "a weight of a layer that is not quantised", shift_number("actor.0.weight", 1e-3)),
    _narrow("int8", "a range of another width", _narrow_range),
    _narrow("int8", "another tensor is quantised", _drop_quantiser),
    _narrow("int8", "one more operator", _append_identity),
    _narrow("fp16", "one weight to another float16", shift_number("actor.0.weight", 1e-2)),
    _narrow("fp16", "one more operator", _append_identity),
    Trap("int8", "int8: another policy's", _other_variant, ("int8/graph",), ""),
]


def _leapp(what: str, change: Callable[[dict], object]) -> Trap:
    return Trap(
        "leapp", f"LEAPP: {what}", lambda kit: described(kit.run, kit.folder, change), ("leapp/description",), ""
    )


def _rewritten(what: str, old: str, new: str) -> Trap:
    """Return a description that Python reads as the right one, and another reader of YAML may not."""

    def rewrite(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return Trap(
        "leapp",
        f"LEAPP: {what}",
        lambda kit: described(kit.run, kit.folder, rewrite=rewrite),
        ("leapp/description",),
        "",
    )


def _swap_outputs(data: dict) -> None:
    data["models"]["policy"]["outputs"].reverse()
    data["pipeline"]["outputs"]["policy"].reverse()


LEAPP = [
    _leapp("another sha256", lambda data: data["models"]["policy"]["parameters"].update(sha256sum="0" * 64)),
    _leapp("outputs in another order", _swap_outputs),
    _leapp("another threshold", lambda data: data["models"]["policy"]["outputs"][1].update(threshold=9.0)),
    _leapp("another frequency", lambda data: data["pipeline"]["configs"].update(frequency=50.0)),
    _leapp("another file", lambda data: data["models"]["policy"]["parameters"].update(model_path="/tmp/policy.onnx")),
    _leapp("one more field", lambda data: data.update(more=1)),
    _rewritten("a name that stands twice", "model_path: ", "model_path: /tmp/policy.onnx\n      model_path: "),
    _rewritten("a truth value for a size", "      - 1\n", "      - true\n"),
]

TRAPS = [*GRAPHS, *EXPORTS, *FILES, *CONTRACTS, *OTHERS, *CPP, *NARROW_HEADERS, *NARROW, *LEAPP]
