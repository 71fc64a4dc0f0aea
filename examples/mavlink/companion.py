"""Fly a bundle on an autopilot that speaks MAVLink, from its companion computer.

Reads attitude, local position or odometry, and the battery; sends SET_ATTITUDE_TARGET with body rates and thrust at
the policy's rate. Whatever is refused, old or missing ends in a hold setpoint: level, heading kept, hover throttle.
MAVLink carries no images: depth comes from a file in memory (`depth_memory.py`) or from your own function.

    pip install '.[cpu,mavlink]'
    python examples/mavlink/companion.py BUNDLE --course course.json --depth /dev/shm/depth --hover-throttle 0.31
"""

import argparse
import importlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from autopilot_link import AutopilotLink, mavlink, mavutil
from course import Course
from depth_memory import DepthMemory
from pace import Lockstep, Pace, RealTime
from setpoints import HOLD_COMMAND, Setpoints
from vehicle_state import SOURCES, StateAssembly, Vehicle

from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, RecordingOptions
from deploy_kit.onboard.throttle import ThrottleModel

Float64 = npt.NDArray[np.float64]
Depth = Callable[[], tuple[npt.NDArray[Any], float] | None]
"""Gives the newest image, as `OnboardPolicy.step` takes it, and when it was taken on the companion's clock, s."""


@dataclass(frozen=True)
class Settings:
    """How the loop behaves.

    Attributes:
        modes: flight modes, by pymavlink's names, in which setpoints are obeyed: the policy flies in these alone, and
            armed. The loop neither arms nor changes the mode: that is the pilot's.
        give_up_s: a hold of this length is final: the policy does not fly on from wherever the vehicle has drifted to.
    """

    modes: tuple[str, ...] = ("OFFBOARD", "GUIDED_NOGPS", "GUIDED")
    give_up_s: float = 1.0


class Companion:
    """Flies a policy over MAVLink.

    Args:
        link: to the autopilot.
        policy: the bundle.
        vehicle: what the autopilot says.
        setpoints: what it is told.
        course: the gates.
        depth: gives images.
        settings: how the loop behaves.

    Attributes:
        steps: that flew.
        holds: setpoints sent in a step's place while the policy was to fly, by reason.
        ended: why the policy flies no more, None while it may; hold setpoints go on.
        engaged: whether the pilot has given the policy control.
        released: whether the pilot has taken it back.
    """

    def __init__(
        self,
        link: AutopilotLink,
        policy: OnboardPolicy,
        vehicle: Vehicle,
        setpoints: Setpoints,
        course: Course,
        depth: Depth,
        settings: Settings,
    ) -> None:
        self._link, self._policy, self._vehicle, self._setpoints = link, policy, vehicle, setpoints
        self._course, self._depth, self._settings = course, depth, settings
        self._assemble = StateAssembly(policy.contract)
        self._give_up = max(1, round(settings.give_up_s / policy.contract.policy_period_s))
        self._second = max(1, round(1 / policy.contract.policy_period_s))
        self._ticks, self._held, self._now = 0, 0, 0.0
        self._restarted: OnboardFault | None = None
        self.steps = 0
        self.holds: Counter[str] = Counter()
        self.ended: str | None = None
        self.engaged = False
        self.released = False

    def take(self, message: Any, arrived: float) -> None:
        """Take in a message of the autopilot."""
        try:
            self._vehicle.take(message, arrived)
        except OnboardFault as fault:
            self._restarted = fault
        if message.get_type() != "HEARTBEAT":
            return
        armed = bool(message.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED)
        engaged = armed and mavutil.mode_string_v10(message) in self._settings.modes
        if engaged and not self.engaged and not self.released:
            self._policy.reset()
        # Control that was taken back is not taken again by itself.
        self.released |= self.engaged and not engaged
        self.engaged = engaged and not self.released

    def tick(self, now: float | None) -> None:
        """Do one policy period: a step and its command, or a hold setpoint.

        Args:
            now: s, on the companion's clock; None if the clock is lost with the link.
        """
        self._now = self._now if now is None else now
        if self._ticks % self._second == 0:
            self._greet()
        self._ticks += 1
        if not self.engaged or self.ended is not None:
            # Autopilots take control over only where setpoints come already.
            self._hold()
            return
        try:
            if now is None:
                raise OnboardFault(Fault.STATE_STALE, "the autopilot has fallen silent")
            self._step(now)
        except OnboardFault as fault:
            self.holds[fault.fault.value] += 1
            self._hold()
            self._policy.hold(HOLD_COMMAND, now)
            self._held += 1
            if self._held >= self._give_up or self._restarted is not None:
                self.ended = str(fault)
        else:
            self.steps += 1
            self._held = 0

    def _greet(self) -> None:
        """Say once a second that the companion is here, and ask for what is not sent yet."""
        self._link.heartbeat()
        if self._vehicle.motion() is None:
            for message_id in self._vehicle.message_ids:
                self._link.request(message_id, self._policy.contract.policy_period_s / 2)
            self._link.request(mavlink.MAVLINK_MSG_ID_SYS_STATUS, 0.5)

    def _step(self, now: float) -> None:
        if self._restarted is not None:
            raise self._restarted
        motion, seen = self._vehicle.motion(), self._depth()
        if motion is None:
            raise OnboardFault(Fault.STATE_STALE, "the autopilot has not told where it is")
        if seen is None:
            raise OnboardFault(Fault.DEPTH_STALE, "there is no depth image")
        voltage = self._vehicle.voltage(now)
        # Before the step: the runner takes an accepted step for one that flew.
        self._setpoints.require_drive(voltage)
        state = self._assemble(motion, *self._course.targets())
        image, taken = seen
        if now < taken < now + self._policy.contract.policy_period_s:
            taken = now  # written since this step began
        output = self._policy.step(state, image, now, motion.time, taken)
        self._setpoints.fly(output.command, voltage, now)
        if output.gate_event:
            self._course.passed += 1
            if self._course.finished:
                self.ended = "the course is flown"

    def _hold(self) -> None:
        motion = self._vehicle.motion()
        rotation = None if motion is None else motion.rotation
        self._setpoints.hold(rotation, self._vehicle.voltage(self._now), self._now)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--course", type=Path, required=True, help="gates, JSON")
    parser.add_argument("--depth", required=True, help="file of depth_memory.py, or module:function of your own")
    parser.add_argument("--link", default="udpin:127.0.0.1:14540", help="as pymavlink takes it")
    parser.add_argument("--baud", type=int, default=921600, help="of a serial line")
    parser.add_argument("--system", type=int, default=1, help="system id of the autopilot")
    parser.add_argument("--source", choices=sorted(SOURCES), default="local_position", help="messages to fly by")
    parser.add_argument("--hover-throttle", type=float, required=True, help="measured in a hover")
    parser.add_argument("--quadratic", type=float, default=1.0, help="share of the thrust that is quadratic")
    parser.add_argument("--reference-voltage", type=float, help="of the battery in that hover, V")
    parser.add_argument("--give-up", type=float, default=Settings.give_up_s, help="a hold of so many seconds is final")
    parser.add_argument("--seconds", type=float, help="end the policy's flight after so long")
    parser.add_argument("--log", help="flight log: a file, or a folder if the name ends with /")
    parser.add_argument("--zero-is-no-return", action="store_true", help="the camera reports 0 for no return")
    parser.add_argument("--lockstep", action="store_true", help="a simulator's SYSTEM_TIME is the clock")
    parser.add_argument("--silence", type=float, default=1.0, help="with --lockstep: s without a message")
    return parser.parse_args(arguments)


