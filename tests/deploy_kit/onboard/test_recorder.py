import json
import os
import signal
import subprocess
import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.flightlog.records import LoggedHold, LoggedReset
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, RecordingOptions
from deploy_kit.onboard.log_format import MAGIC
from deploy_kit.onboard.log_writer import SLOTS

STATE = np.array([1.0, 0.1, 0.2, 0.0, 0.0, 1.0, 3.0, 0.5, 0.0, 3.0, 0.0, 0.0])


def depth_of(step, kind=np.float32):
    image = np.random.default_rng(step).uniform(0.5, 12.0, (72, 96))
    return (1e3 * image).astype(kind) if np.dtype(kind).kind == "u" else image.astype(kind)


def step(policy, number, kind=np.float32):
    now = 0.03 * number
    return policy.step(STATE + 0.001 * number, depth_of(number, kind), now, now - 0.01, now - 0.02)


def test_log_holds_what_went_in_and_what_came_out(bundles, tmp_path):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    outputs = [step(policy, number) for number in range(5)]
    wrong = STATE.copy()
    wrong[2] = np.nan
    with pytest.raises(OnboardFault, match="state_not_finite"):
        policy.step(wrong, depth_of(5), 0.15)
    policy.hold(np.array([9.0, 0.1, 0.2, 0.3]), 0.16)
    policy.hold()
    outputs.append(step(policy, 6))
    policy.reset()
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert (log.ended, log.cut, log.damaged, log.missing) == ("closed", None, False, 0)
        assert [record.sequence for record in log.records] == list(range(1, 11))
        assert len(log.flown) == 6
        for number, logged, output in zip((0, 1, 2, 3, 4, 6), log.flown, outputs, strict=True):
            inputs = log.inputs(logged)
            np.testing.assert_array_equal(inputs.state, STATE + 0.001 * number)
            np.testing.assert_array_equal(inputs.depth, depth_of(number))
            np.testing.assert_array_equal(
                inputs.network_image, np.minimum(depth_of(number), np.float32(10)) / np.float32(10)
            )
            np.testing.assert_array_equal(inputs.network_state[:12], (STATE + 0.001 * number).astype(np.float32))
            np.testing.assert_array_equal(inputs.network_state[12:], logged.acting.astype(np.float32))
            np.testing.assert_array_equal(logged.command, output.command)
            np.testing.assert_allclose(policy._commands(logged.first.tolist()), output.command, rtol=1e-12)
            assert logged.times == (0.03 * number, 0.03 * number - 0.01, 0.03 * number - 0.02)
            assert 1 / (1 + np.exp(-np.float64(logged.gate))) == pytest.approx(output.gate_probability)
            assert (logged.passed, logged.event) == (output.gate_passed, output.gate_event)
            assert 0 < logged.duration_ns < 60e9
        # Two steps of latency, the first of them before the flight.
        np.testing.assert_array_equal(log.flown[1].acting, policy.contract.offset)
        np.testing.assert_array_equal(log.flown[3].acting, outputs[1].command)
        np.testing.assert_array_equal(log.flown[5].acting, [9.0, 0.1, 0.2, 0.3])
        refused = next(record for record in log.steps if record.fault)
        assert refused.fault == "state_not_finite: state[2] is nan"
        np.testing.assert_array_equal(log.inputs(refused).state, wrong)
        np.testing.assert_array_equal(log.inputs(refused).depth, depth_of(5))
        assert log.inputs(refused).network_state is None
        holds = [record for record in log.records if isinstance(record, LoggedHold)]
        assert [(hold.told, hold.now) for hold in holds[:1]] == [(True, 0.16)]
        np.testing.assert_array_equal(holds[1].command, [9.0, 0.1, 0.2, 0.3])
        assert not holds[1].told
        assert isinstance(log.records[-1], LoggedReset)
        manifest = json.loads((bundles.plain / "manifest.json").read_text())
        assert log.header["files"] == {name: entry["sha256"] for name, entry in manifest["files"].items()}
        assert log.header["providers"][0] == "CPUExecutionProvider"
        assert log.header["contract"] == policy.contract.text


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.uint16])
def test_images_are_stored_as_they_were_given(bundles, tmp_path, kind):
    options = OnboardOptions(depth_in_millimetres=np.dtype(kind).kind == "u")
    policy = OnboardPolicy(bundles.plain, options, log=tmp_path / "flight.dklog")
    step(policy, 0, kind)
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        depth = log.inputs(log.flown[0]).depth
        assert depth.dtype == kind
        np.testing.assert_array_equal(depth, depth_of(0, kind))


