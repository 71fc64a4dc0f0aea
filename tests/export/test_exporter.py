import json
import logging
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions
from deploy_kit.bundle.implied import describe
from deploy_kit.bundle.origin import git_commit
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.signature import read_trusted_key, require_signed
from deploy_kit.errors import CheckFailedError, CheckpointError, DatasetError, OptionError
from deploy_kit.export import exporter
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.run.observation import resolve_observation
from deploy_kit.policy.run.vehicle import resolve_vehicle
from deploy_kit.task.interface import STATE_TERMS, ObservationLayout
from deploy_kit.task.racing import TASK_ID
from helpers import keys
from helpers.feature_files import write_policy_file
from helpers.networks import SMALL_OBSERVATION, small_network


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_bundle_holds_the_checkpoint(run, shared_bundle):
    source = load_checkpoint(run.checkpoint)
    restored = load_checkpoint(shared_bundle.safetensors_path)
    assert restored.network.config == source.network.config
    assert restored.calibration == source.calibration
    assert restored.iteration == 7
    for name, tensor in restored.network.state_dict().items():
        assert torch.equal(tensor, source.network.state_dict()[name])
    provenance = shared_bundle.contract.provenance
    assert provenance.checkpoint_sha256 == source.sha256
    assert provenance.feature_sha256 == feature_sha256(source.network)
    assert provenance.head_sha256 == head_sha256(source.network)
    assert provenance.weights_sha256 == file_sha256(shared_bundle.safetensors_path)
    with torch.inference_mode():
        output = source.network(torch.from_numpy(shared_bundle.golden.observation))
    np.testing.assert_array_equal(shared_bundle.golden.action, output.action)
    np.testing.assert_array_equal(shared_bundle.golden.gate_logit, output.gate_logit)
    metadata = {item.key: item.value for item in onnx.load(shared_bundle.onnx_path).metadata_props}
    assert Contract.from_json(metadata["deploy_kit_contract"]) == shared_bundle.contract


def test_manifest_lists_every_file(shared_bundle):
    files = json.loads((shared_bundle.path / "manifest.json").read_text())["files"]
    assert sorted(files) == sorted(path.name for path in shared_bundle.path.iterdir() if path.name != "manifest.json")
    for name, entry in files.items():
        assert entry == {
            "sha256": file_sha256(shared_bundle.path / name),
            "size": (shared_bundle.path / name).stat().st_size,
        }


def test_everything_that_can_be_asked_for_at_once(checkpoint, tmp_path):
    network = load_checkpoint(checkpoint).network
    stages = []
    options = ExportOptions(
        checkpoint,
        tmp_path / "bundle",
        use_auxiliary_head=True,
        feature_file=write_policy_file(tmp_path / "f.h5", network),
        input_layout=InputLayout.FLAT,
        input_names=("seen",),
        output_names=("actions", "auxiliary"),
        gate_output=GateOutput.PROBABILITY,
        opset=13,
        batch_size=3,
        physical_actions=True,
        task=TASK_ID,
        num_golden=5,
    )
    bundle = open_bundle(export_bundle(options, lambda progress: stages.append(progress.phase)))
    contract = bundle.contract
    assert [(spec.name, spec.role, spec.shape) for spec in (*contract.inputs, *contract.outputs)] == [
        ("seen", "observation", (3, SMALL_OBSERVATION)),
        ("actions", "command", (3, 4)),
        ("auxiliary", "gate_probability", (3, 1)),
    ]
    assert contract.action.inside_graph
    assert contract.versions.opset == 13
    assert contract.gate.output is GateOutput.PROBABILITY
    assert contract.provenance.samples_sha256 == file_sha256(tmp_path / "f.h5")
    assert bundle.golden.source == "recorded"
    assert set(bundle.golden.reason) == {"gate_pass", "stale_image", "first_step", "ordinary"}
    assert list(dict.fromkeys(stages)) == [
        "reading the checkpoint",
        "writing TorchScript and weights",
        "writing ONNX",
        "choosing golden samples",
        "static checks",
        "replay held-out rows",
        *(
            f"replay {samples}, {artifact}"
            for samples in ("golden", "kept", "near", "flight-like", "random", "extreme")
            for artifact in ("onnx", "torchscript", "safetensors")
        ),
        "search",
        "replay search, torchscript",
        "replay search, safetensors",
        "publishing",
    ]


