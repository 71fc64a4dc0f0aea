"""What ``inspect`` says of every file that deploy-kit writes or reads, and that it executes none of them."""

import io
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch

from deploy_kit.bundle.reader import MAX_FILE_BYTES
from deploy_kit.cli.file_kind import FileKind, kind_of
from deploy_kit.errors import InputError
from deploy_kit.files import file_sha256
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import copy_bundle, make_run
from helpers.flight_logs import fly_logged


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small policy's checkpoint, feature file and verified bundle."""
    run = make_run(tmp_path_factory.mktemp("inspect"))
    assert verify_bundle(run.verify(replay=False, feature_file=None, random_rows=8)).passed
    return run


@pytest.fixture
def inspect(cli):
    def inspect(path) -> dict:
        result = cli("inspect", path, "--json")
        assert result.code == 0, result
        shown = cli("inspect", path)
        content = json.loads(result.stdout)
        assert shown.code == 0
        assert shown.stdout.splitlines()[0] == f"{content['kind']} {path}"
        return content

    return inspect


# -- what each file is ---------------------------------------------------------------------------------------------


def test_each_file_of_a_bundle_is_told(run):
    kinds = {path.name: str(kind_of(path)) for path in run.bundle.iterdir() if path.suffix != ".html"}
    assert kinds == {
        "policy.onnx": "ONNX graph",
        "policy.pt": "TorchScript module",
        "policy.safetensors": "checkpoint",
        "contract.json": "contract",
        "golden.npz": "arrays",
        "manifest.json": "manifest",
        "report.json": "report",
    }
    assert kind_of(run.bundle) is FileKind.BUNDLE
    assert kind_of(run.checkpoint.parent) is FileKind.RUN
    assert kind_of(run.dataset) is FileKind.FEATURE_FILE


def test_onnx(run, inspect):
    content = inspect(run.bundle / "policy.onnx")
    model = onnx.load(run.bundle / "policy.onnx")
    assert content["sha256"] == file_sha256(run.bundle / "policy.onnx")
    assert content["opsets"] == {"ai.onnx": 18}
    assert content["inputs"] == [
        {"name": "state", "dtype": "float32", "shape": ["batch", 16]},
        {"name": "depth", "dtype": "float32", "shape": ["batch", 1, 24, 32]},
    ]
    assert [output["name"] for output in content["outputs"]] == ["action", "gate_logit"]
    assert sum(content["operators"].values()) == len(model.graph.node)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert content["weights"] == {
        "tensors": len(weights),
        "parameters": sum(weight.size for weight in weights),
        "outside_the_file": 0,
    }
    assert content["contract"] == json.loads((run.bundle / "contract.json").read_text())


def test_onnx_does_not_read_what_lies_outside_the_file(run, inspect, tmp_path):
    model = onnx.load(run.bundle / "policy.onnx")
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    weights = inspect(path)["weights"]
    assert weights["outside_the_file"] == weights["tensors"] > 0


def test_torchscript_is_listed_and_not_loaded(run, inspect, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *given: pytest.fail("it was loaded"))
    content = inspect(run.bundle / "policy.pt")
    with zipfile.ZipFile(run.bundle / "policy.pt") as archive:
        assert content["members"] == len(archive.namelist())
        assert content["bytes_inside"] == sum(entry.file_size for entry in archive.infolist())
    assert len(content["code"]) >= 1
    assert "nothing was loaded or executed" in content["read"]


def test_contract(run, inspect):
    assert inspect(run.bundle / "contract.json")["contract"] == json.loads((run.bundle / "contract.json").read_text())


def test_golden_samples(run, inspect):
    content = inspect(run.bundle / "golden.npz")
    with np.load(run.bundle / "golden.npz") as golden:
        assert content["arrays"] == {
            name: {"dtype": str(golden[name].dtype), "shape": list(golden[name].shape)} for name in golden.files
        }
        assert sum(content["reasons"].values()) == len(golden["reason"]) == content["samples"]
    assert content["source"] == "recorded"


def test_arrays_are_told_from_their_headers(inspect, tmp_path):
    # A header that claims 8 TB costs nothing, and objects are not unpickled.
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, dtype, shape in (("observation", "<f8", (10**9, 1000)), ("thing", "|O", (3,))):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue())
    assert inspect(path)["arrays"] == {
        "observation": {"dtype": "float64", "shape": [10**9, 1000]},
        "thing": {"dtype": "object", "shape": [3]},
    }


def test_manifest_says_which_files_are_as_listed(run, inspect, tmp_path):
    bundle = copy_bundle(run.bundle, tmp_path / "copy")
    data = json.loads((bundle / "manifest.json").read_text())
    data["files"]["../outside"] = data["files"]["policy.pt"]
    (bundle / "manifest.json").write_text(json.dumps(data))
    (tmp_path / "outside").write_bytes((bundle / "policy.pt").read_bytes())
    (bundle / "policy.pt").unlink()
    onnx_bytes = bytearray((bundle / "policy.onnx").read_bytes())
    onnx_bytes[-1] ^= 1
    (bundle / "policy.onnx").write_bytes(onnx_bytes)
    states = {name: entry["state"] for name, entry in inspect(bundle / "manifest.json")["files"].items()}
    assert states == {
        "policy.onnx": "altered",
        "policy.pt": "missing",
        "policy.safetensors": "as listed",
        "contract.json": "as listed",
        "golden.npz": "as listed",
        "../outside": "refused: not a plain file name",
    }


