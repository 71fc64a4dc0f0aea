"""The MAVLink loop: signs against hand-made numbers, and flights over a UDP loopback with a simulated autopilot."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.onboard import Fault, OnboardFault
from deploy_kit.onboard.assembly import check_assembly
from deploy_kit.onboard.bundle import load_bundle
from deploy_kit.onboard.throttle import ThrottleModel
from deploy_kit.verify.report import Status
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

pytestmark = pytest.mark.usefixtures("pictures")

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "mavlink"

HOVER, QUADRATIC, REFERENCE_VOLTAGE = 0.31, 0.6, 16.0


@pytest.fixture(scope="module")
def example():
    """The example's modules by name."""
    names = ("autopilot_link", "course", "depth_memory", "pace", "setpoints", "simulated_autopilot", "vehicle_state")
    names += ("companion",)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setenv("MAVLINK20", "1")
        patch.setenv("MAVLINK_DIALECT", "common")
        yield SimpleNamespace(**{name: __import__(name) for name in names})
        for name in (*names, "rotorpy_flight"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def assemble(example, demo_bundle):
    return example.vehicle_state.StateAssembly(load_bundle(demo_bundle).contract)


def parsed(example, message):
    """Return a message as it comes out of the bytes that went over the wire."""
    mavlink = example.autopilot_link.mavlink
    sender, receiver = mavlink.MAVLink(None, 1, 1), mavlink.MAVLink(None, 1, 191)
    (received,) = receiver.parse_buffer(message.pack(sender))
    return received


def quaternion(roll=0.0, pitch=0.0, yaw=0.0):
    """Return the aerospace attitude FRD → NED: yaw about down, then pitch about right, then roll about forward."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    return [
        cy * cp * cr + sy * sp * sr,
        cy * cp * sr - sy * sp * cr,
        cy * sp * cr + sy * cp * sr,
        sy * cp * cr - cy * sp * sr,
    ]


def told(example, source, attitude, place=(0, 0, 0), velocity_ned=(0, 0, 0), in_body=(0, 0, 0), rates=(0, 0, 0)):
    """Return a vehicle that was told this, in MAVLink's frames."""
    mavlink = example.autopilot_link.mavlink
    vehicle = example.vehicle_state.Vehicle(source, shared_clock=True)
    make = mavlink.MAVLink(None, 1, 1)
    frames = mavlink.MAV_FRAME_LOCAL_NED, mavlink.MAV_FRAME_BODY_FRD
    unknown = [math.nan] * 21
    for message in (
        make.attitude_quaternion_encode(5000, *attitude, *rates),
        make.local_position_ned_encode(5000, *place, *velocity_ned),
        make.odometry_encode(5_000_000, *frames, *place, attitude, *in_body, *rates, unknown, unknown),
    ):
        vehicle.take(parsed(example, message), 5.0)
    return vehicle


# Velocity (body), up (body), gate (body), next gate (body) in forward-left-up axes; gates are 10 m north and 4 m above
# the origin, and 3 m further east, in east-north-up axes.
GATE, NEXT_GATE = np.array([0.0, 10.0, 4.0]), np.array([3.0, 10.0, 4.0])
CASES = {
    "north, level, 2 m up, drifting east": (
        quaternion(),
        {"place": (0, 0, -2), "velocity_ned": (0, 1.5, 0), "in_body": (0, 1.5, 0)},
        [0, -1.5, 0, 0, 0, 1, 10, 0, 2, 0, -3, 0],
    ),
    "east, level, climbing": (
        quaternion(yaw=math.pi / 2),
        {"velocity_ned": (0, 0, -1), "in_body": (0, 0, -1)},
        [0, 0, 1, 0, 0, 1, 0, 10, 4, 3, 0, 0],
    ),
    "north, nose 30° up, flying north": (
        quaternion(pitch=math.pi / 6),
        {"velocity_ned": (2, 0, 0), "in_body": (2 * math.cos(math.pi / 6), 0, 2 * math.sin(math.pi / 6))},
        [
            *(2 * math.cos(math.pi / 6), 0, -2 * math.sin(math.pi / 6)),
            *(0.5, 0, math.cos(math.pi / 6)),
            *(10 * math.cos(math.pi / 6) + 2, 0, 4 * math.cos(math.pi / 6) - 5),
            *(0, -3, 0),
        ],
    ),
    "north, right side 90° down, 5 m east": (
        quaternion(roll=math.pi / 2),
        {"place": (0, 5, 0), "velocity_ned": (0, 0, -1), "in_body": (0, -1, 0)},
        [0, 1, 0, 0, 1, 0, 10, 4, -5, 0, 0, 3],
    ),
}


@pytest.mark.parametrize("source", ["local_position", "odometry"])
@pytest.mark.parametrize("case", CASES)
def test_state_has_the_contracts_axes_and_signs(example, assemble, source, case):
    attitude, moving, expected = CASES[case]
    motion = told(example, source, attitude, **moving).motion()
    np.testing.assert_allclose(assemble(motion, GATE, NEXT_GATE), expected, atol=1e-5)
    assert motion.time == 5.0


@pytest.mark.parametrize("source", ["local_position", "odometry"])
def test_body_rates_come_in_forward_left_up_axes(example, source):
    motion = told(example, source, quaternion(), rates=(0.1, 0.2, 0.3)).motion()
    np.testing.assert_allclose(motion.rates, [0.1, -0.2, -0.3], atol=1e-6)


def test_odometry_may_give_velocities_in_the_world(example):
    mavlink = example.autopilot_link.mavlink
    vehicle = example.vehicle_state.Vehicle("odometry", shared_clock=True)
    frames = mavlink.MAV_FRAME_LOCAL_NED, mavlink.MAV_FRAME_LOCAL_NED
    east = quaternion(yaw=math.pi / 2)
    unknown = [math.nan] * 21
    odometry = mavlink.MAVLink(None, 1, 1).odometry_encode
    vehicle.take(parsed(example, odometry(1, *frames, 1, 2, -3, east, 4, 5, -6, 0, 0, 0, unknown, unknown)), 0.0)
    motion = vehicle.motion()
    np.testing.assert_allclose(motion.velocity, [5, 4, 6], atol=1e-6)
    np.testing.assert_allclose(motion.position, [2, 1, 3], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"x": math.nan},
        {"q": [math.nan] * 4},
        {"q": [0.0] * 4},
        {"frame_id": 20},
        {"child_frame_id": 8},
        {"quality": -1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_odometry_that_is_not_understood_is_passed_over(example, change):
    numbers = {
        "time_usec": 1,
        "frame_id": 1,
        "child_frame_id": 12,
        **dict.fromkeys(["x", "y", "z", "vx", "vy", "vz", "rollspeed", "pitchspeed", "yawspeed"], 0.0),
        "q": [1.0, 0.0, 0.0, 0.0],
        "pose_covariance": [math.nan] * 21,
        "velocity_covariance": [math.nan] * 21,
        "quality": 0,
    }
    make = example.autopilot_link.mavlink.MAVLink(None, 1, 1).odometry_encode
    vehicle = example.vehicle_state.Vehicle("odometry")
    vehicle.take(parsed(example, make(**{**numbers, **change})), 0.0)
    assert vehicle.motion() is None
    assert vehicle.unusable == 1
    vehicle.take(parsed(example, make(**numbers)), 0.0)
    assert vehicle.motion() is not None


def test_assembly_passes_the_bundles_own_test_of_it(example, demo_bundle, assemble):
    """Golden samples as an autopilot would tell them, through MAVLink's bytes, give the golden samples' states."""
    loaded = load_bundle(demo_bundle)
    peer = example.simulated_autopilot

    def through_mavlink(sample):
        w, x, y, z = sample["attitude"]
        body_to_world = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        attitude = peer.QuaternionBase(peer.NED_OF_ENU @ body_to_world @ peer.FRD_OF_FLU).q
        place, velocity = (peer.NED_OF_ENU @ sample[name] for name in ("position", "velocity"))
        vehicle = told(example, "local_position", list(map(float, attitude)), place, velocity)
        return assemble(vehicle.motion(), sample["gate"], sample["next_gate"]), sample["depth"]

    assert check_assembly(loaded.contract, loaded.golden, through_mavlink) == 8


class Wire:
    """Stands for a link, and keeps what is sent."""

    def __init__(self, example):
        self.sent = []
        mavlink = example.autopilot_link.mavlink
        self.mav = mavlink.MAVLink(self, 1, mavlink.MAV_COMP_ID_ONBOARD_COMPUTER)
        self._receiver = mavlink.MAVLink(None, 1, 1)

    def write(self, data):
        self.sent += self._receiver.parse_buffer(data)


def test_commands_are_sent_as_rates_to_the_right_and_down_and_as_throttle(example):
    wire = Wire(example)
    model = ThrottleModel(HOVER, QUADRATIC, REFERENCE_VOLTAGE)
    setpoints = example.setpoints.Setpoints(wire, model)
    # Right side down, nose down, to the left: in MAVLink's axes roll +, pitch −, yaw −.
    setpoints.fly(np.array([9.81, 1.0, 2.0, 3.0]), REFERENCE_VOLTAGE, 12.345)
    (message,) = wire.sent
    rates = message.body_roll_rate, message.body_pitch_rate, message.body_yaw_rate
    assert rates == (1.0, -2.0, -3.0)
    assert message.type_mask == example.autopilot_link.mavlink.ATTITUDE_TARGET_TYPEMASK_ATTITUDE_IGNORE
    assert message.thrust == pytest.approx(HOVER)
    assert message.time_boot_ms == 12345
    setpoints.fly(np.array([9.81, 0.0, 0.0, 0.0]), 14.4, 0.0)
    # 14.4 V pull with 0.81 of the force.
    u = wire.sent[-1].thrust
    pull = QUADRATIC * u**2 + (1 - QUADRATIC) * u
    assert 0.81 * pull == pytest.approx(QUADRATIC * HOVER**2 + (1 - QUADRATIC) * HOVER, rel=1e-6)
    assert setpoints.cut == 0
    setpoints.fly(np.array([100.0, 0.0, 0.0, 0.0]), 14.4, 0.0)
    assert (wire.sent[-1].thrust, setpoints.cut) == (1.0, 1)
    with pytest.raises(OnboardFault, match="voltage"):
        setpoints.fly(np.array([9.81, 0.0, 0.0, 0.0]), None, 0.0)
    assert len(wire.sent) == 3


@pytest.mark.parametrize("degrees", [-170, -90, 0, 30, 135])
def test_hold_is_level_with_the_present_heading_and_hover_throttle(example, degrees):
    wire = Wire(example)
    setpoints = example.setpoints.Setpoints(wire, ThrottleModel(HOVER, QUADRATIC, REFERENCE_VOLTAGE))
    yaw = math.radians(degrees)
    rotation = told(example, "odometry", quaternion(0.4, -0.5, yaw)).motion().rotation
    setpoints.hold(rotation, REFERENCE_VOLTAGE, 0.0)
    setpoints.hold(rotation, None, 0.0)
    setpoints.hold(None, None, 0.0)
    with_voltage, without, blind = wire.sent
    # The attitude's sign is free.
    assert abs(np.dot(with_voltage.q, quaternion(yaw=yaw))) == pytest.approx(1.0, abs=1e-6)
    assert with_voltage.type_mask == 7
    assert with_voltage.thrust == without.thrust == blind.thrust == pytest.approx(HOVER)
    assert blind.type_mask == 128
    assert (blind.body_roll_rate, blind.body_pitch_rate, blind.body_yaw_rate) == (0, 0, 0)


def test_messages_that_waited_keep_their_age(example):
    clock = example.vehicle_state.StreamClock(shared=False)
    # The vehicle's clock is 100 s behind; the quickest message took 10 ms.
    assert clock.place(1.00, 101.03) == pytest.approx(101.03)
    assert clock.place(1.02, 101.03) == pytest.approx(101.03)
    assert clock.place(1.04, 101.05) == pytest.approx(101.05)
    # Stamped 1.06, it waited for 0.2 s.
    assert clock.place(1.06, 101.26) == pytest.approx(101.07)
    assert clock.place(1.05, 101.27) is None
    # A clock that drifts: after two windows the old least difference no longer counts.
    for second in range(2, 30):
        placed = clock.place(float(second), 100.05 + second)
    assert placed == pytest.approx(129.05)
    # A message that is late just when a window begins is placed by the window before.
    for second in range(30, 45):
        assert clock.place(float(second), 100.35 + second) == pytest.approx(100.05 + second)
        assert clock.place(second + 0.5, 100.55 + second) == pytest.approx(100.55 + second)
    with pytest.raises(OnboardFault, match="restarted") as raised:
        clock.place(0.5, 150.0)
    assert raised.value.fault is Fault.CLOCK


def test_real_time_keeps_the_period_and_makes_up_for_no_missed_step(example):
    now = [10.0]

    class Link:
        def receive(self):
            return None

        def wait(self, seconds):
            now[0] += seconds

    pace = example.pace.RealTime(Link(), 0.03, lambda: now[0])
    times = [pace.wait(None) for _ in range(4)]
    np.testing.assert_allclose(times, [10.0, 10.03, 10.06, 10.09])
    now[0] += 0.1  # a step that took too long
    times = [pace.wait(None) for _ in range(3)]
    np.testing.assert_allclose(np.diff([10.19, *times]), [0, 0.015, 0.03], atol=1e-9)


def test_depth_memory_gives_whole_images_alone(example, tmp_path):
    memory, path = example.depth_memory.DepthMemory, tmp_path / "depth"
    writer = memory(path, (3, 4))
    reader = memory(path)
    assert reader.read() is None
    first = np.arange(12, dtype=np.float32).reshape(3, 4)
    first[0, 0] = np.inf
    writer.write(first, 1.5)
    image, time = reader.read()
    np.testing.assert_array_equal(image, first)
    assert time == 1.5
    writer.write(first + 1, 1.6)
    assert reader.read()[1] == 1.6
    # A byte of the newest image is another one: it is being written.
    content = bytearray(path.read_bytes())
    at = content.index((first + 1).tobytes())
    with path.open("r+b") as file:
        file.seek(at + 5)
        file.write(b"\x7f")
    assert reader.read() is None
    writer.write(first, 1.7)
    assert reader.read()[1] == 1.7
    with pytest.raises(ValueError, match="shape"):
        writer.write(first[:2], 1.8)
    for wrong in (b"", b"DKDEPTH0" + bytes(100), path.read_bytes()[:-1]):
        other = tmp_path / "other"
        other.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"depth|empty"):
            memory(other)


def test_course_turns_ned_and_ends_at_its_exit(example, tmp_path):
    path = tmp_path / "course.json"
    path.write_text(json.dumps({"frame": "NED", "gates": [[1, 2, -3], [4, 5, -6]], "exit": [7, 8, -9]}))
    course = example.course.Course(path)
    np.testing.assert_array_equal(course.targets(), [[2, 1, 3], [5, 4, 6]])
    course.passed = 1
    np.testing.assert_array_equal(course.targets(), [[5, 4, 6], [8, 7, 9]])
    assert not course.finished
    course.passed = 2
    assert course.finished
    path.write_text(json.dumps({"frame": "ENU", "gates": [[1, 2, 3], [4, 5, 6]], "closed": True}))
    course = example.course.Course(path)
    course.passed = 3
    np.testing.assert_array_equal(course.targets(), [[4, 5, 6], [1, 2, 3]])
    assert not course.finished


class Flight:
    """A companion in a process of its own, and a peer here, over UDP on the loopback."""

    def __init__(self, example, bundle, folder, options=(), silence=60.0):
        peer = example.simulated_autopilot
        peer.write_course(folder / "course.json", 0, "circular")
        depth = example.depth_memory.DepthMemory(folder / "depth", (72, 96))
        self.log = folder / "flight.dklog"
        command = [sys.executable, str(FOLDER / "companion.py"), str(bundle), "--course", str(folder / "course.json")]
        command += ["--depth", str(folder / "depth"), "--link", "udpin:127.0.0.1:0", "--hover-throttle", str(HOVER)]
        command += ["--quadratic", str(QUADRATIC), "--reference-voltage", str(REFERENCE_VOLTAGE), "--lockstep"]
        command += ["--log", str(self.log), "--silence", str(silence), *options]
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
        self.companion = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        port = self.companion.stdout.readline().split()[-1]
        self.address, self.depth = f"udpout:127.0.0.1:{port}", depth

    def finish(self):
        """Return the companion's exit code and what it says."""
        try:
            out, _ = self.companion.communicate(timeout=120)
        finally:
            self.companion.kill()
            self.depth.close()
        return self.companion.returncode, json.loads(out.splitlines()[-1])


def test_policy_flies_over_mavlink_and_its_log_is_verified(example, demo_bundle, shipped_policy, tmp_path):
    flight = Flight(example, demo_bundle, tmp_path)
    flown = example.simulated_autopilot.SimulatedAutopilot(flight.address, flight.depth).fly(4.5)
    code, said = flight.finish()
    assert (flown.ended, flown.failsafe) == ("time", 0)
    assert flown.gates == said["gates"] >= 3
    assert said["holds"] == {}
    assert said["steps"] == len(flown.setpoints) == 140
    assert (code, said["ended"]) == (0, "the pilot took control back")
    assert {setpoint.type_mask for _, setpoint in flown.setpoints} == {128}
    report = verify_bundle(
        VerifyOptions(
            demo_bundle,
            shipped_policy,
            replay=False,
            live=False,
            random_rows=16,
            search_evaluations=16,
            flight=flight.log,
            report=tmp_path / "report.json",
        )
    )
    verdicts = {verdict.name: verdict.status for verdict in report.verdicts}
    wrong = {name for name, status in verdicts.items() if status is Status.FAILED}
    # How long a step took is this machine's load.
    assert wrong <= {"flight-log/timing"}
    assert verdicts["flight-log/motion"] is verdicts["flight-log/last-action"] is Status.PASSED
    with open_flight_log(flight.log) as log:
        assert len(log.flown) == 140
        # What the autopilot was told is what the log says that the policy commanded.
        for step, (_, setpoint) in zip(log.flown, flown.setpoints, strict=True):
            sent = [setpoint.body_roll_rate, -setpoint.body_pitch_rate, -setpoint.body_yaw_rate]
            np.testing.assert_allclose(sent, step.command[1:], atol=1e-6)


def test_outages_end_in_the_hold_setpoint_and_the_policy_flies_on(example, demo_bundle, tmp_path):
    """A stale stream, a lost link and a frozen camera, each for 0.3 s; then the camera stops for good."""
    outage = example.simulated_autopilot.Outage
    outages = (outage("ODOMETRY", 1.2, 1.5), outage("link", 2.4, 2.7), outage("depth", 3.6, 9.0))
    flight = Flight(example, demo_bundle, tmp_path, ["--source", "odometry", "--give-up", "0.6"], silence=1.0)
    flown = example.simulated_autopilot.SimulatedAutopilot(flight.address, flight.depth, outages=outages).fly(4.8)
    code, said = flight.finish()
    assert (flown.ended, flown.failsafe) == ("time", 0)
    held = np.array([setpoint.type_mask == 7 for _, setpoint in flown.setpoints])
    times = np.array([time for time, _ in flown.setpoints])
    assert held[(times > 1.2 + 0.07) & (times < 1.5)].all()
    assert held[(times > 2.4) & (times < 2.7)].all()
    # A period after the state is back, and two after the link is, it flies again.
    assert not held[(times > 1.5 + 0.04) & (times < 2.4)].any()
    assert not held[(times > 2.7 + 0.07) & (times < 3.6)].any()
    # The last image is too old after a frame and a period; after 0.6 s of that the hold is final.
    assert held[times > 3.6 + 0.13].all()
    assert flown.gates >= 2
    assert all(setpoint.thrust == pytest.approx(0.34856, abs=1e-4) for _, setpoint in np.array(flown.setpoints)[held])
    assert said["ended"].startswith("depth_stale")
    assert code == 1
    assert said["holds"]["depth_stale"] == 20
    assert said["holds"]["step_late"] == 1
    assert said["holds"]["state_stale"] >= 8 + 10
    # Level at the end.
    assert np.ptp(np.array(flown.positions)[-10:, 2]) < 0.3


def test_interrupted_companion_leaves_a_readable_log(example, demo_bundle, tmp_path):
    flight = Flight(example, demo_bundle, tmp_path)
    flight.companion.send_signal(signal.SIGTERM)
    code, said = flight.finish()
    assert (code, said["steps"], said["ended"]) == (130, 0, None)
    with open_flight_log(flight.log) as log:
        assert log.steps == []


@pytest.mark.parametrize("change", [{"--hover-throttle": "1.5"}, {"--depth": "absent"}, {"--course": "absent.json"}])
def test_unusable_options_end_with_one_line(example, demo_bundle, tmp_path, change, capsys):
    example.simulated_autopilot.write_course(tmp_path / "course.json", 0, "circular")
    example.depth_memory.DepthMemory(tmp_path / "depth", (72, 96)).close()
    options = {"--course": str(tmp_path / "course.json"), "--depth": str(tmp_path / "depth"), "--hover-throttle": "0.3"}
    arguments = [word for pair in {**options, **change}.items() for word in pair]
    assert example.companion.main([str(demo_bundle), *arguments, "--link", "udpin:127.0.0.1:0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
