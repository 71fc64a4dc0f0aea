import numpy as np
import pytest

from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import TaskError
from deploy_kit.flight.paired import PairedDifference
from deploy_kit.verify.report import Status
from deploy_kit.verify.verifier import verify_bundle
from helpers import toy_env
from helpers.bundles import make_run


def live(run, tmp_path, **changes):
    settings = {
        "live": True,
        "episodes": 16,
        "task": "helpers.toy_env:make",
        "report": tmp_path / "report.json",
        "torchscript": False,
        **changes,
    }
    # The toy task does not say which vehicle flies there.
    report = verify_bundle(run.verify(feature_file=None, replay=False, vehicle=False, random_rows=8, **settings))
    return {check.name: check for check in report.checks}, report


def broken_onnx(monkeypatch, change):
    """Let onnxruntime give other outputs than the graph's in whole batches of 16, that is in flight."""
    original = OnnxRunner.__call__

    def call(self, rows):
        outputs = original(self, rows)
        return change(outputs) if len(rows) == 16 and rows.shape[1] == 784 else outputs

    monkeypatch.setattr(OnnxRunner, "__call__", call)


def test_right_bundle_flies_alike(run, tmp_path):
    checks, report = live(run, tmp_path)
    assert report.passed
    shadow, driving = checks["live/shadow"], checks["live/driving"]
    # All environments at every step until the last first episode ends.
    assert shadow.rows == 16 * 20
    assert shadow.decisions.decisions == 16 * 20
    assert [figure.name for figure in driving.differences] == ["gates", "crashed", "speed"]
    assert all(figure.equal_pairs == figure.pairs == 16 for figure in driving.differences[:2])
    assert driving.paired
    assert driving.reference["gates_per_episode"]["mean"] == driving.differences[0].reference > 0.5
    assert driving.candidate["episodes"] == 16


def test_worst_step_is_named(run, tmp_path, monkeypatch):
    calls = []

    def change(outputs):
        calls.append(1)
        if len(calls) == 8:
            outputs["action"][5, 2] += 0.01
        return outputs

    broken_onnx(monkeypatch, change)
    _, report = live(run, tmp_path, live_modes=("shadow",))
    verdict = report.verdict("live/shadow")
    assert verdict.status is Status.FAILED
    assert "action[2] is off by 0.01 at step 7, environment 5" in verdict.reasons[0]


def test_wrong_policy_fails_both_modes(run, tmp_path, monkeypatch):
    broken_onnx(monkeypatch, lambda outputs: {**outputs, "action": -outputs["action"]})
    _, report = live(run, tmp_path, max_episodes=16)
    assert report.verdict("live/shadow").status is Status.FAILED
    assert report.verdict("live/driving").status is Status.FAILED


def test_slightly_wrong_policy_fails_in_the_shadow(run, tmp_path, monkeypatch):
    broken_onnx(monkeypatch, lambda outputs: {**outputs, "action": outputs["action"] + np.float32(1e-4)})
    _, report = live(run, tmp_path)
    assert report.verdict("live/shadow").status is Status.FAILED
    assert report.verdict("live/driving").status is Status.PASSED


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_action_that_is_not_finite_fails_both_modes(run, tmp_path, monkeypatch, value):
    broken_onnx(monkeypatch, lambda outputs: {**outputs, "action": outputs["action"] * np.float32(value)})
    _, report = live(run, tmp_path)
    assert "NaN or infinite" in report.verdict("live/shadow").reasons[0]
    assert report.verdict("live/driving").reasons == ("its action is not finite in flight",)
    assert not report.passed


def test_modes_not_asked_for_are_named(run, tmp_path):
    _, report = live(run, tmp_path, live_modes=("driving",))
    assert report.verdict("live/driving").status is Status.PASSED
    assert report.verdict("live/shadow").status is Status.NOT_RUN
    assert "live modes" in report.verdict("live/shadow").reasons[0]


def test_flights_repeat_under_a_seed(run, tmp_path):
    first, _ = live(run, tmp_path, seed=3)
    again, _ = live(run, tmp_path, seed=3)
    other, _ = live(run, tmp_path, seed=4)
    assert first["live/shadow"] == again["live/shadow"]
    assert first["live/driving"] == again["live/driving"]
    assert first["live/driving"] != other["live/driving"]


def test_environment_that_does_not_repeat_itself_is_named(run, tmp_path):
    checks, _ = live(run, tmp_path, task="helpers.toy_env:make_unrepeatable")
    driving = checks["live/driving"]
    assert not driving.paired
    assert "not paired" in driving.note
    assert [figure.name for figure in driving.differences] == ["gates", "crashed"]
    # As many were flown as two one-sided tests need.
    assert driving.differences[0].pairs > 16
    assert driving.differences[0].equivalent(0.5)


def test_thorough_flies_until_the_margins_are_seen(run, tmp_path):
    checks, report = live(run, tmp_path, live_modes=("driving",), thorough=True)
    driving, reference = checks["live/driving"], checks["live/reference"]
    assert driving.thorough
    # Pairs that are all equal: a crash in a share of 5 % of episodes would show in 59, and so on.
    assert driving.differences[0].pairs == reference.episodes >= 59
    for figure in driving.differences:
        assert figure.visible <= Thresholds().margins.of(figure.name)
    assert report.verdict("live/driving").status is Status.PASSED
    # With too few allowed, it is not a pass.
    _, report = live(run, tmp_path, live_modes=("driving",), thorough=True, max_episodes=20)
    assert "20 episodes show a difference of" in report.verdict("live/driving").reasons[0]


def test_right_flights_that_diverge_are_flown_on_and_wrong_ones_are_not():
    gates = np.array([6.0, 4.0] * 16)
    diverged = gates.copy()
    diverged[:2] += (2.0, -2.0)
    figure = PairedDifference.of("gates", "1", gates, diverged)
    assert figure.episodes_for(0.5, seen=False) > 16
    assert not figure.outside(0.5)
    assert PairedDifference.of("gates", "1", gates, gates - 1.0).outside(0.5)
    # Two equal policies whose flights diverge: as many episodes as planned find them equal nearly always.
    rng = np.random.default_rng(0)
    spread = np.array([1.4, -1.4] * 16) * np.sqrt(31 / 32)
    planned = PairedDifference.of("gates", "1", gates, gates + spread).episodes_for(0.5, seen=False)
    zeros = np.zeros(planned)
    found = [PairedDifference.of("gates", "1", zeros, rng.normal(0, 1.4, planned)) for _ in range(500)]
    assert np.mean([figure.within(0.5) for figure in found]) > 0.98


def test_episodes_without_end_are_refused(run, tmp_path):
    with pytest.raises(TaskError, match="16 episodes had not ended after 21 steps"):
        live(run, tmp_path, task="helpers.toy_env:make_endless")


def test_environments_are_closed(run, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(toy_env, "make", lambda options: made.append(toy_env.ToyEnv(options.num_envs, 0)) or made[-1])
    live(run, tmp_path)
    assert [env.closed for env in made] == [True, True]


def test_physical_commands_drive_like_actions(tmp_path):
    run = make_run(tmp_path, physical_actions=True, gate_output="probability")
    checks, report = live(run, tmp_path)
    assert report.passed
    assert checks["live/driving"].differences[0].equal_pairs == 16
    assert checks["live/driving"].candidate["gate_auroc"] is not None
