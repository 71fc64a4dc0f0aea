import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from deploy_kit.bundle.runners import open_session
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy
from helpers.bundles import edit_contract, write_torn_npz

STATE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0])
DEPTH = np.full((72, 96), 5.0)


@pytest.fixture(scope="module")
def policy(bundles):
    return OnboardPolicy(bundles.plain)


def changed(array, index, value):
    result = array.copy()
    result[index] = value
    return result


@pytest.mark.parametrize(
    ("state", "depth", "fault"),
    [
        (STATE[:11], DEPTH, Fault.STATE_SHAPE),
        (STATE[None], DEPTH, Fault.STATE_SHAPE),
        (STATE.astype(int), DEPTH, Fault.STATE_TYPE),
        (list(STATE), DEPTH, Fault.STATE_TYPE),
        (changed(STATE, 4, np.nan), DEPTH, Fault.STATE_NOT_FINITE),
        (changed(STATE, 0, np.inf), DEPTH, Fault.STATE_NOT_FINITE),
        (changed(STATE, 0, 17.0), DEPTH, Fault.STATE_OUT_OF_RANGE),
        (changed(STATE, 5, -1.2), DEPTH, Fault.STATE_OUT_OF_RANGE),
        (np.ma.masked_array(STATE, np.arange(12) == 3), DEPTH, Fault.STATE_TYPE),
        (None, DEPTH, Fault.STATE_TYPE),
        (STATE, None, Fault.DEPTH_TYPE),
        (STATE, np.ma.masked_array(DEPTH, DEPTH > 4), Fault.DEPTH_TYPE),
        (STATE, DEPTH[:71], Fault.DEPTH_SHAPE),
        (STATE, DEPTH.T, Fault.DEPTH_SHAPE),
        (STATE, DEPTH.astype(np.uint16), Fault.DEPTH_TYPE),
        (STATE, changed(DEPTH, (70, 3), np.nan), Fault.DEPTH_NOT_A_NUMBER),
        (STATE, changed(DEPTH, (70, 3), -0.01), Fault.DEPTH_OUT_OF_RANGE),
        (STATE, changed(DEPTH, (70, 3), -np.inf), Fault.DEPTH_OUT_OF_RANGE),
    ],
)
def test_unusable_inputs_are_named(policy, state, depth, fault):
    with pytest.raises(OnboardFault) as caught:
        policy.step(state, depth)
    assert caught.value.fault is fault
    assert str(caught.value).startswith(fault.value + ": ")
    assert policy.step(STATE, DEPTH).command.shape == (4,)


def test_messages_say_where(policy):
    with pytest.raises(OnboardFault, match=r"state\[4\] is nan"):
        policy.step(changed(STATE, 4, np.nan), DEPTH)
    with pytest.raises(OnboardFault, match=r"state\[0\] is 17, expected -15 to 15"):
        policy.step(changed(STATE, 0, 17.0), DEPTH)
    with pytest.raises(OnboardFault, match=r"depth\[70, 3\] is -0\.01"):
        policy.step(STATE, changed(DEPTH, (70, 3), -0.01))


