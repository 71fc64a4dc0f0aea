"""C++ headers with narrow weights: judged by their profiles against the checkpoint, and closely by their weights."""

import json

import pytest

from deploy_kit.cpp import compiler
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.header_checks import header_checks
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.structure import sandboxed_library
from deploy_kit.verify.verifier import verify_bundle
from helpers.cpp_headers import replaced, with_header
from helpers.flight_logs import fly, open_recorded
from helpers.small_flights import FLOWN, fly_small_policies

FORMS = {"cpp-fp16": "fp16", "cpp-int8": "int8"}
SETS = ("golden", "kept", "near", "flight-like", "random", "extreme", "search")


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """What the judge says of a bundle with both, and of a flight with one of them on board."""
    folder = tmp_path_factory.mktemp("narrow")
    narrow, log = with_header(run, folder, forms=tuple(FORMS)), folder / "flight.dklog"
    (folder / "builds").mkdir(mode=0o700)
    engine = {"engine": "cpp-int8", "cpp_cache": str(folder / "builds"), "allow_unverified": True}
    policy = open_recorded(narrow.bundle, log, **engine)
    fly(policy)
    policy.close()
    return verify_bundle(narrow.verify(search_evaluations=64, flight=log))


def outcome(report):
    return {verdict.name: verdict.status for verdict in report.verdicts}


def test_they_are_replayed_under_their_profiles_and_by_their_weights(report):
    # The flight was no real one.
    assert {v.name for v in report.verdicts if v.status is Status.FAILED} == {"flight-log/distribution"}
    found, checks = outcome(report), {check.name: check for check in report.checks}
    for form, profile in FORMS.items():
        judged = {f"replay/heldout/{form}-head", *(f"replay/{name}/{form}" for name in SETS)}
        closely = {f"replay/{name}/{form}-stored" for name in SETS}
        assert {name for name in found if form in name} == {
            *judged,
            *closely,
            *(f"{form}/text", f"{form}/run", *header_checks(form)),
            *(f"flight-log/replay/{form}", f"flight-log/replay/{form}-stored"),
        }
        assert {found[name] for name in judged | closely} == {Status.PASSED}
        assert {checks[name].profile for name in judged} == {profile}
        assert {checks[name].profile for name in closely} == {None}
        # The narrow weights ran: far off the checkpoint by float32's measure, and near to what they stand for.
        errors = [max(output.max_error for output in checks[f"replay/kept/{name}"].outputs) for name in
                  (form, f"{form}-stored")]  # fmt: skip
        assert errors[0] > 5 * errors[1]


def test_a_flight_with_one_is_judged_by_its_profile(report):
    checks = {check.name: check for check in report.checks}
    for name, profile in (
        ("flight-log/outputs", "int8"),
        ("flight-log/replay/cpp-int8", "int8"),
        ("flight-log/replay/cpp-fp16", "fp16"),
        ("flight-log/replay/cpp-int8-stored", None),
        ("flight-log/replay/onnx", None),
    ):
        assert (report.verdict(name).status, checks[name].profile) == (Status.PASSED, profile)
    assert checks["flight-log/outputs"].note == "narrow arithmetic flew (cpp-int8): judged by the profile int8"
    assert checks["flight-log/bundle"].note.startswith("the C++ header (cpp-int8) on ")


def test_a_report_that_lacks_one_of_their_checks_has_not_passed(report):
    data = report.to_json()
    data["options"]["flight"] = None
    data["checks"] = [check for check in data["checks"] if not check["name"].startswith("flight-log/")]
    assert VerifyReport.from_json(data).passed
    for name in (check["name"] for check in data["checks"] if "cpp" in check["name"]):
        kept = [check for check in data["checks"] if check["name"] != name]
        assert not VerifyReport.from_json({**data, "checks": kept}).passed, name


def test_they_fly_with_their_memory_under_their_profiles(run, tmp_path, monkeypatch):
    fly_small_policies(monkeypatch)
    flown = {**FLOWN, "live_modes": ("shadow", "driving")}
    narrow = with_header(run, tmp_path, forms=("cpp-int8",))
    report = verify_bundle(narrow.verify(**flown))
    assert report.passed, [v for v in report.verdicts if v.status is Status.FAILED]
    checks = {check.name: check for check in report.checks}
    shadow, steps, driving = (checks[name] for name in header_checks("cpp-int8"))
    assert shadow.profile == "int8"
    assert steps.count == shadow.rows > 160
    assert driving.compared == "cpp-int8 drives, against PyTorch from the same seed"
    # Its own weights flew, not the float32 graph's.
    assert max(output.max_error for output in shadow.outputs) > 1e-4
    assert "live/shadow@cpp" not in checks


def test_a_wrong_build_fails_by_its_weights(run, tmp_path, monkeypatch):
    """By a thousandth in one kernel: the profile int8 takes that for rounding, the weights do not."""
    build, line = compiler.build_library, "out[i] += sums[i] * scale[i];"

    def broken(text, folder):
        return build(replaced(line, line.replace("scale[i]", "scale[i] * 1.001f"))(text), folder)

    monkeypatch.setattr(sandboxed_library, "build_library", broken)
    wrong = with_header(run, tmp_path, forms=("cpp-int8",))
    found = outcome(verify_bundle(wrong.verify(search_evaluations=64)))
    assert found["cpp-int8/text"] is Status.PASSED
    assert found["replay/kept/cpp-int8"] is Status.PASSED
    for name in ("cpp-int8/run", "replay/golden/cpp-int8-stored", "replay/kept/cpp-int8-stored"):
        assert found[name] is Status.FAILED, name


def test_they_can_be_left_unbuilt(run, tmp_path):
    narrow = with_header(run, tmp_path, forms=tuple(FORMS))
    report = verify_bundle(narrow.verify(search_evaluations=64, cpp=False))
    assert report.passed
    assert not report.complete
    assert outcome(report)["cpp-fp16/text"] is Status.PASSED
    assert outcome(report)["live/driving@cpp-int8"] is Status.NOT_RUN
    # Said of a run that did build them, it does not excuse them.
    data = report.to_json()
    data["options"]["cpp"] = True
    assert {"cpp-int8/run", "live/driving@cpp-fp16"} <= {c.name for c in VerifyReport.from_json(data).left_out}


def test_export_writes_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "machine_flags", lambda: ("-O0",))
    options = ExportOptions(
        run.checkpoint, tmp_path / "b", use_auxiliary_head=True, task=TASK_ID, formats=("cpp-int8",), num_golden=4
    )
    bundle = export_bundle(options)
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    assert "policy.hpp" not in listed
    assert listed["policy.int8.hpp"]["size"] == (bundle / "policy.int8.hpp").stat().st_size
