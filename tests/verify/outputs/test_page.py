"""The page says what report.json says, and names what it does not show."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deploy_kit.flight.trace import FlightTrace
from deploy_kit.page.render import render_page
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.outputs.evidence import Evidence, ShownEpisode
from deploy_kit.verify.outputs.page import verify_page
from deploy_kit.verify.report import FactCheck, NotRun, VerifyReport
from deploy_kit.verify.samples import SampleSet
from helpers.pages import assert_self_contained

SHAPE = (18, 24)
TRANSFORM = ActionTransform.from_limits(3.0, (6.0, 6.0, 6.0), 9.81)


def shown(report, evidence=None):
    return assert_self_contained(render_page(verify_page(report, evidence)))


def gathered(report, rows=20):
    evidence = Evidence(threshold_logit=0.0, image_shape=SHAPE, state_names=("speed", *map(str, range(15))))
    rng = np.random.default_rng(1)
    observation = rng.uniform(0, 1, (rows, 16 + SHAPE[0] * SHAPE[1])).astype(np.float32)
    samples = SampleSet("kept", "recorded inputs", observation, lambda row: f"row {row}")
    (check,) = (check for check in report.checks if check.name == "replay/kept/onnx")
    evidence.add_replay(samples, {"gate_logit": np.linspace(-2, 3, rows)[:, None].astype(np.float32)}, check)
    return evidence, observation


def test_figures_are_those_of_report_json(failing):
    page = shown(failing)
    data = json.loads(json.dumps(failing.to_json()))
    assert "FAILED" in page.text[: page.text.index("What failed")]
    reasons = [reason for verdict in data["verdicts"] for reason in verdict["reasons"] if verdict["status"] == "failed"]
    assert [row[1] for row in page.tables["Failed checks"][1:]] == reasons
    assert {row[0]: row[1] for row in page.tables["Checks"][1:]} == {v["name"]: v["status"] for v in data["verdicts"]}
    (replay,) = (check for check in data["checks"] if check["kind"] == "parity")
    worst = {
        output["name"]: max(output["frontier"], key=lambda element: element["error"]) for output in replay["outputs"]
    }
    rows = {row[0]: row for row in page.tables["The element of each output that uses up most of its limit"][1:]}
    assert rows["action"][1] == f"{worst['action']['error']:.2e}" == "1.00e-03"
    limit = data["thresholds"]["parity"]
    share = worst["action"]["error"] / (limit["absolute"] + limit["relative"] * worst["action"]["reference"])
    assert rows["action"][2] == f"{share:.2f}"
    assert rows["action"][4] == f"[{worst['action']['channel']}] at {worst['action']['where']}" == "[1] at row 7"
    commands = page.tables["Largest difference of each command, after the action transform"][1:]
    assert [row[1] for row in commands] == [f"{c['max_error']:.2e} {c['unit']}" for c in replay["commands"]]
    decided = replay["decisions"]
    (row,) = page.tables["Decisions that the bundle makes otherwise than the checkpoint"][1:]
    assert row[1:4] == [str(decided[name]) for name in ("decisions", "positive", "flipped")]
    (flown,) = (check for check in data["checks"] if check["kind"] == "flight")
    for row, figure in zip(page.tables["live/driving: onnxruntime drives"][1:], flown["differences"], strict=True):
        low, high = figure["ci95"]
        assert row[1:4] == [
            f"{figure['reference']:.3f}",
            f"{figure['candidate']:.3f}",
            f"{figure['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
        ]
    assert data["subject"]["checkpoint_sha256"] in page.text


def test_checks_of_another_profile_name_it(passing):
    (wide,) = (check for check in passing.checks if check.name == "replay/kept/onnx")
    narrow = replace(wide, name="replay/kept/int8", profile="int8")
    page = shown(replace(passing, checks=(*passing.checks, narrow)))
    assert "limits: profile fp32; of what is narrow: int8." in page.text
    rows = page.tables["Decisions that the bundle makes otherwise than the checkpoint"][1:]
    assert [(row[0], row[5]) for row in rows] == [("replay/kept/onnx", "fp32"), ("replay/kept/int8", "int8")]
    assert "limits: profile fp32." in shown(passing).text


@pytest.mark.parametrize(
    ("checks", "headline", "tone"),
    [
        ([], "VERIFIED", "good"),
        ([NotRun("live/shadow", "--no-live", "--no-live")], "VERIFIED, but not complete", "warn"),
        ([NotRun("live/shadow", "no simulator")], "FAILED", "bad"),
        ([FactCheck("x/y", "x", 1, ("broken",))], "FAILED", "bad"),
    ],
)
def test_the_verdict_stands_first_and_is_the_report_s(passing, make_report, checks, headline, tone):
    report = make_report(*passing.checks, *checks)
    source = render_page(verify_page(report, None))
    page = assert_self_contained(source)
    assert re.search(r'<p class="headline">(.*?)</p>', source)[1] == headline
    assert f'class="verdict {tone}"' in source
    assert (headline == "FAILED") is not report.passed
    assert page.text.index(headline) < page.text.index("Error of each output")


def test_what_is_missing_is_named(make_report):
    nothing = shown(make_report(FactCheck("bundle/manifest", "x", 1, ())))
    for gap in ("errors", "decisions", "the comparison of flights", "the flights", "the inputs"):
        assert f"Not shown: {gap}." in nothing.text
    assert nothing.data == []


def test_a_report_that_is_judged_again_has_a_page_without_pictures(passing):
    again = VerifyReport.from_json(json.loads(json.dumps(passing.to_json())))
    page = shown(again)
    assert "Figures were judged again and nothing was run" in page.text
    assert "live/driving: onnxruntime drives" in page.tables
    assert [tag for tag, _ in page.tags if tag == "img"] == []


def test_the_worst_input_is_shown_as_it_went_in(failing):
    evidence, observation = gathered(failing)
    page = shown(failing, evidence)
    table = page.tables["The state that went in with each image"]
    assert table[0][:2] == ["state", "case 1"]
    assert [row[1] for row in table[1:]] == [f"{value:.4g}" for value in observation[7, :16]]
    assert table[1][0] == "0: speed"
    uri = next(a["src"] for tag, a in page.tags if tag == "img" and "Depth image of case 1" in a["alt"])
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    assert image.shape[:2] == (4 * SHAPE[0], 4 * SHAPE[1])
    # Near is red, far is blue.
    depth = observation[7, 16:].reshape(SHAPE)
    near, far = (np.unravel_index(pick, SHAPE) for pick in (depth.argmin(), depth.argmax()))
    assert image[4 * near[0], 4 * near[1], 0] > image[4 * near[0], 4 * near[1], 2]
    assert image[4 * far[0], 4 * far[1], 2] > image[4 * far[0], 4 * far[1], 1]
    assert "action[1] off by 1.00e-03" in page.text


def test_the_margins_are_those_of_recorded_decisions(failing):
    evidence, _ = gathered(failing)
    assert np.allclose(np.concatenate(evidence.margins), np.linspace(-2, 3, 20))
    nearest = np.abs(np.linspace(-2, 3, 20)).min()
    assert (
        f"Margins of 20 decisions on recorded observations; the nearest is {nearest:.2g}"
        in shown(failing, evidence).text
    )


def trace(env):
    track = make_track(3, ("circular",), obstacles=False)
    return FlightTrace(
        env=env,
        policy_period=0.03,
        image_start=16,
        track=track,
        position=list(np.linspace(track.gate_positions[0], track.gate_positions[1], 10)),
        speed=[4.0] * 10,
        probability=[0.1] * 10,
        action=[np.zeros(4, np.float32)] * 10,
        depth=[np.zeros(SHAPE[0] * SHAPE[1], np.float16)] * 10,
        passed=[step == 9 for step in range(10)],
        finished=True,
    )


def test_flights_stand_side_by_side_and_can_be_flown_through(passing):
    evidence, _ = gathered(passing)
    evidence.episodes += [ShownEpisode(driver, trace(2), TRANSFORM) for driver in ("PyTorch", "onnxruntime")]
    page = shown(passing, evidence)
    alts = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert [alt for alt in alts if "from above" in alt] == [
        f"The track from above, {driver}" for driver in ("PyTorch", "onnxruntime")
    ]
    (data,) = page.data
    assert [flight["name"] for flight in data["flights"]] == ["PyTorch, environment 2", "onnxruntime, environment 2"]
    assert data["threshold"] == 0.5


def test_hostile_names_are_shown_as_they_are(make_report):
    hostile = "<script>alert(1)</script>\x1b[31m\n\u202e"
    report = make_report(FactCheck(f"onnx/{hostile}", hostile, 1, (hostile,)), name=hostile)
    page = shown(report)
    plain = shown(make_report(FactCheck("onnx/x", "x", 1, ("x",))))
    assert len(page.tags) == len(plain.tags)
    assert r"<script>alert(1)</script>\x1b[31m\n\u202e" in page.text
