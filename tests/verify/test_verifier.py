import json
import subprocess
import sys

import pytest

from deploy_kit.bundle.parity import ParityCheck
from deploy_kit.bundle.signature import read_signing_key, read_trusted_key, sign_bundle
from deploy_kit.errors import BundleError, CheckpointError, DatasetError, OptionError, TaskError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.progress import Progress
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.bundles import copy_bundle, make_run, put_a_weight_off
from helpers.checkpoints import CALIBRATION
from helpers.feature_files import write_policy_file
from helpers.keys import ed25519
from helpers.networks import small_network

OBSERVED = ("golden", "kept", "near", "flight-like", "random", "extreme", "search")


@pytest.fixture(scope="module")
def report(run):
    return verify_bundle(run.verify())


def failed(report):
    return {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}


def not_run(report):
    return {verdict.name for verdict in report.verdicts if verdict.status is Status.NOT_RUN}


def test_right_bundle_passes_every_check(report):
    assert failed(report) == set()
    assert not_run(report) == {"live/shadow", "live/driving", "live/contract"}
    assert report.passed


def test_every_artifact_is_replayed_on_every_set(report):
    names = {check.name for check in report.checks}
    assert {f"replay/{s}/{a}" for s in OBSERVED for a in ("onnx", "torchscript", "safetensors")} <= names
    assert {"replay/heldout/onnx-head", "replay/stored-features", "golden/stored-outputs"} <= names
    compared = {c.name: {o.name for o in c.outputs} for c in report.checks if isinstance(c, ParityCheck)}
    assert compared["replay/kept/onnx"] == compared["replay/kept/safetensors"] == {"action", "gate_logit", "features"}
    assert compared["replay/kept/torchscript"] == compared["replay/heldout/onnx-head"] == {"action", "gate_logit"}


def test_counts_are_those_of_the_inputs(report):
    checks = {check.name: check for check in report.checks}
    assert checks["replay/heldout/onnx-head"].rows == 300
    # Recorded rows are run one by one, and in batches.
    assert checks["replay/kept/onnx"].rows == 2 * 36
    assert checks["replay/golden/torchscript"].rows == 2 * 16
    assert checks["replay/near/onnx"].rows == checks["replay/flight-like/torchscript"].rows == 64
    assert checks["replay/search/onnx"].rows == 128
    assert checks["replay/search/safetensors"].rows == 32
    assert checks["replay/random/safetensors"].rows == 128
    assert checks["bundle/manifest"].count == 5
    assert checks["replay/random/onnx"].decisions.threshold_logit == CALIBRATION.threshold_logit
    assert 0 < checks["replay/random/onnx"].decisions.positive < 128


