"""What the autopilot says of the vehicle, in the contract's frames, and the policy's state made of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from autopilot_link import mavlink

from deploy_kit.onboard import Fault, OnboardFault
from deploy_kit.onboard.contract import OnboardContract
from deploy_kit.onboard.frames import enu_from_ned, flu_from_frd, flu_to_enu_from_frd_to_ned, rotation_matrix

Float64 = npt.NDArray[np.float64]

SOURCES = {
    "local_position": {"ATTITUDE_QUATERNION": 31, "LOCAL_POSITION_NED": 32},
    "odometry": {"ODOMETRY": 331},
}
"""Messages, with their ids, of which the vehicle's state is made."""

REBOOT_S = 1.0
"""A vehicle whose clock jumps back by more than this has started anew."""

VOLTAGE_AGE_S = 5.0
"""Oldest voltage that is believed."""


@dataclass(frozen=True)
class Motion:
    """Where the vehicle is and how it moves.

    Attributes:
        position: (3,) world frame east-north-up, from the autopilot's local origin, m.
        velocity: (3,) world frame, m/s.
        rotation: (3, 3) body (forward-left-up) to world.
        rates: (3,) body rates, forward-left-up, rad/s.
        time: when the oldest of these was measured, s, on the companion's clock.
    """

    position: Float64
    velocity: Float64
    rotation: Float64
    rates: Float64
    time: float


class StreamClock:
    """Brings the time stamps of one stream of messages to the companion's clock.

    The two clocks differ by an unknown offset. A message arrives after it was stamped, so the least difference seen
    within some seconds is the offset, plus the shortest delay. Messages that wait in a queue so keep their age.

    Args:
        shared: whether vehicle and companion have one clock, as in lockstep.
        window_s: how long a least difference counts; clocks drift.
    """

    def __init__(self, shared: bool, window_s: float = 5.0) -> None:
        self._shared, self._window = shared, window_s
        self._least, self._before, self._since = math.inf, math.inf, -math.inf
        self._stamp, self._time = -math.inf, -math.inf

    def place(self, stamp: float, arrived: float) -> float | None:
        """Return the time of a message on the companion's clock; None if a later one has been here before.

        Args:
            stamp: s, on the vehicle's clock.
            arrived: s, on the companion's clock.

        Raises:
            OnboardFault: the vehicle's clock has jumped back.
        """
        if stamp < self._stamp:
            if stamp < self._stamp - REBOOT_S:
                raise OnboardFault(
                    Fault.CLOCK, f"the autopilot's clock jumped from {self._stamp} s to {stamp} s: it has restarted"
                )
            return None
        self._stamp = stamp
        if self._shared:
            return stamp
        if arrived - self._since > self._window:
            self._before, self._least, self._since = self._least, math.inf, arrived
        self._least = min(self._least, arrived - stamp)
        # While the offset is still being found, times must not go backwards.
        self._time = max(self._time, stamp + min(self._least, self._before))
        return self._time