def test_a_refused_step_leaves_the_past_alone(bundles):
    flown, refused = OnboardPolicy(bundles.plain), OnboardPolicy(bundles.plain)
    for step in range(4):
        with pytest.raises(OnboardFault):
            refused.step(STATE, DEPTH[:1], 0.03 * step, 0.03 * step, 0.03 * step)
        state = changed(STATE, 0, float(step))
        wanted = flown.step(state, DEPTH, 0.03 * step, 0.03 * step, 0.03 * step).command
        got = refused.step(state, DEPTH, 0.03 * step, 0.03 * step, 0.03 * step).command
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        ((1.0, 1.0, 1.0), None),
        ((1.0, 0.945, 0.935), None),
        ((1.0, None, None), None),
        ((1.0, 0.935, 1.0), Fault.STATE_STALE),
        ((1.0, 1.0, 0.925), Fault.DEPTH_STALE),
        ((1.0, 1.001, 1.0), Fault.CLOCK),
        ((1.0, 1.0, 1.001), Fault.CLOCK),
        ((0.8, 0.8, 0.8), Fault.CLOCK),
        ((1.0, 1.0, 0.9), Fault.CLOCK),
        ((np.nan, 1.0, 1.0), Fault.CLOCK),
        ((np.inf, 1.0, 1.0), Fault.CLOCK),
        ((10**400, 1.0, 1.0), Fault.CLOCK),
        (("1.0", 1.0, 1.0), Fault.CLOCK),
        ((1.0, "1.0", 1.0), Fault.CLOCK),
        ((np.array([1.0]), 1.0, 1.0), Fault.CLOCK),
        ((np.float32(1.0), 1, np.float64(1.0)), None),
        ((None, 1.0, None), Fault.CLOCK),
    ],
)
def test_times(bundles, times, fault):
    policy = OnboardPolicy(bundles.plain, OnboardOptions(max_step_s=1.0))
    policy.step(STATE, DEPTH, 0.91, 0.91, 0.91)
    if fault is None:
        policy.step(STATE, DEPTH, *times)
        return
    with pytest.raises(OnboardFault) as caught:
        policy.step(STATE, DEPTH, *times)
    assert caught.value.fault is fault


def test_limits_of_age_can_be_chosen(bundles):
    policy = OnboardPolicy(bundles.plain, OnboardOptions(max_state_age_s=0.5, max_depth_age_s=0.2, max_step_s=1.0))
    policy.step(STATE, DEPTH, 1.0, 0.55, 0.85)
    with pytest.raises(OnboardFault, match=r"depth is 0\.250 s old, at most 0\.200 s"):
        policy.step(STATE, DEPTH, 1.1, 1.0, 0.85)


def test_steps_that_come_too_early_or_too_late_are_named(bundles):
    policy = OnboardPolicy(bundles.plain)

    def fault_at(now):
        try:
            policy.step(STATE, DEPTH, now, now, now)
        except OnboardFault as caught:
            return caught.fault
        return None

    assert [fault_at(now) for now in (1.0, 1.016, 1.029, 1.07)] == [None, None, Fault.STEP_EARLY, None]
    # A step that is late once does not make all that follow late.
    assert [fault_at(now) for now in (1.131, 1.161)] == [Fault.STEP_LATE, None]
    policy.hold(now=1.2)
    assert fault_at(1.25) is None
    policy.reset()
    assert fault_at(0.5) is None


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": np.inf},
        {"tolerance": np.nan},
        {"tolerance": 0.0},
        {"tolerance": 2e-2},
        {"range_margin": -0.1},
        {"max_state_age_s": np.nan},
        {"max_blind_s": np.inf},
        {"threads": 0},
        {"threads": 1.5},
        {"provider_options": None},
    ],
)
def test_options_that_switch_a_guard_off_are_refused(options):
    with pytest.raises(OnboardFault, match=next(iter(options))) as caught:
        OnboardOptions(**options)
    assert caught.value.fault is Fault.OPTIONS


def test_what_onnxruntime_raises_in_flight_is_a_fault(bundles):
    policy = OnboardPolicy(bundles.plain)

    class Session:
        def run_with_iobinding(self, binding):
            raise RuntimeError("device lost")

    policy._graph._bound._session = Session()
    with pytest.raises(OnboardFault, match="device lost") as caught:
        policy.step(STATE, DEPTH)
    assert caught.value.fault is Fault.RUNTIME


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"PK\x05\x06" + bytes(18)])
def test_golden_samples_that_are_no_archive(broken, data):
    refuse(broken(lambda folder: (folder / "golden.npz").write_bytes(data)), Fault.BUNDLE_ALTERED, r"golden\.npz")


def test_golden_samples_with_a_torn_array(broken):
    folder = broken(lambda folder: write_torn_npz(folder / "golden.npz", "observation"))
    refuse(folder, Fault.BUNDLE_ALTERED, r"golden\.npz cannot be read")