def test_worst_row_is_named_in_the_feature_file(report):
    check = next(check for check in report.checks if check.name == "replay/heldout/onnx-head")
    element = max(check.outputs[0].frontier, key=lambda element: element.error)
    episode, step = 2 * (element.row // 50) + 1, element.row % 50
    assert element.where == f"row {element.row} (episode {episode}, step {step})"


def test_report_lies_in_the_bundle_but_not_in_its_manifest(run, report):
    text = (run.bundle / "report.json").read_text()
    assert VerifyReport.from_json(json.loads(text)) == report
    assert "report.json" not in (run.bundle / "manifest.json").read_text()
    assert report.subject.manifest_sha256 == file_sha256(run.bundle / "manifest.json")
    assert report.subject.checkpoint_sha256 == file_sha256(run.checkpoint)
    assert report.subject.dataset_sha256 == file_sha256(run.dataset)
    assert report.environment["providers_used"] == ["CPUExecutionProvider"]
    assert "PASSED" in format_table(report).splitlines()[-1]


def test_only_a_signed_bundle_is_opened_where_a_key_is_trusted(run, tmp_path):
    private, public = ed25519(tmp_path)
    folder = copy_bundle(run.bundle, tmp_path / "bundle")
    unsigned = verify_bundle(run.verify(bundle=folder, trust=public))
    assert failed(unsigned) == {"bundle/signature"}
    assert "is not signed for" in next(v for v in unsigned.verdicts if v.name == "bundle/signature").reasons[0]
    assert not_run(unsigned) >= {"contract", "onnx", "torchscript", "replay"}
    (folder / "report.json").unlink()
    sign_bundle(folder, read_signing_key(private))
    report = verify_bundle(run.verify(bundle=folder, trust=public))
    assert report.passed
    check = next(check for check in report.checks if check.name == "bundle/signature")
    assert read_trusted_key(public).fingerprint in check.compared
    with pytest.raises(OptionError, match="is no public key"):
        verify_bundle(run.verify(bundle=folder, trust=private))


def test_same_seed_same_figures(run, report, tmp_path):
    again = verify_bundle(run.verify(report=tmp_path / "again.json"))
    assert again.checks == report.checks
    other = verify_bundle(run.verify(report=tmp_path / "other.json", seed=1))
    assert other.checks != report.checks


def test_a_seed_is_drawn_for_each_run_and_repeats_it(run, tmp_path):
    first, second = (verify_bundle(run.verify(seed=None, report=tmp_path / f"{i}.json")) for i in range(2))
    seeds = [report.options["seed"] for report in (first, second)]
    assert seeds[0] != seeds[1]
    assert first.checks != second.checks
    again = verify_bundle(run.verify(seed=seeds[0], report=tmp_path / "again.json"))
    assert again.checks == first.checks


def test_without_dataset_the_report_says_so(run, tmp_path):
    report = verify_bundle(run.verify(feature_file=None, replay=False, report=tmp_path / "r.json"))
    assert report.passed
    for name in ("replay/heldout/onnx-head", "replay/kept", "replay/stored-features"):
        verdict = report.verdict(name)
        assert verdict.status is Status.NOT_RUN
        assert "--no-replay" in verdict.reasons[0]
        assert name in format_table(report)


def test_dataset_without_observations_is_replayed_as_far_as_it_goes(run, tmp_path):
    dataset = tmp_path / "few.h5"
    write_policy_file(dataset, run.network, run.checkpoint, kept=0)
    report = verify_bundle(run.verify(feature_file=dataset, report=tmp_path / "r.json"))
    assert report.verdict("replay/heldout/onnx-head").status is Status.PASSED
    assert "--keep-observations" in report.verdict("replay/kept").reasons[0]


def test_limits_on_rows_are_named(run, tmp_path):
    report = verify_bundle(run.verify(max_rows=100, max_observations=10, report=tmp_path / "r.json"))
    checks = {check.name: check for check in report.checks}
    assert checks["replay/heldout/onnx-head"].rows == 100
    assert checks["replay/heldout/onnx-head"].note == "100 of 300 rows, spread evenly"
    assert checks["replay/kept/onnx"].rows == 2 * 10
    assert checks["replay/kept/onnx"].compared.startswith("10 of 36 recorded")


def test_progress_names_phases_and_ends_complete(run, tmp_path):
    told: list[Progress] = []
    verify_bundle(run.verify(report=tmp_path / "r.json"), told.append)
    last = {progress.phase: (progress.completed, progress.total) for progress in told}
    assert last["replay held-out rows"] == (300, 300)
    assert last["replay kept, torchscript"] == (72, 72)
    assert last["search"] == (128, 128)


@pytest.mark.parametrize(
    "export",
    [
        {"input_layout": "flat", "physical_actions": True, "gate_output": "probability"},
        {"batch_size": 3, "use_auxiliary_head": False},
        {"opset": 17, "input_names": ("state", "img"), "output_names": ("actions", "auxiliary"), "feature_file": None},
    ],
    ids=lambda export: ",".join(export),
)
def test_every_kind_of_bundle_passes(tmp_path, export):
    run = make_run(tmp_path, seed=3, **export)
    report = verify_bundle(run.verify())
    assert failed(report) == set(), format_table(report)
    gate = export.get("use_auxiliary_head", True)
    assert (next(c for c in report.checks if c.name == "replay/kept/onnx").decisions is not None) is gate


@pytest.mark.parametrize("seed", range(2))
def test_other_policies_pass_too(tmp_path, seed):
    run = make_run(tmp_path, seed=10 + seed)
    report = verify_bundle(run.verify(seed=seed, random_rows=512))
    assert failed(report) == set(), format_table(report)


def test_other_file_with_the_same_tensors_passes_and_is_named(run, tmp_path):
    renamed = tmp_path / "resaved.safetensors"
    checkpoint = load_checkpoint(run.checkpoint)
    save_safetensors(renamed, checkpoint.network, 7, checkpoint.calibration)
    data = bytearray(renamed.read_bytes())
    # A space more at the end of the header is another file with the same content.
    length = int.from_bytes(data[:8], "little")
    data[:8] = (length + 8).to_bytes(8, "little")
    data[8 + length : 8 + length] = b" " * 8
    renamed.write_bytes(bytes(data))
    report = verify_bundle(run.verify(checkpoint=renamed, report=tmp_path / "r.json"))
    assert failed(report) == set()
    check = next(check for check in report.checks if check.name == "contract/checkpoint")
    assert "another file than this one, with the same tensors" in check.note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_file": None}, "--no-replay"),
        ({"replay": False}, "contradict"),
        ({"live": True, "episodes": 15}, "at least 16"),
        ({"live": True, "live_modes": ()}, "no live mode"),
        ({"live_modes": ("shadow", "drving")}, "'drving'"),
        ({"max_rows": 0}, "--max-rows 0"),
        ({"random_rows": 0}, "--random-rows 0"),
    ],
)
def test_wrong_options_are_refused(run, changes, message):
    with pytest.raises(OptionError, match=message):
        verify_bundle(run.verify(**changes))