def test_without_the_gate_head(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = open_bundle(export_bundle(ExportOptions(checkpoint, task=TASK_ID, num_golden=2)))
    assert bundle.path.name == "policy_5"
    assert bundle.path.resolve().parent == tmp_path / "bundles"
    assert bundle.contract.gate is None
    assert [spec.name for spec in bundle.contract.outputs] == ["action"]
    assert bundle.golden.gate_logit is None


def test_a_head_that_was_not_calibrated(tmp_path, caplog):
    save_safetensors(tmp_path / "raw.safetensors", small_network())
    options = ExportOptions(
        tmp_path / "raw.safetensors", tmp_path / "b", use_auxiliary_head=True, task=TASK_ID, num_golden=2
    )
    with caplog.at_level(logging.WARNING, "deploy_kit.export"):
        gate = open_bundle(export_bundle(options)).contract.gate
    assert (gate.threshold_logit, gate.threshold_probability) == (None, None)
    assert gate.rule.startswith("not calibrated")
    assert "choose one with deploy-kit judge" in caplog.text


def test_no_gate_head_to_export(tmp_path):
    save_safetensors(tmp_path / "c.safetensors", small_network(gate_head=False))
    options = ExportOptions(tmp_path / "c.safetensors", tmp_path / "b", use_auxiliary_head=True, task=TASK_ID)
    with pytest.raises(CheckpointError, match=r"aux_decoder\.weight is missing"):
        export_bundle(options)
    assert not (tmp_path / "b").exists()


def test_no_vehicle_is_invented(checkpoint, tmp_path):
    with pytest.raises(OptionError, match="--vehicle FILE"):
        export_bundle(ExportOptions(checkpoint, tmp_path / "b"))


def test_another_number_of_actions(tmp_path):
    save_safetensors(tmp_path / "c.safetensors", small_network(num_actions=3))
    with pytest.raises(CheckpointError, match="has 3 actions; exported are CTBR policies with 4"):
        export_bundle(ExportOptions(tmp_path / "c.safetensors", tmp_path / "b", task=TASK_ID))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors"]


def test_a_feature_file_of_another_policy(checkpoint, tmp_path):
    samples = write_policy_file(tmp_path / "f.h5", small_network(1))
    with pytest.raises(DatasetError, match="collected with another policy"):
        export_bundle(ExportOptions(checkpoint, tmp_path / "b", feature_file=samples, task=TASK_ID))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": "many"}, "--batch-size many"),
        ({"num_golden": 0}, "--num-golden 0"),
    ],
)
def test_options_out_of_range(checkpoint, tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        export_bundle(ExportOptions(checkpoint, tmp_path / "b", task=TASK_ID, **changes))


def test_what_exists_is_kept(checkpoint, bundle_copy, tmp_path):
    before = content(bundle_copy)
    with pytest.raises(OptionError, match="exists; give --overwrite"):
        export_bundle(ExportOptions(checkpoint, bundle_copy, task=TASK_ID))
    (bundle_copy / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"also holds notes\.txt"):
        export_bundle(ExportOptions(checkpoint, bundle_copy, task=TASK_ID, overwrite=True))
    (bundle_copy / "notes.txt").unlink()
    assert content(bundle_copy) == before
    for folder in ("run", "f.txt"):
        (tmp_path / "f.txt").touch()
        with pytest.raises(OptionError, match=r"is no bundle|is not a folder"):
            export_bundle(ExportOptions(checkpoint, tmp_path / folder, task=TASK_ID, overwrite=True))
    assert checkpoint.is_file()


def test_overwriting_replaces_the_whole_bundle(checkpoint, bundle_copy, tmp_path):
    (bundle_copy / "report.json").write_text("{}")
    (bundle_copy / "report.odt").write_text("mine")
    with pytest.raises(OptionError, match=r"also holds report\.odt"):
        export_bundle(ExportOptions(checkpoint, bundle_copy, task=TASK_ID, num_golden=2, overwrite=True))
    (bundle_copy / "report.odt").unlink()
    export_bundle(ExportOptions(checkpoint, bundle_copy, task=TASK_ID, num_golden=2, overwrite=True))
    bundle = open_bundle(bundle_copy)
    assert bundle.contract.gate is None
    assert len(bundle.golden) == 2
    assert not (bundle_copy / "report.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run"]


def test_signed_bundles_bear_the_signatures_of_all_keys(checkpoint, bundle_copy, tmp_path):
    pairs = [keys.ed25519(tmp_path), keys.p256(tmp_path)]
    # A signed bundle is overwritten like any other.
    (bundle_copy / "manifest.json.sig").write_bytes(b"of another bundle")
    options = ExportOptions(checkpoint, bundle_copy, task=TASK_ID, num_golden=2, overwrite=True)
    with pytest.raises(OptionError, match="is no private key"):
        export_bundle(replace(options, sign=(pairs[0][1],)))
    folder = export_bundle(replace(options, sign=tuple(private for private, _ in pairs)))
    for _, public in pairs:
        require_signed(folder, read_trusted_key(public))


@pytest.mark.parametrize("error", [CheckFailedError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["run_checks", "_publish_rename"])
def test_a_failure_leaves_the_old_bundle(checkpoint, bundle_copy, tmp_path, monkeypatch, stage, error):
    before = content(bundle_copy)

    def fail(*args, **kwargs):
        raise error

    if stage == "run_checks":
        monkeypatch.setattr(exporter, "run_checks", fail)
    else:
        monkeypatch.setattr(exporter, "run_checks", lambda *args: ([], None))
        rename = type(tmp_path).rename
        monkeypatch.setattr(
            type(tmp_path), "rename", lambda self, target: fail() if self.name == "new" else rename(self, target)
        )
    # The graph itself is not the subject here.
    monkeypatch.setattr(exporter.onnx_writer, "build_onnx", lambda *args: onnx.load(bundle_copy / "policy.onnx"))
    options = ExportOptions(
        checkpoint, bundle_copy, use_auxiliary_head=True, task=TASK_ID, num_golden=2, overwrite=True
    )
    with pytest.raises(type(error)):
        export_bundle(options)
    assert content(bundle_copy) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run"]


def test_a_wrong_export_is_not_published(checkpoint, tmp_path, monkeypatch):
    twin = exporter.DeployedPolicy

    def broken(network, graph):
        policy = twin(network, graph)
        policy.stem[0].weight[0, 0, 0, 0] += 0.1
        return policy

    monkeypatch.setattr(exporter, "DeployedPolicy", broken)
    message = r"^onnx/proof: stem\.0\.weight, batch norm folded differs in 1 of 36 values.*; nothing was published$"
    with pytest.raises(CheckFailedError, match=message):
        export_bundle(ExportOptions(checkpoint, tmp_path / "b", task=TASK_ID))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_unwritable_folder(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot be written"):
        export_bundle(ExportOptions(checkpoint, tmp_path / "file" / "b", task=TASK_ID))


def test_commit_is_of_a_checkout_that_tracks_the_package(tmp_path):
    def git(*command):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True)

    (tmp_path / "errors.py").touch()
    assert git_commit(tmp_path) is None
    git("init", "-q")
    assert git_commit(tmp_path) is None
    git("add", "errors.py")
    git("commit", "-qm", "a")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "errors.py").write_text("changed")
    assert git_commit(tmp_path) == f"{commit}-dirty"


@pytest.mark.reference
def test_reference_run(reference_run, tmp_path):
    options = ExportOptions(reference_run / "model_7998.pt", tmp_path / "b", use_auxiliary_head=True)
    bundle = open_bundle(export_bundle(options))
    contract = bundle.contract
    assert {value.source for value in contract.vehicle.values()} == {"params/env.yaml"}
    assert contract.action.scale == (pytest.approx(14.715), 6.0, 6.0, 6.0)
    assert contract.camera.fx == pytest.approx(58.344, abs=1e-3)
    assert contract.camera.mount.link == "camera"
    assert (contract.action.clip, contract.action.clip_source) == (None, "params/agent.yaml")
    assert (contract.observation.depth.clip_m, contract.observation.depth.range_source) == (10.0, "params/env.yaml")
    assert [term.quantity for term in contract.observation.terms] == [term.name for term in STATE_TERMS]
    assert all(term.source.startswith("params/env.yaml: observations.policy.") for term in contract.observation.terms)
    assert contract.provenance.iteration == 7998
    assert contract.provenance.checkpoint_sha256.startswith("3bae2bcdd796")


def test_another_vehicle(tmp_path):
    """A vehicle file changes transform and ranges, and the contract says where each number is from."""
    (tmp_path / "vehicle.yaml").write_text("max_thrust_to_weight: 2.5\nmax_body_rate: [4, 5, 3]\nmass_kg: 0.7\n")
    checkpoint = load_checkpoint(save(tmp_path / "c.safetensors", small_network()))
    vehicle = resolve_vehicle(checkpoint.params, TASK_ID, tmp_path / "vehicle.yaml")
    contract = describe(
        checkpoint,
        vehicle,
        resolve_observation(checkpoint.params, TASK_ID, checkpoint.network.config.layout),
        GraphOptions(transform=vehicle.action_transform),
        opset=18,
        ir_version=8,
        weights_sha256="0" * 64,
        samples_sha256=None,
    )
    assert contract.action.scale == (1.25 * 9.81, 4.0, 5.0, 3.0)
    assert contract.action.inside_graph
    assert contract.observation.terms[-1].low == (0.0, -4.0, -5.0, -3.0)
    assert contract.observation.terms[-1].high == (2.5 * 9.81, 4.0, 5.0, 3.0)
    assert contract.vehicle["mass_kg"].value == 0.7
    assert contract.vehicle["mass_kg"].source.startswith("file:vehicle.yaml")
    assert "3.0" in contract.vehicle["max_thrust_to_weight"].source
    assert contract.vehicle["gravity"].source == "task"
    assert Contract.from_json(contract.to_json()) == contract


def test_a_state_that_is_not_the_racing_tasks(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path / "c.safetensors", small_network(layout=ObservationLayout(7, (24, 32)))))
    vehicle = resolve_vehicle(checkpoint.params, TASK_ID)
    meaning = resolve_observation(checkpoint.params, None, checkpoint.network.config.layout)
    contract = describe(
        checkpoint, vehicle, meaning, GraphOptions(), opset=18, ir_version=8, weights_sha256="", samples_sha256=None
    )
    (term,) = contract.observation.terms
    assert (term.name, term.stop, term.unit, term.low, term.source) == ("state", 7, None, None, None)
    assert contract.timing.last_action is None
    assert Contract.from_json(contract.to_json()) == contract


def save(path, network):
    save_safetensors(path, network)
    return path