def test_another_kind_of_input_in_mid_flight_is_stored_as_it_is(bundles, tmp_path):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    for number, kind in enumerate((np.float32, np.float64, np.float32)):
        step(policy, number, kind)
    with pytest.raises(OnboardFault, match="depth_shape"):
        policy.step(STATE, np.zeros((480, 640), np.float32))
    with pytest.raises(OnboardFault, match="state_type"):
        policy.step([1.0] * 12, depth_of(0))
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        for number, kind in enumerate((np.float32, np.float64, np.float32)):
            np.testing.assert_array_equal(log.inputs(log.flown[number]).depth, depth_of(number, kind))
        shape, kind = log.steps[3:]
        assert "(480, 640)" in shape.fault
        assert log.inputs(shape).depth is None
        assert log.inputs(kind).state is None


KILLED = """
import sys, time
import numpy as np
from deploy_kit.onboard import OnboardPolicy
policy = OnboardPolicy(sys.argv[1], log=sys.argv[2])
state = np.array([1.0, 0.1, 0.2, 0.0, 0.0, 1.0, 3.0, 0.5, 0.0, 3.0, 0.0, 0.0])
for number in range(int(sys.argv[3])):
    policy.step(state, np.full((72, 96), 3.0, np.float32))
if sys.argv[3] == "40":
    while policy.recorder._writer.tail < 40:
        time.sleep(0.01)
    print("written", flush=True)
    time.sleep(600)
"""


def test_killed_process_leaves_a_readable_log(bundles, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(bundles.plain), str(tmp_path / "flight.dklog"), "40"], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert len(log.flown) == 40
        assert log.ended is None
        assert not log.damaged


def test_process_that_ends_without_closing_leaves_a_whole_log(bundles, tmp_path):
    command = [sys.executable, "-c", KILLED, str(bundles.plain), str(tmp_path / "flight.dklog"), "7"]
    subprocess.run(command, check=True)
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert (len(log.flown), log.ended) == (7, "closed")


@pytest.fixture
def whole(bundles, tmp_path):
    """A log of four steps, as bytes, and a function that opens other bytes."""
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    for number in range(4):
        step(policy, number)
    policy.close()

    def reopen(data):
        (tmp_path / "other.dklog").write_bytes(data)
        return open_flight_log(tmp_path / "other.dklog")

    data = (tmp_path / "flight.dklog").read_bytes()
    with reopen(data) as log:
        size = len(data) - log._positions[4].offset
        starts = [position.offset for position in log._positions.values()]
    return SimpleNamespace(data=data, reopen=reopen, size=size, starts=starts)


def test_torn_last_record_is_left_out_with_a_word(whole):
    for left in (1, 9, 5000, 40000):
        with whole.reopen(whole.data[: whole.starts[3] + left]) as log:
            assert len(log.flown) == 3
            assert "a torn record at byte" in log.cut
            assert not log.damaged
    with whole.reopen(whole.data[: whole.starts[3] - 400] + bytes(3000)) as log:
        assert not log.damaged


def test_damage_in_the_middle_is_told_apart_from_a_torn_end(whole):
    data = bytearray(whole.data)
    data[whole.starts[1] + 1000] ^= 1
    with whole.reopen(bytes(data)) as log:
        assert len(log.flown) == 1
        assert "wrong checksum" in log.cut
        assert log.damaged
    data = bytearray(whole.data)
    data[-1] ^= 1
    with whole.reopen(bytes(data)) as log:
        assert (len(log.flown), log.ended, log.damaged) == (4, None, False)


@pytest.mark.parametrize("data", [b"", b"nothing", MAGIC, MAGIC + b"\x00" * 100, MAGIC[:8] + b"\x02\0\0\0"])
def test_what_is_no_log_is_refused(tmp_path, data):
    (tmp_path / "x.dklog").write_bytes(data)
    with pytest.raises(FlightLogError, match=r"x\.dklog"):
        open_flight_log(tmp_path / "x.dklog")
    with pytest.raises(FlightLogError, match="missing"):
        open_flight_log(tmp_path / "missing")


def test_existing_file_is_kept_and_a_folder_gives_the_next_free_name(bundles, tmp_path):
    (tmp_path / "flight-0001.dklog").write_text("mine")
    with pytest.raises(OnboardFault, match="exists") as caught:
        OnboardPolicy(bundles.plain, log=tmp_path / "flight-0001.dklog")
    assert caught.value.fault is Fault.LOG
    assert (tmp_path / "flight-0001.dklog").read_text() == "mine"
    policy = OnboardPolicy(bundles.plain, log=tmp_path)
    assert policy.recorder.path.name == "flight-0002.dklog"
    policy.close()
    with pytest.raises(OnboardFault, match="cannot be written"):
        OnboardPolicy(bundles.plain, log=tmp_path / "nowhere" / "flight.dklog")


