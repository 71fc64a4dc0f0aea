import copy
import dataclasses
import json
import math

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from deploy_kit.bundle.parity import OutputSemantics, ParityComparison
from deploy_kit.bundle.thresholds import FlightMargins, Thresholds, Tolerance
from deploy_kit.errors import InputError
from deploy_kit.flight.paired import PairedDifference
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.findings import KINDS
from deploy_kit.verify.report import (
    FactCheck,
    FlightCheck,
    NotRun,
    ReferenceFlight,
    Replaced,
    Status,
    Subject,
    VerifiedRuntime,
    VerifyReport,
)
from deploy_kit.verify.schema import SCHEMA_PATH, build_schema, schema_text
from deploy_kit.verify.table import format_table, summary, table_rows

MEANING = OutputSemantics(
    ("thrust", "x", "y", "z"),
    ("m/s²", "rad/s", "rad/s", "rad/s"),
    ActionTransform((10.0, 6.0, 6.0, 6.0), (10.0, 0.0, 0.0, 0.0)),
    0.0,
)


def parity(error=0.0, logit_error=0.0, name="replay/random/onnx"):
    rng = np.random.default_rng(0)
    action, logit = rng.standard_normal((20, 4)), rng.standard_normal((20, 1))
    comparison = ParityComparison(name, "random inputs", ("action", "gate_logit"), MEANING)
    candidate = {"action": action.copy(), "gate_logit": logit + logit_error}
    candidate["action"][7, 1] += error
    reference = {"action": action, "command": MEANING.transform.apply(action), "gate_logit": logit}
    comparison.add(reference, candidate)
    return comparison.result(lambda row: f"random input {row}")


def flight(shift=0.0, paired=True):
    gates = np.array([6.0, 7.0, 5.0, 8.0] * 8)
    figures = (
        PairedDifference.of("gates", "1", gates, gates + shift),
        PairedDifference.of("crashed", "1", np.zeros(32), np.zeros(32)),
        PairedDifference.of("speed", "m/s", gates, gates),
    )
    return FlightCheck("live/driving", "onnxruntime drives", figures, {"episodes": 32}, {"episodes": 32}, paired)


SUBJECT = Subject("b", "0" * 64, {"policy.onnx": "1" * 64}, "model.pt", "2" * 64)


def report(*checks, thresholds=None):
    return VerifyReport(
        subject=SUBJECT,
        environment={},
        options={"live": False},
        checks=checks,
        thresholds=thresholds or Thresholds(),
        elapsed_s=1.5,
        created_utc="2026-01-01T00:00:00+00:00",
    )


def given(read, original):
    """Return a report that was read without the checks that it lacks, which reading adds as not run."""
    assert {check.reason for check in read.checks[len(original.checks) :]} == {"missing in the report"}
    return dataclasses.replace(read, checks=read.checks[: len(original.checks)])


def test_good_checks_pass():
    good = report(FactCheck("onnx/opset", "x", 1, ()), parity(1e-6), flight())
    assert good.passed
    assert [verdict.status for verdict in good.verdicts] == [Status.PASSED] * 3


def test_the_worst_share_is_that_of_the_check_nearest_to_its_limit():
    near, far = parity(1e-5, name="replay/random/onnx"), parity(1e-6, name="replay/kept/onnx")
    name, share = report(far, near, flight(), NotRun("live", "x")).worst_share
    assert name == "replay/random/onnx"
    assert 0.1 < share < 1.0
    assert report(near).judged(Thresholds(parity=Tolerance(1e-6, 1e-6))).worst_share[1] == pytest.approx(10 * share)
    assert report(near, parity(np.nan, name="replay/extreme/onnx")).worst_share == ("replay/extreme/onnx", np.inf)
    assert report(flight()).worst_share is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (FactCheck("onnx/opset", "x", 1, ("opset 17, the contract says 18",)), "opset 17"),
        (parity(1e-3), r"action\[1\] is off by 0.001 at random input 7"),
        (parity(np.nan), "1 values are NaN or infinite, the first at random input 7"),
        (parity(logit_error=0.5), "decisions flipped"),
        (flight(-1.0), "gates: 6.5 → 5.5"),
        (flight(+1.0), "gates: 6.5 → 7.5"),
    ],
)
def test_one_bad_check_fails_all(bad, reason):
    failed = report(FactCheck("fine", "x", 1, ()), bad)
    assert not failed.passed
    verdict = failed.verdict(bad.name)
    assert verdict.status is Status.FAILED
    assert __import__("re").search(reason, " ".join(verdict.reasons))