def refuse(folder, fault, match=None, options=None):
    with pytest.raises(OnboardFault, match=match) as caught:
        OnboardPolicy(folder, options)
    assert caught.value.fault is fault


def test_files_that_cannot_be_read(broken, monkeypatch):
    folder, read = broken(lambda folder: None), Path.read_bytes

    def read_bytes(path):
        if path.name == "policy.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    refuse(folder, Fault.BUNDLE_INCOMPLETE, "policy.onnx cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["policy.onnx", "contract.json", "golden.npz", "manifest.json"])
def test_missing_files(broken, name):
    refuse(broken(lambda folder: (folder / name).unlink(), relist=False), Fault.BUNDLE_INCOMPLETE, name)


def test_files_that_the_drone_does_not_need_may_stay_away(broken):
    def thin(folder):
        (folder / "policy.pt").unlink()
        (folder / "policy.safetensors").unlink()

    assert OnboardPolicy(broken(thin, relist=False)).self_check < 1


@pytest.mark.parametrize("name", ["policy.onnx", "contract.json", "golden.npz", "policy.pt", "policy.safetensors"])
def test_altered_files(broken, name):
    def alter(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    refuse(broken(alter, relist=False), Fault.BUNDLE_ALTERED, f"{name} has another sha256")


def test_cut_file(broken):
    def cut(folder):
        (folder / "policy.onnx").write_bytes((folder / "policy.onnx").read_bytes()[:-5])

    refuse(broken(cut, relist=False), Fault.BUNDLE_ALTERED, "the manifest says")


@pytest.mark.parametrize("text", ["{", "[]", '{"manifest_version": 7}'])
def test_unusable_manifest(broken, text):
    refuse(broken(lambda folder: (folder / "manifest.json").write_text(text), relist=False), Fault.BUNDLE_ALTERED)


def test_manifest_that_points_outside(broken):
    def point(folder):
        data = json.loads((folder / "manifest.json").read_text())
        data["files"]["../x"] = {"sha256": "", "size": 0}
        (folder / "manifest.json").write_text(json.dumps(data))

    refuse(broken(point, relist=False), Fault.BUNDLE_INCOMPLETE)


@pytest.mark.parametrize(
    ("edit", "fault", "match"),
    [
        (lambda d: d.update(schema_version=1), Fault.CONTRACT_VERSION, "schema version 1, .* make the bundle anew"),
        (lambda d: d["gate"]["detector"].update(release_logit=9.0), Fault.CONTRACT_INVALID, "the detector's threshold"),
        (lambda d: d["observation"]["depth"].update(clip_m=None), Fault.CONTRACT_INVALID, "depth_range_m"),
        (lambda d: d.pop("schema_version"), Fault.CONTRACT_INVALID, "schema_version"),
        (lambda d: d.pop("timing"), Fault.CONTRACT_INVALID, "timing"),
        (
            lambda d: d["timing"]["policy_period_s"].update(value="nan"),
            Fault.CONTRACT_INVALID,
            "policy_period_s is nan",
        ),
        (lambda d: d["timing"]["depth_period_s"].update(value=-1), Fault.CONTRACT_INVALID, "depth_period_s is -1"),
        (lambda d: d["timing"]["action_latency_steps"].update(value=-1), Fault.CONTRACT_INVALID, "steps is -1"),
        (lambda d: d["timing"]["action_latency_steps"].update(value=1e9), Fault.CONTRACT_INVALID, "not 0 to 100"),
        (lambda d: d["action"].update(clip=0), Fault.CONTRACT_INVALID, "clip is 0"),
        (lambda d: d["action"].update(scale=1.0), Fault.CONTRACT_INVALID, "scale has shape"),
        (lambda d: d["action"]["offset"].pop(), Fault.CONTRACT_INVALID, "scale has shape"),
        (lambda d: d["action"].update(scale="x"), Fault.CONTRACT_INVALID, "unusable field"),
        (lambda d: d["inputs"][0]["shape"].__setitem__(0, 8), Fault.CONTRACT_INVALID, "batches of 8"),
        (lambda d: d["inputs"].reverse(), Fault.CONTRACT_INVALID, "not the contract's"),
    ],
)
def test_unusable_contract(broken, edit, fault, match):
    refuse(broken(lambda folder: edit_contract(folder, edit, graph=True)), fault, match)


def test_contract_that_is_not_the_graphs(broken):
    folder = broken(lambda folder: edit_contract(folder, lambda d: d["action"]["scale"].__setitem__(1, 7.0)))
    refuse(folder, Fault.BUNDLE_ALTERED, "another contract")


def test_graph_that_does_not_give_the_golden_outputs(broken):
    def shift(folder):
        model = onnx.load(folder / "policy.onnx")
        tensor = next(item for item in model.graph.initializer if item.name == "aux_decoder.bias")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-3), tensor.name))
        onnx.save_model(model, folder / "policy.onnx")

    folder = broken(shift)
    refuse(folder, Fault.GOLDEN_MISMATCH, "do not fly")
    assert OnboardPolicy(folder, OnboardOptions(tolerance=1e-2)).self_check < 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("array", ["action", "gate_logit", "gate_terms"])