class Vehicle:
    """Collects what the autopilot sends.

    Args:
        source: "local_position" (ATTITUDE_QUATERNION and LOCAL_POSITION_NED) or "odometry" (ODOMETRY).
        shared_clock: whether vehicle and companion have one clock.

    Attributes:
        unusable: messages that were passed over, since a number was missing or a frame another one.
    """

    def __init__(self, source: str, shared_clock: bool = False) -> None:
        self._source = source
        self._clocks = {name: StreamClock(shared_clock) for name in SOURCES[source]}
        self._attitude: tuple[Float64, Float64, float] | None = None
        self._place: tuple[Float64, Float64, float] | None = None
        self._voltage: tuple[float, float] | None = None
        self.unusable = 0

    @property
    def message_ids(self) -> list[int]:
        """Ids of the messages that are read, besides SYS_STATUS."""
        return list(SOURCES[self._source].values())

    def take(self, message: Any, arrived: float) -> None:
        """Take in a message; those of other kinds are passed over.

        Args:
            message: as pymavlink gives it.
            arrived: when it arrived, s, on the companion's clock.

        Raises:
            OnboardFault: the autopilot has restarted.
        """
        kind = message.get_type()
        if kind == "SYS_STATUS":
            known = message.voltage_battery != 65535
            self._voltage = (message.voltage_battery / 1000, arrived) if known else None
        if kind not in self._clocks:
            return
        if not _usable(message):
            self.unusable += 1
            return
        stamp = message.time_usec / 1e6 if kind == "ODOMETRY" else message.time_boot_ms / 1e3
        time = self._clocks[kind].place(stamp, arrived)
        if time is None:
            return
        if kind == "ATTITUDE_QUATERNION":
            self._turn([message.q1, message.q2, message.q3, message.q4], message, time)
        elif kind == "LOCAL_POSITION_NED":
            self._move(message, enu_from_ned([message.vx, message.vy, message.vz]), time)
        else:
            rotation = self._turn(message.q, message, time)
            velocity = np.array([message.vx, message.vy, message.vz])
            # Linear velocities of ODOMETRY are in the child's frame.
            in_body = message.child_frame_id == mavlink.MAV_FRAME_BODY_FRD
            self._move(message, rotation @ flu_from_frd(velocity) if in_body else enu_from_ned(velocity), time)

    def _turn(self, quaternion: Any, message: Any, time: float) -> Float64:
        rotation = rotation_matrix(flu_to_enu_from_frd_to_ned(quaternion))
        rates = flu_from_frd([message.rollspeed, message.pitchspeed, message.yawspeed])
        self._attitude = rotation, rates, time
        return rotation

    def _move(self, message: Any, velocity: Float64, time: float) -> None:
        self._place = enu_from_ned([message.x, message.y, message.z]), velocity, time

    def motion(self) -> Motion | None:
        """Return how the vehicle moves, None while something was never told."""
        if self._attitude is None or self._place is None:
            return None
        rotation, rates, turned = self._attitude
        position, velocity, moved = self._place
        return Motion(position, velocity, rotation, rates, min(turned, moved))

    def voltage(self, now: float) -> float | None:
        """Return the battery's voltage, V, None if it is unknown or old."""
        if self._voltage is None or now - self._voltage[1] > VOLTAGE_AGE_S:
            return None
        return self._voltage[0]


_NUMBERS = {
    "ATTITUDE_QUATERNION": ("q1", "q2", "q3", "q4", "rollspeed", "pitchspeed", "yawspeed"),
    "LOCAL_POSITION_NED": ("x", "y", "z", "vx", "vy", "vz"),
    "ODOMETRY": ("x", "y", "z", "vx", "vy", "vz", "rollspeed", "pitchspeed", "yawspeed"),
}


def _usable(message: Any) -> bool:
    """Return whether every number is there, and in a frame that is understood."""
    kind = message.get_type()
    values = [getattr(message, name) for name in _NUMBERS[kind]]
    quaternion = values[:4] if kind == "ATTITUDE_QUATERNION" else [1.0]
    if kind == "ODOMETRY":
        quaternion = list(message.q)
        values += quaternion
        frames = (mavlink.MAV_FRAME_BODY_FRD, mavlink.MAV_FRAME_LOCAL_NED)
        if message.frame_id != mavlink.MAV_FRAME_LOCAL_NED or message.child_frame_id not in frames:
            return False
        if message.quality == -1:  # the estimator says that it has failed
            return False
    return all(map(math.isfinite, values)) and 0.9 < math.hypot(*quaternion) < 1.1


class StateAssembly:
    """Puts the policy's state together, term by term as the contract names them.

    Args:
        contract: of the bundle.

    Raises:
        OnboardFault: the contract has a term that MAVLink does not give.
    """

    def __init__(self, contract: OnboardContract) -> None:
        known = ("base_lin_vel", "base_orientation", "target_position", "next_target_offset", "base_ang_vel")
        known += ("projected_gravity", "last_action")
        terms = [term["quantity"] for term in contract.text["observation"]["terms"]]
        if unknown := [str(term) for term in terms if term not in known]:
            raise OnboardFault(Fault.CONTRACT_INVALID, f"this loop cannot fill the state's term {unknown[0]}")
        # The runner fills in the acting command.
        self._terms = [term for term in terms if term != "last_action"]

    def __call__(self, motion: Motion, gate: Float64, next_gate: Float64) -> Float64:
        """Return the state without `last_action`.

        Args:
            motion: of the vehicle.
            gate: (3,) commanded centre of the current gate, world frame, m.
            next_gate: (3,) of the one after it.
        """
        to_body = motion.rotation.T
        quantities = {
            "base_lin_vel": to_body @ motion.velocity,
            "base_orientation": motion.rotation[2],
            "target_position": to_body @ (gate - motion.position),
            "next_target_offset": to_body @ (next_gate - gate),
            "base_ang_vel": motion.rates,
            "projected_gravity": -motion.rotation[2],
        }
        return np.concatenate([quantities[term] for term in self._terms])