def open_depth(name: str) -> Depth:
    """Return what gives images: a file in memory, or a function named as module:function."""
    module, _, function = name.partition(":")
    if not function:
        return DepthMemory(Path(name)).read
    sys.path.insert(0, str(Path.cwd()))
    found: Depth = getattr(importlib.import_module(module), function)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Fly until the pilot takes control back, or Ctrl-C; return 1 if the policy's flight ended by a fault."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        model = ThrottleModel(options.hover_throttle, options.quadratic, options.reference_voltage)
        policy = OnboardPolicy(
            options.bundle,
            OnboardOptions(zero_is_no_return=options.zero_is_no_return),
            options.log,
            # A simulation may be quicker than the disk; a flight must not wait for it.
            RecordingOptions(lossless=options.lockstep),
        )
        course, depth = Course(options.course), open_depth(options.depth)
    except (OnboardFault, OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        print(f"cannot fly: {error}", file=sys.stderr)
        return 2
    period = policy.contract.policy_period_s
    link = AutopilotLink(options.link, options.baud, options.system)
    vehicle = Vehicle(options.source, shared_clock=options.lockstep)
    setpoints = Setpoints(link, model, options.system)
    companion = Companion(link, policy, vehicle, setpoints, course, depth, Settings(give_up_s=options.give_up))
    pace: Pace = Lockstep(link, period, options.silence) if options.lockstep else RealTime(link, period)
    code = 0
    try:
        if options.link.startswith("udpin"):
            print(f"listening on UDP port {link.port}", flush=True)
        while not companion.released:
            companion.tick(pace.wait(companion.take))
            if options.seconds is not None and companion.ended is None and companion.steps * period >= options.seconds:
                companion.ended = "time is up"
    except KeyboardInterrupt:
        code = 130
    finally:
        policy.close()
        link.close()
    summary = {
        "steps": companion.steps,
        "holds": dict(companion.holds),
        "gates": course.passed,
        "thrust_cut": setpoints.cut,
        "unusable_messages": vehicle.unusable,
        "ended": companion.ended or "the pilot took control back" if companion.released else companion.ended,
    }
    print(json.dumps(summary), flush=True)
    faults = tuple(f"{fault.value}:" for fault in Fault)
    return code or int(companion.ended is not None and companion.ended.startswith(faults))


if __name__ == "__main__":
    raise SystemExit(main())