def test_flights_that_are_no_pairs_must_be_equivalent():
    rng = np.random.default_rng(0)

    def unpaired(shift, episodes, thorough=False):
        ours, theirs = rng.normal(5.0, 1.8, episodes), rng.normal(5.0 + shift, 1.8, episodes)
        figures = (PairedDifference.of("gates", "1", ours, theirs),)
        return report(FlightCheck("live/driving", "x", figures, {}, {}, False, thorough)).passed

    # Two one-sided tests at 5 % let a difference of the margin pass once in twenty, however many episodes there are.
    assert np.mean([unpaired(0.5, 400) for _ in range(2000)]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([unpaired(0.25, 1600, thorough=True) for _ in range(2000)]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([unpaired(0.0, 400) for _ in range(300)]) > 0.98
    # Too few to tell is not a pass.
    assert not any(unpaired(0.0, 32) for _ in range(300))


def test_pairs_that_are_all_equal_prove_what_their_number_can():
    gates, crashed = np.array([6.0, 4.0] * 16), np.zeros(32)
    figures = (
        PairedDifference.of("gates", "1", gates, gates),
        PairedDifference.of("crashed", "1", crashed, crashed, lost=1.0),
    )
    # One crash more in a share 1 - 0.05^(1/32) of episodes would have stayed unseen once in twenty.
    assert [figure.visible for figure in figures] == pytest.approx([5 * (1 - 0.05 ** (1 / 32)), 1 - 0.05 ** (1 / 32)])
    assert [figure.episodes_for(margin) for figure, margin in zip(figures, (0.25, 0.05), strict=True)] == [59, 59]
    quick = FlightCheck("live/driving", "x", figures, {}, {}, paired=True)
    assert report(quick).passed
    reasons = report(dataclasses.replace(quick, thorough=True)).verdict("live/driving").reasons
    assert len(reasons) == 2
    assert "32 episodes show a difference of 0.45 " in reasons[0]
    assert "about 59 would" in reasons[1]


def test_checkpoint_that_does_not_fly_shows_nothing():
    def flown(gates, episodes=16):
        return report(ReferenceFlight("live/reference", "x", episodes, gates, {})).verdict("live/reference")

    assert flown(1.0).status is Status.PASSED
    assert "it does not fly" in flown(0.99).reasons[0]
    assert flown(math.nan).status is Status.FAILED
    assert flown(5.0, episodes=15).reasons == ("15 episodes are too few",)


def test_what_nobody_switched_off_keeps_a_report_from_passing():
    skipped = report(NotRun("torchscript/run", "no Landlock"), FactCheck("fine", "x", 1, ()))
    assert not skipped.passed
    assert not skipped.complete
    assert [check.name for check in skipped.left_out] == ["torchscript/run"]
    assert "1 of them not switched off" in summary(skipped)


def test_check_that_was_not_run_is_not_passed():
    partial = report(NotRun("live/driving", "--no-live", "--no-live"), FactCheck("fine", "x", 1, ()))
    assert partial.passed
    verdict = partial.verdict("live/driving")
    assert (verdict.status, verdict.reasons) == (Status.NOT_RUN, ("--no-live",))
    row = table_rows(partial)[0]
    assert (row.verdict, row.reasons) == ("not run", ("--no-live",))
    assert "1 passed, 0 failed, 1 not run" in summary(partial)


def test_nothing_run_does_not_pass():
    assert not report().passed
    assert not report(NotRun("live/driving", "--no-live")).passed


def test_report_survives_json_and_is_judged_afresh():
    original = report(
        FactCheck("onnx/opset", "x", 1, (), "a note"), parity(1e-4), flight(-1.0), NotRun("live/shadow", "--no-live")
    )
    read = given(VerifyReport.from_json(json.loads(json.dumps(original.to_json()))), original)
    assert read == original
    assert not read.passed
    loose = Thresholds(parity=Tolerance(1e-3, 0.0), quick_margins=FlightMargins(2.0, 0.15, 2.0))
    assert read.judged(loose).verdict("live/driving").status is Status.PASSED
    assert read.judged(loose).verdict("replay/random/onnx").status is Status.PASSED
    assert not read.judged(Thresholds(parity=Tolerance(1e-3, 0.0))).passed


def test_json_keeps_figures_apart_from_verdicts():
    data = report(parity(1e-3)).to_json()
    assert data["passed"] is False
    assert data["verdicts"][0]["status"] == "failed"
    assert not {"passed", "status", "verdict"} & set(data["checks"][0])
    assert data["checks"][0]["commands"][1]["unit"] == "rad/s"


def test_other_schema_is_refused():
    data = {**report().to_json(), "schema_version": 99}
    with pytest.raises(InputError, match="schema version 99"):
        VerifyReport.from_json(data)


def test_written_report_is_whole(tmp_path):
    target = tmp_path / "deep" / "report.json"
    failed = report(parity(1.0))
    failed.write(target)
    assert given(VerifyReport.from_json(json.loads(target.read_text())), failed) == failed
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]


def test_failed_write_keeps_the_old_report(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    broken = dataclasses.replace(report(parity()), options={"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        broken.write(target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_table_names_worst_element_limit_and_verdict():
    text = format_table(report(parity(1e-3), flight()))
    line = next(line for line in text.splitlines() if line.startswith("replay/random/onnx"))
    assert "action[1] 1.0e-03" in line
    assert "at random input 7" in line
    assert "0 of 20" in line
    assert "FAILED" in line
    assert text.splitlines()[-1].startswith("FAILED: of 2 checks 1 passed, 1 failed, 0 not run")


def whole_report():
    return dataclasses.replace(
        report(
            FactCheck("onnx/opset", "x", 1, (), "a note"),
            parity(1e-4),
            ReferenceFlight("live/reference", "x", 32, 5.0, {"episodes": 32}),
            flight(),
            NotRun("live/contract", "--no-live", "--no-live"),
        ),
        runtimes=(VerifiedRuntime("CPUExecutionProvider", "all", 1, False),),
        replaces=Replaced("3" * 64, "2026-01-01T00:00:00+00:00", True, None, True),
    )


def test_schema_is_the_one_shipped_and_every_kind_of_check_fits_it():
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()
    validator = Draft202012Validator(build_schema())
    data = json.loads(json.dumps(whole_report().to_json()))
    assert list(validator.iter_errors(data)) == []
    assert {check["kind"] for check in data["checks"]} == set(KINDS)
    assert given(VerifyReport.from_json(data), whole_report()) == whole_report()


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


@pytest.mark.parametrize("wrong", [[], {}, "text", None, 10**400, -1, True], ids=repr)
def test_wrong_types_anywhere_in_a_report_are_refused_in_one_line_or_read(wrong):
    data = json.loads(json.dumps(whole_report().to_json()))
    for path in leaves(data):
        forged = copy.deepcopy(data)
        place = forged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        problem = ""
        try:
            VerifyReport.from_json(forged)
        except InputError as error:
            problem = str(error)
        assert "\n" not in problem, path


def test_figure_of_a_profile_of_its_own_is_judged_by_it():
    tf32 = dataclasses.replace(parity(1e-3), profile="tf32")
    assert report(tf32).passed
    assert not report(dataclasses.replace(tf32, profile=None)).passed
    assert not report(dataclasses.replace(parity(1e-1), profile="tf32")).passed
    data = report(tf32).to_json()
    data["checks"][0]["profile"] = "/etc/passwd"
    with pytest.raises(InputError, match="expected one of fp32, tf32, fp16, int8"):
        VerifyReport.from_json(data)
