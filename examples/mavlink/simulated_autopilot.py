"""A peer for the companion: an autopilot that speaks MAVLink and flies RotorPy's drone, in lockstep or in real time.

    python examples/mavlink/companion.py BUNDLE --course course.json --depth /dev/shm/depth --hover-throttle 0.31 \
        --reference-voltage 16 --lockstep &
    python examples/mavlink/simulated_autopilot.py --course course.json --depth /dev/shm/depth --seconds 10

It converts frames by formulas of its own and by pymavlink's quaternions, not by deploy-kit's, so that a sign that is
wrong in the companion is not wrong here in the same way.
"""

import argparse
import json
import math
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from autopilot_link import mavlink, mavutil
from depth_memory import DepthMemory
from pymavlink.quaternion import QuaternionBase

from deploy_kit.sim.tracks import make_track
from deploy_kit.task.racing import RACING_TASK

sys.path.append(str(Path(__file__).resolve().parents[1]))
from rotorpy_flight import BODY_RADIUS_M, Race, RotorpyDrone, start_drone, vehicle_parameters

Float64 = npt.NDArray[np.float64]

NED_OF_ENU = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
FRD_OF_FLU = np.diag([1.0, -1.0, -1.0])

OFFBOARD, POSITION = 6 << 16, 3 << 16
"""PX4's custom modes."""

FAILSAFE_S = 0.5
"""Without a setpoint for so long, the autopilot holds by itself."""


@dataclass(frozen=True)
class Drive:
    """From throttle to thrust: what the airframe really does.

    Attributes:
        hover: throttle of hover at the reference voltage.
        quadratic: share of the thrust that grows with the throttle squared.
        reference_voltage: V.
        voltage: of the battery, V.
    """

    hover: float = 0.31
    quadratic: float = 0.6
    reference_voltage: float = 16.0
    voltage: float = 14.8

    def thrust(self, throttle: float) -> float:
        """Return thrust over mass, m/s²."""

        def pull(u: float) -> float:
            return self.quadratic * u * u + (1 - self.quadratic) * u

        return 9.81 * pull(throttle) / pull(self.hover) * (self.voltage / self.reference_voltage) ** 2


@dataclass(frozen=True)
class Outage:
    """Something is missing for a while.

    Attributes:
        what: name of a message, "depth" (the camera's image stays), or "link" (nothing is sent).
        start: s.
        stop: s.
    """

    what: str
    start: float
    stop: float


@dataclass
class Flown:
    """What a flight was.

    Attributes:
        gates: passed, by the position.
        ended: "time", "crash" or "silence" (no setpoint came).
        setpoints: (time, message) as obeyed, from the moment in which the policy had control.
        positions: world frame east-north-up, m.
        failsafe: steps in which the autopilot held by itself.
    """

    gates: int = 0
    ended: str = "time"
    setpoints: list[tuple[float, Any]] = field(default_factory=list)
    positions: list[Float64] = field(default_factory=list)
    failsafe: int = 0


def write_course(path: Path, seed: int, kind: str) -> None:
    """Write the course of one of deploy-kit's tracks."""
    track = make_track(seed, (kind,), obstacles=False)
    course: dict[str, Any] = {"frame": "ENU", "gates": track.gate_positions.tolist(), "closed": bool(track.closed)}
    if not track.closed:
        course["exit"] = track.exit_point.tolist()
    path.write_text(json.dumps(course))