def test_report_begins_with_its_verdict(run, inspect, cli, tmp_path):
    path = run.bundle / "report.json"
    assert cli("inspect", path).stdout.splitlines()[1].strip() == "verdict: VERIFIED"
    data = json.loads(path.read_text())
    content = inspect(path)
    assert "contradiction" not in content
    assert content["counts"]["failed"] == 0
    assert set(content["checks"]) == {verdict["name"] for verdict in data["verdicts"]}
    # The verdict comes from the figures, whatever else the file says.
    parity = next(check for check in data["checks"] if check["kind"] == "parity")
    parity["outputs"][0]["nonfinite"] = 3
    altered = tmp_path / "report.json"
    altered.write_text(json.dumps(data))
    content = inspect(altered)
    assert content["verdict"] == "FAILED"
    assert content["counts"]["failed"] == 1
    assert content["contradiction"] == "the file says passed: True, its figures say False"


def test_vehicle_file(inspect, tmp_path):
    path = tmp_path / "vehicle.yaml"
    path.write_text("max_thrust_to_weight: 3.5\nmax_body_rate: 6\n")
    content = inspect(path)
    assert content["kind"] == "vehicle"
    assert content["numbers"] == {"max_thrust_to_weight": 3.5, "max_body_rate": [6.0, 6.0, 6.0]}
    assert content["left_to_run_or_task"] == [
        *("gravity", "policy_period_s", "depth_period_s", "action_latency_steps"),
    ]
    as_json = tmp_path / "vehicle.json"
    as_json.write_text('{"gravity": 9.81}')
    assert inspect(as_json)["numbers"] == {"gravity": 9.81}


def test_run_folder_lists_its_checkpoints_and_describes_the_latest(checkpoint, inspect):
    (checkpoint.parent / "model_3.pt").write_bytes(checkpoint.read_bytes())
    content = inspect(checkpoint.parent)
    assert content["kind"] == "run"
    assert content["checkpoints"] == ["model_3.pt", "model_7.pt"]
    assert content["taken_for_a_checkpoint"] == "model_7.pt"
    assert content["checkpoint"]["sha256"] == file_sha256(checkpoint)


def test_finetune_folder_and_its_metrics(checkpoint, inspect):
    folder = checkpoint.parent
    names = [f"policy_finetune_epoch-{epoch}.pt" for epoch in (1, 2)]
    for name in names:
        (folder / name).write_bytes(checkpoint.read_bytes())
    checkpoint.unlink()
    epochs = [{"epoch": epoch, "checkpoint": name} for epoch, name in enumerate(names, 1)]
    metrics = {"best_epoch": 1, "epochs": epochs, "after": {"auroc": 0.75}, "comparison": {"long": 1}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    content = inspect(folder)
    assert content["kind"] == "finetuning"
    assert content["checkpoints"] == names
    assert content["taken_for_a_checkpoint"] == names[0]
    assert content["metrics"]["after"] == {"auroc": 0.75}
    content = inspect(folder / "metrics.json")
    assert content["kind"] == "metrics"
    assert content["best_epoch"] == 1
    assert [epoch["name"] for epoch in content["epochs"]] == names


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt", "contract.json", "golden.npz", "manifest.json"])
def test_a_damaged_file_gets_one_line(run, refused, tmp_path, name):
    path = tmp_path / name
    data = (run.bundle / name).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused("inspect", path, words=(str(path),))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "some notes\n"),
        ("other.json", '{"colour": "red"}'),
        ("picture.png", "\x89PNG"),
        ("empty", ""),
    ],
)
def test_an_unknown_file_gets_one_line(refused, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    refused("inspect", path, words=(str(path), "a file of an unknown kind", "inspect knows"))


def test_json_that_is_not_whole_gets_one_line(refused, tmp_path):
    for name, text, words in (
        ("list.json", "[1, 2]", "not an object"),
        ("cut.json", '{"checks": [', "not valid JSON"),
        ("deep.json", '{"a":' * 100_000, "not valid JSON"),
        ("report.json", '{"checks": [{"kind": "x"}], "verdicts": []}', "report"),
        ("metrics.json", '{"epochs": 3, "best_epoch": 1}', "no list of epochs"),
        ("flight.json", '{"flights": []}', "no list of flights"),
        ("manifest.json", '{"manifest_version": 1}', "no table of files"),
    ):
        path = tmp_path / name
        path.write_text(text)
        refused("inspect", path, words=(str(path) if name != "report.json" else "report", words))


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt", "golden.npz"])
def test_a_file_too_large_is_refused_before_it_is_read(run, refused, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((run.bundle / name).read_bytes())
    with path.open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: it takes no room
    refused("inspect", path, words=(str(path), f"up to {MAX_FILE_BYTES}"))


def test_names_in_a_file_cannot_steer_the_terminal(cli, tmp_path):
    path = tmp_path / "evil.onnx"
    node = onnx.helper.make_node("Identity", ["\x1b[2Jx"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("\x1b[2Jx", 1, [1])], [value("y", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), path)
    shown = cli("inspect", path).stdout
    assert "\x1b" not in shown
    assert "\\x1b[2Jx" in shown


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"gone\.onnx does not exist; inspect knows"):
        kind_of(tmp_path / "gone.onnx")


def test_flight_log(run, inspect, tmp_path):
    log = fly_logged(run.bundle, tmp_path / "flight.dklog", steps=4)
    content = inspect(log)
    assert (content["kind"], content["steps"], content["ended"], content["refused"]) == ("flight log", 4, "closed", {})
    assert content["header"]["files"].keys() == json.loads((run.bundle / "manifest.json").read_text())["files"].keys()