def test_missing_inputs_are_refused(run, tmp_path):
    with pytest.raises(BundleError):
        verify_bundle(run.verify(bundle=tmp_path / "none"))
    with pytest.raises(CheckpointError):
        verify_bundle(run.verify(checkpoint=tmp_path / "none.pt"))
    with pytest.raises(DatasetError):
        verify_bundle(run.verify(feature_file=tmp_path / "none.h5"))


def test_dataset_of_another_policy_is_refused(run, tmp_path):
    dataset = tmp_path / "other.h5"
    write_policy_file(dataset, small_network(99), run.checkpoint)
    with pytest.raises(DatasetError, match="another policy"):
        verify_bundle(run.verify(feature_file=dataset))


def test_unknown_task_is_refused_before_the_work(run):
    told: list[Progress] = []
    with pytest.raises(TaskError):
        verify_bundle(run.verify(live=True, task="DiffLab-Quadcopter-CTBR-Racng-v0"), told.append)
    assert told == []


def test_unmatched_observation_is_refused(run):
    with pytest.raises(TaskError, match="6928 numbers, the policy takes 784"):
        verify_bundle(run.verify(live=True, episodes=16))


def test_defaults_ask_for_a_dataset(run):
    with pytest.raises(OptionError, match="--feature-file"):
        verify_bundle(VerifyOptions(bundle=run.bundle, checkpoint=run.checkpoint))


def test_vehicle_from_a_file_is_checked_against_that_file(tmp_path):
    vehicle = tmp_path / "vehicle.yaml"
    vehicle.write_text("max_thrust_to_weight: 4.0\n")
    run = make_run(tmp_path, vehicle_file=vehicle)
    checked = ("contract/action", "contract/timing", "contract/vehicle")
    report = verify_bundle(run.verify(vehicle_file=vehicle))
    assert [report.verdict(name).status for name in checked] == [Status.PASSED] * 3
    report = verify_bundle(run.verify())
    assert [report.verdict(name).status for name in checked] == [Status.FAILED, Status.PASSED, Status.FAILED]
    assert "give the file that export was given, with --vehicle" in report.verdict("contract/vehicle").reasons[-1]
    report = verify_bundle(run.verify(vehicle=False))
    assert [report.verdict(name).status for name in checked] == [Status.NOT_RUN] * 3
    vehicle.write_text("max_thrust_to_weight: 3.5\n")
    report = verify_bundle(run.verify(vehicle_file=vehicle))
    assert report.verdict("contract/action").status is Status.FAILED


def test_missing_onnxruntime_is_one_clear_line():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from deploy_kit.errors import MissingDependencyError\n"
        "from pathlib import Path\n"
        "from deploy_kit.verify.verifier import VerifyOptions, verify_bundle\n"
        # It takes longer than a check, and only pictures need it.
        "assert 'matplotlib' not in sys.modules\n"
        "import deploy_kit.flight.fly\n"
        "try:\n    verify_bundle(VerifyOptions(Path('b'), Path('c'), replay=False, live=False))\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("onnxruntime is not installed")


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, deploy_kit.verify; print([m for m in ('torch', 'onnx', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.reference
@pytest.mark.slow
def test_reference_policy_passes_and_a_weight_off_fails(reference_run, tmp_path):
    checkpoint = reference_run / "model_7998.pt"
    bundle = export_bundle(ExportOptions(checkpoint=checkpoint, output=tmp_path / "bundle", use_auxiliary_head=True))
    options = VerifyOptions(bundle=bundle, checkpoint=checkpoint, replay=False, live=False, seed=0)
    report = verify_bundle(options)
    assert failed(report) == set(), format_table(report)
    put_a_weight_off(bundle)
    assert {"onnx/proof", "replay/random/onnx"} <= failed(verify_bundle(options))