class SimulatedAutopilot:
    """An autopilot with a drone, a camera and a course.

    Args:
        address: where the companion listens, as pymavlink takes it: "udpout:127.0.0.1:14540".
        depth: where images go.
        seed: of the track.
        kind: of the track.
        drive: of the airframe.
        outages: what is missing when.
        latency_steps: policy periods from a setpoint's arrival to its acting, as in the task.
        lockstep: whether to wait for the setpoint of each step.
    """

    def __init__(
        self,
        address: str,
        depth: DepthMemory,
        seed: int = 0,
        kind: str = "circular",
        drive: Drive | None = None,
        outages: tuple[Outage, ...] = (),
        latency_steps: int = RACING_TASK.clock.action_delay,
        lockstep: bool = True,
    ) -> None:
        self._link = mavutil.mavlink_connection(address, source_system=1, source_component=1)
        self._depth, self._drive, self._outages = depth, drive or Drive(), outages
        self._race = Race(make_track(seed, (kind,), obstacles=False))
        self._drone: RotorpyDrone = start_drone(self._race.track, vehicle_parameters("hummingbird"))
        self._lockstep = lockstep
        # Autopilots send their state more often than the policy steps.
        parts = 1 if lockstep else 3
        self._period = RACING_TASK.clock.policy_dt / parts
        self._acting: deque[Any] = deque([None] * latency_steps * parts)
        self._began = 0.0
        self._heard: tuple[float, Any] = -math.inf, None

    def fly(self, seconds: float, engage_s: float = 0.3, patience_s: float = 60.0) -> Flown:
        """Fly, and give control back to the pilot at the end.

        Args:
            seconds: how long.
            engage_s: when the pilot gives control to the companion.
            patience_s: how long to wait for a setpoint, by this computer's clock.
        """
        flown, frame_due = Flown(), 0.0
        self._meet(patience_s)
        step, now = 0, 0.0
        while now < seconds - 1e-9:
            if now >= frame_due - 1e-9 and not self._out("depth", now):
                self._depth.write(self._race.image(self._drone), self._stamp(now))
                frame_due = now + RACING_TASK.clock.camera_period
            setpoint = self._exchange(step, now, now >= engage_s, patience_s)
            if self._lockstep and setpoint is None:
                flown.ended = "silence"
                break
            # In real time a simulator that was kept waiting moves by the time that has gone by.
            step, before = step + 1, now
            now = step * self._period if self._lockstep else time.monotonic() - self._began
            self._move(setpoint, before, now - before, flown, before >= engage_s)
            flown.gates += self._race.judge(self._drone.position)
            flown.positions.append(self._drone.position.copy())
            if self._race.clearance(self._drone.position) < BODY_RADIUS_M:
                flown.ended = "crash"
                break
        for _ in range(5):
            self._heartbeat(POSITION)
            if self._lockstep:
                # Else the companion waits for the time of its next step before it looks.
                self._link.mav.system_time_send(0, round(1e3 * now))
            time.sleep(0.01)
        self._link.close()
        return flown

    def _meet(self, patience_s: float) -> None:
        """Call until the companion answers."""
        limit = time.monotonic() + patience_s
        while self._received() is None and time.monotonic() < limit:
            self._heartbeat(POSITION)
            self._send_state(0, 0.0)
            self._link.select(0.2)
        self._began = time.monotonic()

    def _out(self, what: str, now: float) -> bool:
        return any(outage.what == what and outage.start <= now < outage.stop for outage in self._outages)

    def _stamp(self, now: float) -> float:
        """Return the time of an image on the companion's clock: in real time, this computer's."""
        return now if self._lockstep else time.monotonic()

    def _exchange(self, step: int, now: float, engaged: bool, patience_s: float) -> Any:
        """Send what an autopilot sends, and return the newest setpoint."""
        silent = self._out("link", now)
        if not silent:
            if step % 10 == 0 or not self._lockstep:
                self._heartbeat(OFFBOARD if engaged else POSITION)
            self._send_state(round(1e3 * now), now)
        if self._lockstep:
            return self._await(None if silent else round(1e3 * now), patience_s)
        due = self._began + now + self._period
        while True:
            while (message := self._received()) is not None:
                self._heard = time.monotonic(), message
            left = due - time.monotonic()
            if left <= 0:
                break
            self._link.select(left)
        heard, message = self._heard
        return message if time.monotonic() - heard < FAILSAFE_S else None

    def _await(self, stamp: int | None, patience_s: float) -> Any:
        """Return the setpoint of a step, or any where the step was not announced."""
        limit = time.monotonic() + patience_s
        while (left := limit - time.monotonic()) > 0:
            message = self._received()
            if message is not None and stamp in (None, message.time_boot_ms):
                return message
            if message is None:
                self._link.select(left)
        return None

    def _received(self) -> Any:
        while (message := self._link.recv_match(blocking=False)) is not None:
            if message.get_type() == "SET_ATTITUDE_TARGET":
                return message
        return None

    def _heartbeat(self, mode: int) -> None:
        base = mavlink.MAV_MODE_FLAG_SAFETY_ARMED | mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
        self._link.mav.heartbeat_send(
            mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_PX4, base, mode, mavlink.MAV_STATE_ACTIVE
        )

    def _send_state(self, stamp: int, now: float) -> None:
        drone, mav = self._drone, self._link.mav
        attitude = list(map(float, QuaternionBase(NED_OF_ENU @ drone.rotation @ FRD_OF_FLU).q))
        rates = list(map(float, FRD_OF_FLU @ drone.rates))
        place, velocity = (list(map(float, NED_OF_ENU @ vector)) for vector in (drone.position, drone.velocity))
        in_body = list(map(float, FRD_OF_FLU @ drone.rotation.T @ drone.velocity))
        millivolts = round(1e3 * self._drive.voltage)
        frames = mavlink.MAV_FRAME_LOCAL_NED, mavlink.MAV_FRAME_BODY_FRD
        covariances = [math.nan] * 21, [math.nan] * 21
        messages = {
            "SYS_STATUS": mav.sys_status_encode(0, 0, 0, 500, millivolts, -1, -1, 0, 0, 0, 0, 0, 0),
            "ATTITUDE_QUATERNION": mav.attitude_quaternion_encode(stamp, *attitude, *rates),
            "LOCAL_POSITION_NED": mav.local_position_ned_encode(stamp, *place, *velocity),
            "ODOMETRY": mav.odometry_encode(1000 * stamp, *frames, *place, attitude, *in_body, *rates, *covariances),
        }
        for name, message in messages.items():
            if not self._out(name, now):
                mav.send(message)
        if self._lockstep:
            mav.system_time_send(0, stamp)

    def _move(self, setpoint: Any, now: float, seconds: float, flown: Flown, engaged: bool) -> None:
        """Let the drone fly for so long."""
        self._acting.append(setpoint)
        acting = self._acting.popleft()
        if engaged and setpoint is not None:
            flown.setpoints.append((now, setpoint))
        if not engaged or acting is None:
            command = np.array([9.81, 0.0, 0.0, 0.0])
            flown.failsafe += engaged
        else:
            thrust = self._drive.thrust(acting.thrust)
            if acting.type_mask & mavlink.ATTITUDE_TARGET_TYPEMASK_ATTITUDE_IGNORE:
                rates = FRD_OF_FLU @ [acting.body_roll_rate, acting.body_pitch_rate, acting.body_yaw_rate]
            else:
                rates = self._towards(NED_OF_ENU.T @ QuaternionBase(list(acting.q)).dcm @ FRD_OF_FLU)
            command = np.array([thrust, *rates])
        self._drone.fly(command, seconds, control_step=0.005)

    def _towards(self, wanted: Float64) -> Float64:
        """Return the body rates by which the attitude becomes another one."""
        error = self._drone.rotation.T @ wanted
        axis = np.array([error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]]) / 2
        return np.clip(8.0 * axis, -6.0, 6.0)


def main() -> None:
    """Fly once and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--course", type=Path, required=True, help="written here, for the companion")
    parser.add_argument("--depth", type=Path, required=True, help="file to put images into, as /dev/shm/depth")
    parser.add_argument("--link", default="udpout:127.0.0.1:14540")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the track")
    parser.add_argument("--tracks", default="circular", choices=["circular", "zigzag", "ellipse"])
    parser.add_argument("--real-time", action="store_true", help="do not wait for setpoints")
    parser.add_argument("--outage", nargs=3, action="append", default=[], metavar=("WHAT", "START", "STOP"))
    options = parser.parse_args()
    write_course(options.course, options.seed, options.tracks)
    camera = RACING_TASK.camera
    depth = DepthMemory(options.depth, (camera.height, camera.width))
    outages = tuple(Outage(what, float(start), float(stop)) for what, start, stop in options.outage)
    autopilot = SimulatedAutopilot(
        options.link, depth, options.seed, options.tracks, outages=outages, lockstep=not options.real_time
    )
    flown = autopilot.fly(options.seconds)
    print(f"{flown.gates} gates, {len(flown.setpoints)} setpoints, ended by {flown.ended}")


if __name__ == "__main__":
    main()
