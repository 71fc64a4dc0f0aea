"""What a log can tell: a right one passes, and each kind of mistake is caught at its check, with its cause."""

import numpy as np
import pytest

from deploy_kit.errors import FlightLogError
from deploy_kit.onboard import OnboardFault
from deploy_kit.verify.report import Status
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import copy_bundle, edit_contract, edit_golden, edit_onnx, shift_initializer
from helpers.flight_checks import failures, note, verify
from helpers.flight_logs import fly, fly_logged, open_recorded
from helpers.variants import narrowed


@pytest.fixture(scope="module")
def right(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    log = fly_logged(run.bundle, folder / "flight.dklog")
    options = {"feature_file": None, "replay": False, "random_rows": 2, "search_evaluations": 1}
    return verify_bundle(run.verify(flight=log, report=folder / "report.json", **options)), folder


def test_right_log_passes_every_check_that_was_run(right):
    report, folder = right
    assert failures(report) == {}
    statuses = {v.name: v.status for v in report.verdicts if v.name.startswith("flight-log/")}
    assert [name for name, status in statuses.items() if status is not Status.PASSED] == ["flight-log/distribution"]
    assert len(statuses) == 14
    counts = {check.name: getattr(check, "rows", getattr(check, "count", None)) for check in report.checks}
    assert counts["flight-log/outputs"] == counts["flight-log/replay/onnx"] == counts["flight-log/observation"] == 90
    assert (folder / "report-flight.png").read_bytes().startswith(b"\x89PNG")


def test_notes_say_how_it_flew(right):
    report, _ = right
    assert note(report, "faults") == "no step was refused"
    assert "one step each 30.0 ms (median)" in note(report, "timing")
    assert "state 2 ms old (median), at most 2 ms; depth 4 ms old (median)" in note(report, "timing")
    assert "the velocity is 1.00 times the motion towards the gate" in note(report, "motion")
    assert "CPUExecutionProvider" in note(report, "bundle")


@pytest.fixture
def wrong_bundle(run, tmp_path):
    def make(change):
        folder = copy_bundle(run.bundle, tmp_path / "wrong")
        change(folder)
        return folder

    return make


def put_a_weight_well_off(folder):
    """Farther than rounding, and within the largest tolerance that a runner may be given for its golden samples."""
    edit_onnx(folder, lambda model: shift_initializer(model, "actor.4.bias", 1e-3))


def test_one_wrong_weight_is_caught_and_said_to_be_the_bundles(run, wrong_bundle, tmp_path):
    bundle = wrong_bundle(put_a_weight_well_off)
    log = fly_logged(bundle, tmp_path / "flight.dklog", tolerance=1e-2)
    found = failures(verify(run, log, tmp_path, bundle=bundle))
    assert set(found) == {"outputs", "replay/onnx"}
    assert "action[" in found["outputs"]
    assert "the graph that flew is this bundle's, and it is not the checkpoint's" in note(
        verify(run, log, tmp_path, bundle=bundle), "outputs"
    )
    report = verify(run, log, tmp_path)
    assert set(failures(report)) == {"bundle", "outputs"}
    assert note(report, "outputs") == "another graph flew than this bundle's"
    assert "policy.onnx with sha256" in failures(report)["bundle"]


def test_a_variant_that_flew_is_judged_by_its_profile(run, tmp_path):
    narrow, log = narrowed(run, tmp_path), tmp_path / "flight.dklog"
    policy = open_recorded(narrow.bundle, log, engine="onnxruntime-int8", allow_unverified=True)
    fly(policy, steps=30)
    policy.close()
    judged = verify(narrow, log, tmp_path)
    assert failures(judged) == {}
    profiles = {check.name: getattr(check, "profile", None) for check in judged.checks}
    assert profiles["flight-log/outputs"] == profiles["flight-log/replay/int8"] == "int8"
    assert profiles["flight-log/replay/onnx"] is None
    # Under the limits of float32 it would not pass.
    assert note(judged, "outputs") == "narrow arithmetic flew (onnxruntime-int8): judged by the profile int8"
    assert "(onnxruntime-int8)" in note(judged, "bundle")
    # A bundle without the variant cannot have flown it, whatever the log says.
    assert {"bundle", "outputs"} <= set(failures(verify(run, log, tmp_path)))


def test_wrong_constant_of_the_action_is_caught_with_its_size(run, wrong_bundle, tmp_path):
    def weaken(data):
        data["action"]["scale"][0] *= 0.9
        data["action"]["offset"][0] *= 0.9

    def change(folder):
        # Golden commands too: the runner refuses a contract that contradicts them.
        with np.load(folder / "golden.npz") as archive:
            edit_golden(folder, command=archive["command"] * np.array([0.9, 1, 1, 1], np.float32))
        edit_contract(folder, weaken, graph=True)

    bundle = wrong_bundle(change)
    log = fly_logged(bundle, tmp_path / "flight.dklog")
    found = failures(verify(run, log, tmp_path, bundle=bundle))
    assert set(found) == {"commands", "last-action"}
    assert found["commands"].endswith("the graph's output means " + found["commands"].split("means ")[1])
    assert "scaled by 0.9" in found["commands"]
    assert "thrust acting is" in found["last-action"]


def test_wrong_constant_of_the_image_is_caught_with_its_size(run, wrong_bundle, tmp_path):
    def shrink(data):
        data["observation"]["depth"]["divisor_m"] = 12.5

    bundle = wrong_bundle(lambda folder: edit_contract(folder, shrink, graph=True))
    report = verify(run, fly_logged(bundle, tmp_path / "flight.dklog"), tmp_path)
    found = failures(report)
    assert set(found) == {"bundle", "observation", "outputs"}
    assert "90 steps differ, the first at record 1; depth[" in found["observation"]
    assert "scaled by 0.8" in found["observation"]
    assert "the outputs are the checkpoint's for what the network saw" in note(report, "outputs")


def test_wrong_scale_of_a_term_is_caught_by_the_terms_name(run, wrong_bundle, tmp_path):
    def scale(data):
        data["observation"]["terms"][2]["scale"] = [0.001] * 3

    bundle = wrong_bundle(lambda folder: edit_contract(folder, scale, graph=True))
    found = failures(verify(run, fly_logged(bundle, tmp_path / "flight.dklog"), tmp_path))
    assert "target_position[" in found["observation"]
    assert "scaled by 0.001 (metres in place of millimetres)" in found["observation"]


def test_wrong_detector_is_caught(run, wrong_bundle, tmp_path):
    def lower(data):
        data["gate"]["detector"]["threshold_logit"] -= 50
        data["gate"]["detector"]["release_logit"] -= 50

    bundle = wrong_bundle(lambda folder: edit_contract(folder, lower, graph=True))
    found = failures(verify(run, fly_logged(bundle, tmp_path / "flight.dklog"), tmp_path, bundle=bundle))
    assert set(found) == {"gate"}
    assert "gate_passed was True, the checkpoint's detector says False" in found["gate"]


def test_wrong_latency_is_caught(run, wrong_bundle, tmp_path):
    bundle = wrong_bundle(
        lambda folder: edit_contract(
            folder, lambda data: data["timing"]["action_latency_steps"].update(value=0), graph=True
        )
    )
    found = failures(verify(run, fly_logged(bundle, tmp_path / "flight.dklog"), tmp_path))
    assert "last-action" in found


def flip(*columns):
    def mistake(state, depth):
        state = state.copy()
        state[list(columns)] *= -1
        return state, depth

    return mistake


def scaled(state, depth):
    return np.concatenate([2 * state[:3], state[3:]]), depth


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (flip(1, 2), "base_lin_vel does not fit the motion of the others; y and z have the opposite sign: forward-r"),
        (flip(7), "target_position does not fit the motion of the others; y has the opposite sign"),
        (scaled, "base_lin_vel is 2 times as large as the motion towards the gate"),
    ],
)
def test_wrong_frame_of_the_drones_own_numbers_is_caught_by_motion(run, tmp_path, mistake, said):
    """A replay passes, since it is fed the same wrong numbers."""
    found = failures(verify(run, fly_logged(run.bundle, tmp_path / "flight.dklog", mistake=mistake), tmp_path))
    assert set(found) == {"motion"}
    assert said in found["motion"]


