"""`bench`: which candidates run on what, what is refused before anything runs, and what is reported."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from deploy_kit.bench import candidates
from deploy_kit.bench import run as bench_run
from deploy_kit.bench.masterracing_graph import masterracing_graph
from deploy_kit.bench.options import BenchOptions
from deploy_kit.bench.plot import plot_bench
from deploy_kit.bench.report import BenchReport
from deploy_kit.bench.run import bench_bundle
from deploy_kit.bundle.reader import CPP_NAME, manifest_text, open_bundle
from deploy_kit.errors import BundleError, CheckFailedError, DeployKitError, OptionError
from deploy_kit.onboard.binding import BoundSession
from deploy_kit.verify.structure.confinement import unavailable
from helpers.bundles import edit_onnx, put_a_weight_off, shift_initializer
from helpers.cpp_headers import with_header
from helpers.variants import narrowed

QUICK = {"steps": 50, "paced_steps": 2, "rate_hz": 1000.0, "start": False}


@pytest.fixture(scope="module")
def other_graph(tmp_path_factory):
    """A graph that has nothing to do with the bundle: one input of unknown batch, one operator."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def report(run, other_graph) -> BenchReport:
    options = BenchOptions(run.bundle, onnx=(other_graph,), masterracing=True, **{**QUICK, "start": True})
    return bench_bundle(options)


def test_each_artifact_runs_in_each_engine(report):
    names = [row.name for row in report.rows]
    expected = [
        "onnx, session.run, cpu-all-1",
        "onnx, io binding, cpu-all-1",
        "onnx, onboard step, cpu-all-1",
        "torchscript, torch, confined",
        "pytorch, eager",
        "masterracing, session.run, cpu-all-1",
        "other.onnx, session.run, cpu-all-1",
    ]
    if unavailable() is not None:
        expected.remove("torchscript, torch, confined")
        assert "torchscript" in report.left_out
    else:
        assert report.left_out == {}
    assert names == expected


def test_every_candidate_has_as_many_steps_as_asked(report):
    assert {row.back_to_back.steps for row in report.rows} == {50}
    assert {row.paced.steps for row in report.rows} == {2}
    assert report.rate_hz == 1000.0
    for row in report.rows:
        for figures in (row.back_to_back, row.paced):
            assert 0 < figures.p50_us <= figures.p99_us <= figures.max_us
            assert figures.p99_9_us is None


def test_ratios_are_to_the_first(report):
    first, *others = report.rows
    assert report.ratio(first, "back_to_back") == 1.0
    for row in others:
        assert report.ratio(row, "paced") == row.paced.p50_us / first.paced.p50_us


def test_fresh_processes_hold_what_they_need_alone(report):
    starts = {row.name: row.start for row in report.rows}
    for start in starts.values():
        assert 0 < start.open_s < start.total_s
        assert start.first_us > 0
    # No torch where none is needed: it takes some 200 MiB.
    assert starts["onnx, session.run, cpu-all-1"].peak_mib + 50 < starts["pytorch, eager"].peak_mib
    assert starts["onnx, onboard step, cpu-all-1"].peak_mib + 50 < starts["pytorch, eager"].peak_mib


def test_json_and_picture(report, tmp_path):
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["bench_version"] == 1
    assert [row["name"] for row in data["rows"]] == [row.name for row in report.rows]
    assert data["rows"][0]["ratio"] == {"back_to_back": 1.0, "paced": 1.0}
    assert data["manifest_sha256"] == report.manifest_sha256
    plot_bench(report, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        assert image.size[0] > 1000


def test_masterracings_form_computes_the_same(run):
    bundle = open_bundle(run.bundle)
    formed = masterracing_graph(onnx.load(bundle.onnx_path), bundle.contract)
    assert formed.opset_import[0].version == 11
    assert {"Concat", "Slice", "Reshape", "Sigmoid"} <= {node.op_type for node in formed.graph.node}
    observation = bundle.golden.observation
    split = bundle.contract.observation.state_size
    feed = {"state": observation[:, :split], "depth": observation[:, split:].reshape(len(observation), 1, 24, 32)}
    action, gate = onnxruntime.InferenceSession(formed.SerializeToString()).run(None, feed)
    assert np.allclose(action, bundle.golden.action, rtol=1e-5, atol=1e-5)
    assert np.allclose(gate, 1 / (1 + np.exp(-bundle.golden.gate_logit)), rtol=1e-5, atol=1e-5)


def test_the_checkpoint_is_what_artifacts_are_proven_against(run, other_run):
    assert bench_bundle(BenchOptions(run.bundle, checkpoint=run.checkpoint, torchscript=False, **QUICK)).rows
    with pytest.raises(CheckFailedError, match=r"nothing was run"):
        bench_bundle(BenchOptions(run.bundle, checkpoint=other_run.checkpoint, **QUICK))


def test_a_graph_that_is_not_the_networks_is_not_run(bundle_copy, monkeypatch):
    put_a_weight_off(bundle_copy)
    monkeypatch.setattr("deploy_kit.bench.run.Bench", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(CheckFailedError, match=r"onnx/proof: .*stem\.3\.weight.*nothing was run"):
        bench_bundle(BenchOptions(bundle_copy, **QUICK))


def test_an_altered_bundle_is_refused(bundle_copy):
    model = onnx.load(bundle_copy / "policy.onnx")
    shift_initializer(model, "stem.3.weight", 1e-3)
    onnx.save(model, bundle_copy / "policy.onnx")
    with pytest.raises(BundleError, match="the manifest says"):
        bench_bundle(BenchOptions(bundle_copy, **QUICK))


def test_an_operator_off_the_list_is_not_run(bundle_copy):
    def add_loop(model):
        model.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[1]))

    edit_onnx(bundle_copy, add_loop)
    with pytest.raises(CheckFailedError, match="onnx/operators: RandomNormal"):
        bench_bundle(BenchOptions(bundle_copy, **QUICK))


