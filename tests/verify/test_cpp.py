"""Bundles with a C++ header: exported, verified, and refused before anything is compiled."""

import json
import re

import pytest

from deploy_kit.cpp import compiler
from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify import cpp_artifact
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.structure import sandboxed_library
from deploy_kit.verify.verifier import verify_bundle
from helpers.cpp_headers import replaced, with_header
from helpers.small_flights import FLOWN, fly_small_policies
from helpers.toy_env import FlownEnv


def export_options(run, folder, **changes):
    return ExportOptions(
        checkpoint=run.checkpoint, output=folder / "bundle", use_auxiliary_head=True, task=TASK_ID, **changes
    )


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    options = export_options(run, folder, formats=("cpp",), feature_file=run.dataset, num_golden=16)
    return export_bundle(options)


def test_export_adds_the_header_and_lists_it(run, exported):
    listed = json.loads((exported / "manifest.json").read_text())["files"]
    assert list(listed) == [*json.loads((run.bundle / "manifest.json").read_text())["files"], "policy.hpp"]
    assert (exported / "policy.hpp").stat().st_size == listed["policy.hpp"]["size"]


def test_a_graph_of_commands_and_probabilities_has_a_header_too(run, tmp_path):
    # Held-out rows too: the header's heads give action and logit, the graph's command and probability.
    form = {"physical_actions": True, "gate_output": "probability", "feature_file": run.dataset}
    assert (export_bundle(export_options(run, tmp_path, formats=("cpp",), **form)) / "policy.hpp").is_file()


def verdicts(report):
    return {verdict.name: verdict.status for verdict in report.verdicts}


@pytest.fixture(scope="module")
def headed(run, tmp_path_factory):
    """The small policy's bundle with a header, and the report of its verification with flights."""
    bundle = with_header(run, tmp_path_factory.mktemp("headed"))
    with pytest.MonkeyPatch.context() as patch:
        fly_small_policies(patch)
        flown = {"live": True, "live_modes": ("shadow", "driving"), "episodes": 16}
        return bundle, verify_bundle(bundle.verify(search_evaluations=64, **flown))


FLIGHTS = ("live/shadow@cpp", "live/shadow@cpp-steps", "live/driving@cpp")


def test_the_header_is_replayed_and_flown_like_every_artifact(headed):
    _, report = headed
    found = verdicts(report)
    ours = {name for name in found if "cpp" in name}
    assert ours == {
        *("cpp/text", "cpp/run", "replay/heldout/cpp-head", *FLIGHTS),
        *(f"replay/{name}/cpp" for name in ("golden", "kept", "near", "flight-like", "random", "extreme", "search")),
    }
    assert {found[name] for name in ours} == {Status.PASSED}
    assert report.passed


def test_it_flies_whole_episodes_with_its_own_memory(headed):
    _, report = headed
    checks = {check.name: check for check in report.checks}
    steps, shadow = checks["live/shadow@cpp-steps"], checks["live/shadow@cpp"]
    # Every step of the first episodes, of which some end before the last one does.
    assert 16 * 10 < steps.count == shadow.rows < checks["live/shadow"].rows
    assert steps.note == "10 passages announced"
    assert {output.name for output in shadow.outputs} == {"command", "gate_logit"}
    assert checks["live/driving@cpp"].paired
    assert checks["live/driving@cpp"].differences[0].equal_pairs == 16
    # Not what onnxruntime gave: the last bits differ.
    assert checks["live/shadow@cpp"].outputs[1].mean_error != checks["live/shadow"].outputs[1].mean_error


def test_a_report_that_lacks_one_of_its_flights_has_not_passed(headed):
    data = headed[1].to_json()
    assert VerifyReport.from_json(data).passed
    for name in FLIGHTS:
        kept = [check for check in data["checks"] if check["name"] != name]
        assert not VerifyReport.from_json({**data, "checks": kept}).passed, name
        # Nor one that says that an option switched them off which was not given.
        for switch in ("--no-cpp", "--no-live", "--live-mode", "--no-vehicle"):
            off = {"kind": "not run", "name": name, "reason": "x", "switch": switch}
            assert not VerifyReport.from_json({**data, "checks": [*kept, off]}).passed, (name, switch)


def test_where_its_steps_are_refused_the_flight_fails(headed, monkeypatch):
    bundle, _ = headed
    fly_small_policies(monkeypatch)
    monkeypatch.setattr(FlownEnv, "FARTHEST", 1e4)
    report = verify_bundle(bundle.verify(**FLOWN))
    reason = report.verdict("live/shadow@cpp-steps").reasons[0]
    assert re.fullmatch(r"the header refused \d+ of \d+ steps \(state out of range: \d+\)", reason)


def test_a_header_that_differs_is_never_built(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(sandboxed_library, "build_library", refuse)
    wrong = with_header(run, tmp_path, replaced("#include <limits>\n", "#include <limits>\n#include <cstdlib>\n"))
    report = verify_bundle(wrong.verify(search_evaluations=64))
    found = verdicts(report)
    assert found["cpp/text"] is Status.FAILED
    assert "cpp/run" not in found
    assert found["replay/golden/cpp"] is Status.NOT_RUN
    assert not report.passed


def test_a_wrong_build_fails_in_behaviour(run, tmp_path, monkeypatch):
    """As a compiler with a fault would make it: the text is right, what runs is not."""
    build = compiler.build_library
    bias = "sum[pixel][v] += part[pixel][v];"

    def broken(text, folder):
        return build(replaced(bias, bias.replace("part[pixel][v]", "part[pixel][v] * 1.01f"))(text), folder)

    monkeypatch.setattr(sandboxed_library, "build_library", broken)
    found = verdicts(verify_bundle(with_header(run, tmp_path).verify(search_evaluations=64)))
    assert found["cpp/text"] is Status.PASSED
    for name in ("cpp/run", "replay/golden/cpp", "replay/kept/cpp", "replay/extreme/cpp"):
        assert found[name] is Status.FAILED, name


def test_without_a_compiler_the_report_does_not_pass(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cpp_artifact, "find_compiler", lambda: None)
    wrong = with_header(run, tmp_path)
    report = verify_bundle(wrong.verify(search_evaluations=64))
    assert verdicts(report)["cpp/run"] is Status.NOT_RUN
    assert not report.passed
    without = verify_bundle(wrong.verify(search_evaluations=64, cpp=False))
    assert verdicts(without)["cpp/text"] is Status.PASSED
    assert without.passed
    assert not without.complete


def test_export_builds_the_header_too(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CheckFailedError, match=r"cpp/run: .*false refuses the header"):
        export_bundle(export_options(run, tmp_path, formats=("cpp",)))
    assert not (tmp_path / "bundle").exists()


def test_unknown_formats_are_refused(run, tmp_path):
    with pytest.raises(OptionError, match="--format tflite: not known; give cpp"):
        export_bundle(export_options(run, tmp_path, formats=("tflite",)))