def test_name_that_ends_with_a_slash_is_a_folder_that_is_made(bundles, tmp_path):
    OnboardPolicy(bundles.plain, log=f"{tmp_path}/season/logs/").close()
    assert (tmp_path / "season" / "logs" / "flight-0001.dklog").is_file()
    with pytest.raises(OnboardFault, match="exists"):
        OnboardPolicy(bundles.plain, log=f"{tmp_path}/season/logs/flight-0001.dklog/")


def drained(policy):
    while policy.recorder._writer.tail < policy.recorder._head and policy.recorder.ended is None:
        pass


def fly(policy, steps):
    for number in range(steps):
        step(policy, number)
        drained(policy)


def test_rotated_log_keeps_the_newest_and_stays_within_its_bound(bundles, tmp_path):
    bound = RecordingOptions(max_bytes=1 << 20)
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog", recording=bound)
    fly(policy, 60)
    policy.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["flight.dklog", "flight.dklog.1"]
    assert sum(file.stat().st_size for file in files) <= bound.max_bytes
    with open_flight_log(files[1]) as older, open_flight_log(files[0]) as newer:
        assert older.ended.endswith("bytes are reached")
        assert older.header["part"] + 1 == newer.header["part"] > 1
        assert newer.records[0].sequence == older.records[-1].sequence + 1
        assert newer.records[-1].sequence == 60


def test_no_log_replaces_what_is_left_of_another_flight(bundles, tmp_path):
    # The newer half was taken away; the older one of flight 1 is all that is left of it.
    (tmp_path / "flight-0001.dklog.1").write_bytes(b"a flight")
    bound = RecordingOptions(max_bytes=1 << 20)
    policies = [OnboardPolicy(bundles.plain, log=tmp_path, recording=bound) for _ in range(2)]
    assert [policy.recorder.path.name for policy in policies] == ["flight-0002.dklog", "flight-0003.dklog"]
    with pytest.raises(OnboardFault, match=r"flight-0001\.dklog\.1 exists"):
        OnboardPolicy(bundles.plain, log=tmp_path / "flight-0001.dklog", recording=bound)
    for policy in policies:
        policy.close()
    assert (tmp_path / "flight-0001.dklog.1").read_bytes() == b"a flight"


def test_full_log_stops_or_refuses_by_option(bundles, tmp_path):
    stopping = RecordingOptions(max_bytes=1 << 20, at_limit="stop")
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "a.dklog", recording=stopping)
    fly(policy, 40)
    assert policy.recorder.ended == "1048576 bytes are reached"
    policy.close()
    refusing = RecordingOptions(max_bytes=1 << 20, at_limit="fault")
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "b.dklog", recording=refusing)
    with pytest.raises(OnboardFault, match="1048576 bytes are reached") as caught:
        fly(policy, 40)
    assert caught.value.fault is Fault.LOG
    policy.close()
    for name in ("a.dklog", "b.dklog"):
        with open_flight_log(tmp_path / name) as log:
            assert log.ended == "1048576 bytes are reached"
            assert len(log.flown) == 18


def test_log_ends_when_its_time_is_over(bundles, tmp_path):
    # A step begins each half second and takes a quarter.
    bound = RecordingOptions(max_seconds=2.0, at_limit="stop", clock=count(step=250_000_000).__next__)
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog", recording=bound)
    fly(policy, 8)
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert (len(log.flown), log.ended) == (5, "2 s are reached")
        assert {logged.duration_ns for logged in log.flown} == {250_000_000}


def test_disk_that_fails_ends_the_log_and_not_the_flight(bundles, tmp_path, monkeypatch):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")

    def fail(data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(policy.recorder._writer, "_append", fail)
    fly(policy, 3)
    assert policy.recorder.ended == "it cannot be written (No space left on device)"
    policy.close()


def test_a_step_that_no_record_takes_ends_the_log_and_not_the_flight(bundles, tmp_path, monkeypatch):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    monkeypatch.setattr(policy.recorder, "clock", lambda: 2**80)
    fly(policy, 2)
    assert policy.recorder.ended.startswith("a step holds what no record takes (")
    policy.close()


def test_slow_disk_loses_records_that_the_log_then_lacks(bundles, tmp_path, monkeypatch):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    writer, drain = policy.recorder._writer, policy.recorder._writer._drain
    monkeypatch.setattr(writer, "_drain", lambda: None)
    for number in range(SLOTS + 5):
        step(policy, number)
    assert policy.recorder.lost == 5
    monkeypatch.setattr(writer, "_drain", drain)
    drained(policy)
    step(policy, SLOTS + 5)
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert log.missing == 5
        assert log.records[-1].sequence == SLOTS + 6


@pytest.mark.parametrize(
    "bad", [{"max_bytes": 1}, {"max_seconds": 0.0}, {"max_seconds": np.nan}, {"at_limit": "x"}, {"sync_s": np.nan}]
)
def test_senseless_bounds_are_refused(bad):
    with pytest.raises(OnboardFault, match=next(iter(bad))):
        RecordingOptions(**bad)