def test_camera_that_stopped_is_caught(run, tmp_path):
    frozen = np.full((24, 32), 3.0, np.float32)
    log = fly_logged(run.bundle, tmp_path / "flight.dklog", mistake=lambda state, depth: (state, frozen))
    report = verify(run, log, tmp_path)
    assert set(failures(report)) == {"timing"}
    assert "the image did not change for 89 steps (2.7 s)" in failures(report)["timing"]
    assert "89 images were those of the step before" in note(report, "timing")


def test_slow_steps_and_refused_ones_are_counted(run, tmp_path, monkeypatch):
    policy = open_recorded(run.bundle, tmp_path / "flight.dklog")
    accepted = policy.recorder.accepted
    # As if each step had begun 40 ms earlier: the period is 30 ms.
    monkeypatch.setattr(policy.recorder, "accepted", lambda began, *rest: accepted(began - 40_000_000, *rest))
    fly(policy, 70)
    for _ in range(2):
        with pytest.raises(OnboardFault, match="state_not_finite"):
            policy.step(np.full(12, np.nan), np.full((24, 32), 3.0, np.float32))
    policy.close()
    report = verify(run, tmp_path / "flight.dklog", tmp_path)
    assert failures(report) == {"timing": "70 of 70 steps took longer than the period of 30 ms"}
    assert note(report, "faults") == "2 steps refused: 2 state_not_finite"


def test_wrong_pace_is_caught(run, tmp_path):
    policy = open_recorded(run.bundle, tmp_path / "flight.dklog")
    real = policy.step
    policy.step = lambda state, depth, now, a, b: real(state, depth, 1.4 * now, 1.4 * a, 1.4 * b)
    fly(policy, 70)
    policy.close()
    found = failures(verify(run, tmp_path / "flight.dklog", tmp_path))
    assert "the policy flew at 23.8 Hz; it was trained for 33.3 Hz" in found["timing"]


def test_inputs_that_held_out_rows_never_had_are_named(run, tmp_path):
    offset = np.repeat([9.0, 0.0, 9.0, 0.0], 3)
    report = verify(
        run,
        fly_logged(run.bundle, tmp_path / "flight.dklog", mistake=lambda state, depth: (state + offset, depth)),
        tmp_path,
        dataset=run.dataset,
    )
    found = failures(report)
    assert "base_lin_vel[0] is outside of the recorded" in found["distribution"]


def test_other_sizes_and_other_files_are_refused_before_anything_is_replayed(run, tmp_path):
    with pytest.raises(FlightLogError, match="no flight log"):
        verify_bundle(run.verify(flight=run.dataset))
    assert not (run.bundle / "report.json").exists()


def test_lost_records_and_a_cut_end_are_told(run, tmp_path):
    log = fly_logged(run.bundle, tmp_path / "flight.dklog", steps=70)
    log.write_bytes(log.read_bytes()[:-500])
    report = verify(run, log, tmp_path)
    assert failures(report) == {}
    assert "a torn record at byte" in note(report, "file")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    assert "the file is damaged" in failures(verify(run, log, tmp_path))["file"]
