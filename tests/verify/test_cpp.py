"""Bundles with a C++ header: exported, verified, and refused before anything is compiled."""

import json

import pytest

from deploy_kit.cpp import compiler
from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify import cpp_artifact
from deploy_kit.verify.report import Status
from deploy_kit.verify.structure import sandboxed_library
from deploy_kit.verify.verifier import verify_bundle
from helpers.cpp_headers import replaced, with_header


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


def test_the_header_is_replayed_like_every_artifact(run, tmp_path):
    report = verify_bundle(with_header(run, tmp_path).verify(search_evaluations=64))
    found = verdicts(report)
    ours = {name for name in found if "cpp" in name}
    assert ours == {
        *("cpp/text", "cpp/run", "replay/heldout/cpp-head"),
        *(f"replay/{name}/cpp" for name in ("golden", "kept", "near", "flight-like", "random", "extreme", "search")),
    }
    assert {found[name] for name in ours} == {Status.PASSED}
    assert report.passed
    assert report.complete == verify_bundle(run.verify(search_evaluations=64)).complete


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