def test_a_provider_that_is_not_there_is_left_out_and_named(run):
    report = bench_bundle(BenchOptions(run.bundle, providers=("cpu", "cuda"), torchscript=False, **QUICK))
    assert "onnxruntime has no CUDAExecutionProvider" in report.left_out["onnx, cuda-all-1"]
    assert report.left_out["torchscript"] == "--no-torchscript"
    assert [row.runtime for row in report.rows] == ["cpu-all-1"] * 3 + [None]


def test_bound_arrays_that_are_read_once_alone_are_not_timed(run, monkeypatch):
    """As CUDA would, which copies them when they are bound."""

    class ReadOnce(BoundSession):
        def __init__(self, session, inputs, outputs):
            super().__init__(session, [(name, array.copy()) for name, array in inputs], outputs)

    monkeypatch.setattr(candidates, "BoundSession", ReadOnce)
    with pytest.raises(DeployKitError, match="bound arrays give something else than the session's run"):
        bench_bundle(BenchOptions(run.bundle, torchscript=False, **QUICK))


def test_the_header_runs_alone_and_on_board(run, tmp_path):
    bundle = with_header(run, tmp_path).bundle
    report = bench_bundle(BenchOptions(bundle, torchscript=False, **QUICK))
    assert "cpp" not in report.left_out, report.left_out
    assert [row.name for row in report.rows if row.artifact == "cpp"] == ["cpp, native run", "cpp, onboard step"]


def test_what_is_put_into_the_bundle_after_the_checks_does_not_run(run, tmp_path, monkeypatch):
    bundle, mark, check = with_header(run, tmp_path).bundle, tmp_path / "mark", bench_run._require_proven
    evil = f'#include <fstream>\nstatic const bool evil = (std::ofstream("{mark}") << 1).good();\n'

    def exchange(*arguments):
        answer = check(*arguments)
        (bundle / CPP_NAME).write_text((bundle / CPP_NAME).read_text() + evil)
        (bundle / "manifest.json").write_text(manifest_text(bundle))
        return answer

    monkeypatch.setattr(bench_run, "_require_proven", exchange)
    with pytest.raises(BundleError, match=r"policy\.hpp: has changed since the bundle was opened"):
        bench_bundle(BenchOptions(bundle, torchscript=False, **QUICK))
    assert not mark.exists()


def test_variants_run_too(run, tmp_path):
    report = bench_bundle(BenchOptions(narrowed(run, tmp_path).bundle, torchscript=False, **QUICK))
    names = [row.name for row in report.rows if row.artifact == "onnx int8"]
    assert names == [f"onnx int8, {engine}, cpu-all-1" for engine in ("session.run", "io binding", "onboard step")]


def test_without_paced_steps_there_is_no_rate(run):
    report = bench_bundle(BenchOptions(run.bundle, torchscript=False, steps=50, paced_steps=0, start=False))
    assert report.rate_hz is None
    assert {row.paced for row in report.rows} == {None}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda model: model.graph.node[0].__setattr__("domain", "com.microsoft"), "domain 'com.microsoft'"),
        (lambda model: model.graph.initializer.append(external()), "stored in another file"),
        (lambda model: model.functions.add(), "FunctionProto"),
    ],
)
def test_a_graph_of_the_users_with_something_hidden_is_refused(run, other_graph, tmp_path, edit, words):
    model = onnx.load(other_graph)
    edit(model)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OptionError, match=words):
        bench_bundle(BenchOptions(run.bundle, onnx=(tmp_path / "odd.onnx",), **QUICK))


def external():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"not a graph", "not a readable ONNX file"), (b"", "it holds 0 graphs")],
)
def test_a_file_that_is_no_graph(run, tmp_path, content, words):
    path = tmp_path / "file.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError, match=words):
        bench_bundle(BenchOptions(run.bundle, onnx=(path,), torchscript=False, **QUICK))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": -1}, "--steps -1"),
        ({"steps": 0, "paced_steps": 0, "start": False}, "nothing is left"),
        ({"rate_hz": float("nan")}, "--rate nan"),
        ({"rate_hz": 0.0}, "--rate 0"),
        ({"rate_hz": 5.0, "paced_steps": 0}, "--rate has no effect"),
        ({"onnx_threads": (0,)}, "--onnx-threads 0"),
        ({"tf32": True}, "--tf32 has no effect"),
        ({"providers": ("npu",)}, "unknown provider"),
    ],
)
def test_options_that_make_no_sense(tmp_path, changes, words):
    with pytest.raises(OptionError, match=words):
        replace(BenchOptions(tmp_path), **changes).check()
