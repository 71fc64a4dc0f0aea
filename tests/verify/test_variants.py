"""Variants in narrower arithmetic: how they are made, that the judge holds them to the graph, and that they fly."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy_kit.bundle.reader import FP16_NAME, INT8_NAME, LEAPP_NAME, manifest_text, open_bundle
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.bundle.variants import Range, fp16_variant, int8_variant, large_layers, quantised_weight, stated_ranges
from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.progress import silent
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.artifacts import Artifact, Artifacts
from deploy_kit.verify.bundle_and_checkpoint import find_vehicle, pair_bundle
from deploy_kit.verify.checks import _replay_set
from deploy_kit.verify.replay import reference_outputs
from deploy_kit.verify.report import Status, VerifyReport, judge
from deploy_kit.verify.samples import SampleSet
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import Run
from helpers.variants import narrowed


@pytest.fixture(scope="module")
def narrow(run, tmp_path_factory) -> Run:
    """The small policy's bundle with both variants, exported on its feature file."""
    options = ExportOptions(
        checkpoint=run.checkpoint,
        output=tmp_path_factory.mktemp("narrow") / "bundle",
        use_auxiliary_head=True,
        feature_file=run.dataset,
        task=TASK_ID,
        num_golden=8,
        formats=("leapp",),
        variants=("int8", "fp16", "int8"),
    )
    return replace(run, bundle=export_bundle(options))


@pytest.fixture(scope="module")
def report(narrow):
    """What the judge says of it."""
    return verify_bundle(narrow.verify())


@pytest.fixture(scope="module")
def model(run):
    return onnx.load(run.bundle / "policy.onnx")


def outcome(report):
    return {verdict.name: verdict.status for verdict in report.verdicts}


def test_the_judge_runs_them_under_their_own_profiles(narrow, report):
    assert {FP16_NAME, INT8_NAME, LEAPP_NAME} <= set(open_bundle(narrow.bundle).files)
    assert report.passed, [v for v in report.verdicts if v.status is Status.FAILED]
    found = outcome(report)
    profiles = {check.name: getattr(check, "profile", None) for check in report.checks}
    for kind in ("fp16", "int8"):
        assert found[f"{kind}/graph"] is Status.PASSED
        assert found[f"live/driving@{kind}"] is Status.NOT_RUN
        for name in ("golden", "kept", "near", "flight-like", "random", "extreme", "search"):
            assert found[f"replay/{name}/{kind}"] is Status.PASSED
            assert profiles[f"replay/{name}/{kind}"] == kind
    assert profiles["replay/kept/onnx"] is None


def test_a_report_that_lacks_one_of_their_checks_has_not_passed(report):
    data = report.to_json()
    assert VerifyReport.from_json(data).passed
    for name in (name for name in outcome(report) if name.endswith(("int8", "fp16")) or name.startswith("leapp/")):
        kept = [check for check in data["checks"] if check["name"] != name]
        assert not VerifyReport.from_json({**data, "checks": kept}).passed, name
    for kind in ("int8", "fp16"):
        kept = [check for check in data["checks"] if kind not in check["name"]]
        missing = {check.name for check in VerifyReport.from_json({**data, "checks": kept}).left_out}
        assert missing >= {f"{kind}/graph", f"replay/search/{kind}", f"live/driving@{kind}"}


def test_their_flights_are_switched_off_only_with_those_of_the_graph(report):
    data = report.to_json()
    data["options"] = {**data["options"], "live": True, "live_modes": ["driving"]}
    off = {"kind": "not run", "reason": "x", "switch": "--live-mode"}
    data["checks"] = [check for check in data["checks"] if not check["name"].startswith("live/driving@")]
    data["checks"] += [{**off, "name": f"live/driving@{kind}"} for kind in ("int8", "fp16")]
    assert {"live/driving@int8", "live/driving@fp16"} <= {c.name for c in VerifyReport.from_json(data).left_out}
    data["options"]["live_modes"] = ["shadow"]
    assert not any("@" in check.name for check in VerifyReport.from_json(data).left_out)


def test_their_errors_are_those_of_the_arithmetic(report):
    # Far above what float32 may be off by: so the variants really ran, and their own limits judged them.
    worst = {
        check.name: max(output.max_error for output in check.outputs)
        for check in report.checks
        if check.name.startswith("replay/kept/")
    }
    assert worst["replay/kept/onnx"] < 1e-5
    assert worst["replay/kept/fp16"] > 1e-4
    assert worst["replay/kept/int8"] > 2e-4