def test_golden_outputs_that_are_not_numbers(broken, array, value):
    def spoil(folder):
        with np.load(folder / "golden.npz") as archive:
            arrays = dict(archive)
        arrays[array][1] = value
        np.savez(folder / "golden.npz", **arrays)

    refuse(broken(spoil), Fault.GOLDEN_MISMATCH, "golden sample 1")


def test_golden_samples_of_another_shape(broken):
    def spoil(folder):
        with np.load(folder / "golden.npz") as archive:
            arrays = dict(archive)
        np.savez(folder / "golden.npz", **{**arrays, "action": arrays["action"][:, :3]})

    refuse(broken(spoil), Fault.BUNDLE_ALTERED, r"golden\.npz: action has shape")


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_provider_that_is_not_there(bundles, monkeypatch, provider):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    options = OnboardOptions(provider=provider, allow_unverified=True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    refuse(bundles.plain, Fault.RUNTIME, f"has no {provider}, only CPUExecutionProvider: .* onnxruntime-gpu", options)
    # One that says it is there, and whose libraries do not load.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider", provider])
    open_other = partial(onnxruntime.InferenceSession, providers=["CPUExecutionProvider"], provider_options=[{}])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda model, settings, **_: open_other(model, settings))
    refuse(bundles.plain, Fault.RUNTIME, f"{provider} was asked for, CPUExecutionProvider would run", options)
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == ("0" if provider.startswith("Tensorrt") else None)


def test_a_provider_that_fails_in_flight_is_not_exchanged(bundles, monkeypatch, capsys):
    opened = OnboardPolicy(bundles.plain)._graph._bound._session
    host = open_session(str(bundles.plain / "policy.onnx"), Runtime())
    for session in (opened, host):
        assert not session._enable_fallback
    feed = {value.name: np.zeros((1, *value.shape[1:]), np.float32) for value in host.get_inputs()}

    inner = host._sess

    class Failing:
        def __getattr__(self, name):
            return getattr(inner, name)

        def run(self, *_):
            raise EPFail("the device is lost")

    monkeypatch.setattr(host, "_sess", Failing())
    with pytest.raises(EPFail, match="device is lost"):
        host.run(None, feed)
    assert "Falling back" not in capsys.readouterr().out


def test_a_graph_that_onnxruntime_refuses(broken):
    def spoil(folder):
        (folder / "policy.onnx").write_bytes(b"not a graph")

    refuse(broken(spoil), Fault.RUNTIME, r"refuses policy\.onnx")


def test_outputs_that_are_not_finite(bundles, monkeypatch):
    policy = OnboardPolicy(bundles.plain)
    monkeypatch.setattr(policy._graph, "run", lambda: policy._graph.first.fill(np.nan))
    with pytest.raises(OnboardFault, match="the graph gave") as caught:
        policy.step(STATE, DEPTH)
    assert caught.value.fault is Fault.OUTPUT_NOT_FINITE
