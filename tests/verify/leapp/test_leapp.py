"""A policy that LEAPP exported, judged: right ones in LEAPP's forms pass, each kind of wrong one fails by name."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import yaml

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.errors import BundleError, OptionError
from deploy_kit.verify import artifacts
from deploy_kit.verify.leapp.description import read_leapp
from deploy_kit.verify.leapp.run import verify_leapp
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.report import Status
from helpers.bundles import shift_initializer
from helpers.leapp_export import run_leapp
from helpers.variants import described


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """The small policy, exported by LEAPP itself in several forms."""
    folder = tmp_path_factory.mktemp("leapp")
    run_leapp("export", run.checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def export(exports):
    """Folder of the export with state and image apart."""
    return exports / "split"


@pytest.fixture
def copy(export, tmp_path):
    """A copy of the description, to be broken."""
    return shutil.copytree(export, tmp_path / "copy", ignore=shutil.ignore_patterns("report*")) / "split.yaml"


def options(run, path, **changes) -> VerifyOptions:
    defaults = VerifyOptions(
        bundle=path,
        checkpoint=run.checkpoint,
        replay=False,
        live=False,
        seed=0,
        random_rows=64,
        search_evaluations=64,
    )
    return replace(defaults, **changes)


def failed(report):
    return {verdict.name: verdict.reasons[0] for verdict in report.verdicts if verdict.status is Status.FAILED}


def edit(path, change, graph=None):
    """Change the description, and the graph with hashes that fit."""
    data = yaml.safe_load(path.read_text())
    parameters = data["models"]["policy"]["parameters"]
    if graph is not None:
        file = path.parent / parameters["model_path"]
        model = onnx.load(file)
        graph(model)
        file.write_bytes(model.SerializeToString())
        parameters["sha256sum"] = hashlib.sha256(file.read_bytes()).hexdigest()
        parameters["md5sum"] = hashlib.md5(file.read_bytes()).hexdigest()
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def nothing(data):
    """Change nothing."""


def test_what_leapp_exported_is_the_checkpoint(run, export):
    report = verify_leapp(options(run, export / "split.yaml", feature_file=run.dataset, replay=True))
    assert failed(report) == {}
    assert report.passed
    names = [check.name for check in report.checks]
    for name in ("leapp/description", "leapp/model", "onnx/proof", "replay/kept/onnx", "replay/search/onnx"):
        assert name in names
    assert (export / "report-leapp.json").is_file()
    assert (export / "report-leapp.html").is_file()
    # Two things are never run: the option says so, or there is no contract.
    assert [check.switch for check in report.checks if report.verdict(check.name).status is Status.NOT_RUN] == [
        "--no-live",
        "--no-live",
        "LEAPP",
    ]


@pytest.mark.parametrize("form", ["flat", "probability"])
def test_other_forms_are_known_too(run, exports, form):
    report = verify_leapp(options(run, exports / form / f"{form}.yaml"))
    assert failed(report) == {}
    assert report.passed


def test_another_policy_fails(other_run, export):
    reasons = failed(verify_leapp(options(other_run, export / "split.yaml")))
    assert "stem.0.weight" in reasons["onnx/proof"] or "differs" in reasons["onnx/proof"]
    assert "replay/near/onnx" in reasons


def shift_a_weight(model):
    name = next(tensor.name for tensor in model.graph.initializer if list(tensor.dims) == [16, 24])
    shift_initializer(model, name, 1e-3)


def test_a_changed_weight_with_hashes_that_fit(run, copy):
    edit(copy, nothing, shift_a_weight)
    reasons = failed(verify_leapp(options(run, copy)))
    assert reasons["onnx/proof"].startswith("actor.0.weight differs in 1 of 384 values")


@pytest.mark.parametrize("name", ["sha256sum", "md5sum"])
def test_a_wrong_hash(run, copy, name):
    edit(copy, lambda data: data["models"]["policy"]["parameters"].update({name: "0" * 64}))
    reasons = failed(verify_leapp(options(run, copy)))
    assert list(reasons) == ["leapp/model"]
    assert reasons["leapp/model"].startswith(f"{name} of policy.onnx is ")


def swap_names(data):
    outputs = data["models"]["policy"]["outputs"]
    outputs[0]["name"], outputs[1]["name"] = outputs[1]["name"], outputs[0]["name"]
    data["pipeline"]["outputs"]["policy"].reverse()


def test_swapped_names_of_outputs(run, copy):
    edit(copy, swap_names)
    reasons = failed(verify_leapp(options(run, copy)))
    assert reasons["onnx/signature"] == "outputs are action, gate, the description names gate, action"
    assert reasons["onnx/provider"] == "not run: a check above says why"


def swap_order(data):
    data["models"]["policy"]["inputs"].reverse()
    data["pipeline"]["inputs"]["policy"].reverse()


def test_swapped_inputs_have_other_shapes(run, copy):
    edit(copy, swap_order)
    with pytest.raises(BundleError, match="the inputs have shapes"):
        verify_leapp(options(run, copy))


def test_swapped_outputs_have_other_shapes(run, copy):
    def swap(data):
        data["models"]["policy"]["outputs"].reverse()
        data["pipeline"]["outputs"]["policy"].reverse()

    edit(copy, swap)
    with pytest.raises(BundleError, match="the outputs have shapes"):
        verify_leapp(options(run, copy))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["pipeline"]["outputs"]["policy"].pop(), "the pipeline's outputs are"),
        (lambda data: data["pipeline"].update(feedback_flow={"policy/action": ["policy/state"]}), "feedback_flow"),
        (lambda data: data["pipeline"].update(data_flow={"policy/action": ["policy/state"]}), "data_flow"),
        (lambda data: data["pipeline"].update(initial_values="start.safetensors"), "initial_values"),
        (lambda data: data["models"]["policy"]["inputs"][0].update(dtype="float16"), "state is float16"),
    ],
)
def test_wiring_that_is_not_one_call_of_one_model(run, copy, change, words):
    edit(copy, change)
    assert words in failed(verify_leapp(options(run, copy)))["leapp/description"]


def noise(model):
    model.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1]))


def test_an_operator_off_the_list_is_not_run(run, copy):
    edit(copy, nothing, noise)
    reasons = failed(verify_leapp(options(run, copy)))
    assert reasons["onnx/operators"].startswith("RandomNormal")
    assert reasons["onnx/provider"] == "not run: a check above says why"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("pipeline"), "no mapping 'pipeline'"),
        (lambda data: data["models"].update(second=data["models"]["policy"]), "2 models"),
        (lambda data: data["models"]["policy"]["parameters"].update(backend="jit"), "backend is 'jit'"),
        (lambda data: data["models"]["policy"]["parameters"].pop("sha256sum"), "lack sha256sum"),
        (lambda data: data["models"]["policy"]["parameters"].update(model_path="../x.onnx"), "must lie beside"),
        (lambda data: data["models"]["policy"]["parameters"].update(model_path="/etc/passwd"), "must lie beside"),
        (lambda data: data["models"]["policy"]["parameters"].update(model_path="no.onnx"), "no regular file"),
        (lambda data: data["models"]["policy"]["parameters"].update(model_path="x" * 5000), "cannot be looked up"),
        (lambda data: data["models"]["policy"].update(inputs=[]), "lacks inputs"),
        (lambda data: data["models"]["policy"]["inputs"][0].update(shape="[1, 16]"), "is no tensor"),
        (lambda data: data["models"]["policy"]["inputs"][0].update(shape=[True, 16]), "is no tensor"),
    ],
)
def test_what_is_no_description(run, copy, change, words):
    edit(copy, change)
    with pytest.raises(BundleError, match=words.replace("[", r"\[")):
        read_leapp(copy)


def test_a_model_that_is_a_link(copy, export):
    model = copy.parent / "policy.onnx"
    model.unlink()
    model.symlink_to(export / "policy.onnx")
    with pytest.raises(BundleError, match="no regular file"):
        read_leapp(copy)


def test_a_model_in_a_folder_that_is_a_link(copy, export):
    (copy.parent / "folder").symlink_to(export)
    edit(copy, lambda data: data["models"]["policy"]["parameters"].update(model_path="folder/policy.onnx"))
    with pytest.raises(BundleError, match="is a link elsewhere"):
        read_leapp(copy)


def test_a_flight_log_has_no_meaning(run, copy, tmp_path):
    with pytest.raises(OptionError, match="--flight has no effect"):
        verify_leapp(options(run, copy, flight=tmp_path / "flight.dklog"))


def test_it_bears_no_signature_of_a_bundle(run, copy, tmp_path):
    with pytest.raises(OptionError, match="--trust has no effect"):
        verify_leapp(options(run, copy, trust=tmp_path / "key.pem"))


def test_the_checkpoint_lies_elsewhere(run, copy):
    shutil.copy(run.checkpoint, copy.parent / "model.safetensors")
    with pytest.raises(OptionError, match="held against itself"):
        verify_leapp(options(run, copy, checkpoint=copy.parent / "model.safetensors"))


def test_leapps_own_manager_runs_what_was_judged_and_what_a_bundle_says(run, export, tmp_path):
    bundle = described(run, tmp_path).bundle
    golden = np.load(bundle / "golden.npz")
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.normal(size=(3, 16)), rng.random((3, 24 * 32))], 1).astype(np.float32)
    jobs = []
    for name, description, rows in (
        ("judged", export / "split.yaml", drawn),
        ("bundle", bundle / "leapp.yaml", golden["observation"][:4]),
    ):
        np.savez(tmp_path / f"{name}-in.npz", state=rows[:, :16], depth=rows[:, 16:].reshape(-1, 1, 24, 32))
        jobs += [description, tmp_path / f"{name}-in.npz", tmp_path / f"{name}-out.npz"]
    run_leapp("run", *jobs)
    wanted = run.network(torch.from_numpy(drawn))
    with np.load(tmp_path / "judged-out.npz") as found:
        assert np.allclose(found["action"], wanted.action.numpy(), rtol=1e-5, atol=1e-5)
        assert np.allclose(found["gate"], wanted.gate_logit.numpy(), rtol=1e-5, atol=1e-5)
    with np.load(tmp_path / "bundle-out.npz") as found:
        assert np.allclose(found["action"], golden["action"][:4], rtol=1e-5, atol=1e-5)
        assert np.allclose(found["gate_logit"], golden["gate_logit"][:4], rtol=1e-5, atol=1e-5)


def test_a_bundles_description_can_be_judged_like_leapps_own(run, tmp_path):
    # The graph's batch is free, LEAPP's is 1.
    report = verify_leapp(options(run, described(run, tmp_path).bundle / "leapp.yaml"))
    assert failed(report) == {}
    assert report.passed


def test_a_long_description_is_not_parsed(run, tmp_path, monkeypatch):
    changed = described(run, tmp_path, rewrite=lambda text: text + "more: [" + "[]," * 20_000 + "]\n")

    def parse(*arguments):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(artifacts, "read_yaml", parse)
    check = artifacts._leapp_check(open_bundle(changed.bundle))
    assert "bytes, export writes" in check.problems[0]


def test_a_bundles_description_says_what_the_numbers_are(run, tmp_path):
    data = yaml.safe_load((described(run, tmp_path).bundle / "leapp.yaml").read_text())
    state, depth = data["models"]["policy"]["inputs"]
    action, gate = data["models"]["policy"]["outputs"]
    assert state["shape"] == [1, 16]
    assert len(state["element_names"][0]) == 16
    assert [term["name"] for term in state["terms"]][:2] == ["base_lin_vel", "base_orientation"]
    assert depth["image"]["divisor_m"] == 10.0
    assert action["element_names"] == [["thrust", "body_rate_x", "body_rate_y", "body_rate_z"]]
    assert action["to_command"]["units"][0] == "m/s²"
    assert gate["threshold"] == pytest.approx(run_threshold(run))
    assert data["pipeline"]["configs"]["frequency"] == pytest.approx(1 / 0.03)


def run_threshold(run):
    return open_bundle(run.bundle).contract.gate.threshold_logit