def test_only_large_layers_are_quantised(model):
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    total = sum(weights.values())
    chosen = [node.input[1] for node in large_layers(model).values()]
    assert chosen == [name for name, size in weights.items() if size >= total / 4 and len(name) and "weight" in name]
    assert len(chosen) == 1


def test_weights_are_rounded_to_the_nearest_step_of_their_row():
    values = np.array([[1.0, -0.5, 0.004], [0.0, 0.0, 0.0]], np.float32)
    stored, scales, axis = quantised_weight(numpy_helper.from_array(values, "w"), 0)
    assert axis == 0
    assert stored.tolist() == [[127, -64, 1], [0, 0, 0]]
    assert scales.tolist() == [np.float32(1 / 127), 1.0]
    other, _, _ = quantised_weight(numpy_helper.from_array(values.T.copy(), "w"), 1)
    assert np.array_equal(other.T, stored)


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0.0, 2.0, 0), (-1.0, 1.0, 127), (-2.0, -1.0, 255), (1.0, 2.0, 0), (0.0, 0.0, 0)]
)
def test_a_range_holds_zero(low, high, zero_point):
    found = Range.spanning(low, high)
    assert found.zero_point == zero_point
    assert found.scale > 0
    assert (255 - found.zero_point) * found.scale >= max(high, 0.0) * 0.99
    assert -found.zero_point * found.scale <= min(low, 0.0) * 0.99


def test_stated_ranges_come_back(model):
    ranges = {name: Range.spanning(-0.5, 3.0) for name in large_layers(model)}
    assert stated_ranges(int8_variant(model, ranges), model) == ranges


@pytest.mark.parametrize("found", [Range(0.0, 0), Range(float("inf"), 0), Range(float("nan"), 0), Range(1.0, 256)])
def test_a_range_that_is_none(model, found):
    with pytest.raises(CheckFailedError, match="the range of"):
        int8_variant(model, dict.fromkeys(large_layers(model), found))


def test_a_range_that_is_missing(model):
    with pytest.raises(CheckFailedError, match="ranges are stated for"):
        int8_variant(model, {})


def test_a_weight_beyond_float16(model):
    large = onnx.ModelProto()
    large.CopyFrom(model)
    tensor = next(t for t in large.graph.initializer if t.name.endswith("weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e7), tensor.name))
    with pytest.raises(CheckFailedError, match="beyond float16"):
        fp16_variant(large)


def test_an_older_opset_has_no_scale_for_each_output(model):
    old = onnx.ModelProto()
    old.CopyFrom(model)
    old.opset_import[0].version = 11
    with pytest.raises(CheckFailedError, match="--opset 13"):
        int8_variant(old, dict.fromkeys(large_layers(old), Range(1.0, 0)))


def test_int8_without_recorded_observations(run, tmp_path):
    with pytest.raises(OptionError, match="--variant int8 is calibrated on recorded observations"):
        export_bundle(ExportOptions(run.checkpoint, tmp_path / "b", variants=("int8",), task=TASK_ID))
    with pytest.raises(OptionError, match="--variant int4: not known"):
        ExportOptions(run.checkpoint, tmp_path / "b", variants=("int4",)).check()


def test_a_variant_of_an_unproven_graph_is_not_run(run, tmp_path):
    wrong = narrowed(run, tmp_path)
    (wrong.bundle / "policy.onnx").write_bytes(off_by_a_thousandth(wrong.bundle / "policy.onnx"))
    (wrong.bundle / "manifest.json").write_text(manifest_text(wrong.bundle))
    found = outcome(verify_bundle(wrong.verify()))
    assert found["onnx/proof"] is Status.FAILED
    assert found["int8/graph"] is Status.FAILED
    assert found["replay/kept/int8"] is Status.NOT_RUN


def off_by_a_thousandth(path):
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("stem.7.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.001), tensor.name))
    return model.SerializeToString()


def test_int8_may_saturate_on_what_a_search_found(run):
    checkpoint, opened = load_checkpoint(run.checkpoint), open_bundle(run.bundle)
    subject = pair_bundle(opened, checkpoint, find_vehicle(checkpoint, TASK_ID, None, opened.contract))
    observation = opened.golden.observation[:4]

    def off(rows):
        given = reference_outputs(subject.reference, rows)
        return {**given, "action": given["action"] + np.float32(0.29) * np.sign(given["action"])}

    def passes(kind, samples):
        artifacts = Artifacts((Artifact(kind, off, ("action",), "int8"),), (), None, {}, ())
        found = SampleSet(samples, "drawn", observation, str, np.ones((4, 1)))
        (check,) = _replay_set(subject, artifacts, found, silent)
        return judge(check, Thresholds()).status is Status.PASSED

    assert passes("int8", "search")
    assert not passes("int8", "random")
