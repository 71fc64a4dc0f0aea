"""Fly a bundle in RotorPy: dynamics, motors and rate controller that are not deploy-kit's, on deploy-kit's tracks.

The policy is flown through `OnboardPolicy` and the contract alone. RotorPy (github.com/spencerfolk/rotorpy) integrates
the vehicle: rotors with their own speeds and lags, rotor drag, translational lift, and a proportional body-rate
controller. Gates and what the depth camera sees come from deploy-kit.

    pip install '.[cpu,sim,examples]'
    python examples/rotorpy_flight.py BUNDLE --flights 8 --log flights/ --checkpoint model.pt
"""

import argparse
import copy
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rotorpy.vehicles.hummingbird_params import quad_params
from rotorpy.vehicles.multirotor import Multirotor

from deploy_kit.onboard import OnboardFault, OnboardPolicy, RecordingOptions
from deploy_kit.onboard.contract import OnboardContract
from deploy_kit.sim.mujoco.camera import DepthCameras, SolidTable
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.rotations import matrix_from_quaternion, quaternion_from_euler
from deploy_kit.sim.tracks import Track, make_track
from deploy_kit.task.racing import RACING_TASK

Array = npt.NDArray[np.float64]

BODY_RADIUS_M = 0.1
"""A drone whose centre is nearer to a solid than this has crashed."""

RATE_GAIN = RACING_TASK.controller.rate_gain[0]
"""Gain of RotorPy's rate controller, 1/s: that of the task. RotorPy's default of 1 cannot follow a racing policy."""


def vehicle_parameters(kind: str, rate_gain: float = RATE_GAIN) -> dict[str, Any]:
    """Return RotorPy's parameters of a vehicle.

    Args:
        kind: "hummingbird", as RotorPy has it (0.5 kg, motors of 5 ms, its own drag); or "task", with the inertia, lag
            and linear drag of the racing task.
        rate_gain: of the body-rate controller, 1/s.
    """
    parameters = copy.deepcopy(quad_params)
    parameters["k_w"] = rate_gain
    if kind == "task":
        airframe = RACING_TASK.airframe
        parameters["mass"] = airframe.mass
        parameters["Ixx"], parameters["Iyy"], parameters["Izz"] = airframe.inertia
        parameters["tau_m"] = RACING_TASK.controller.time_constant
        # Rotor drag grows with the rotors' speed; at the speed of hover it is the task's linear drag.
        hover = math.sqrt(airframe.mass * RACING_TASK.gravity / 4 / parameters["k_eta"])
        parameters["k_d"] = airframe.drag_linear * airframe.mass / (4 * hover)
        parameters["k_z"] = parameters["k_d"] * airframe.drag_z_factor
        parameters["k_h"] = 0.0
        quadratic = airframe.drag_quadratic * airframe.mass
        parameters["c_Dx"] = parameters["c_Dy"] = quadratic
        parameters["c_Dz"] = quadratic * airframe.drag_z_factor
    return parameters


class RotorpyDrone:
    """A multirotor of RotorPy that takes collective thrust and body rates.

    Args:
        parameters: of RotorPy's vehicle.
        position: world frame (z up), m.
        yaw: direction that it looks into, rad.

    Attributes:
        mass: kg.
    """

    def __init__(self, parameters: dict[str, Any], position: Array, yaw: float) -> None:
        self.mass = float(parameters["mass"])
        hover = math.sqrt(self.mass * RACING_TASK.gravity / 4 / parameters["k_eta"])
        w, x, y, z = quaternion_from_euler(0.0, 0.0, yaw)
        self._state = {
            "x": np.array(position, float),
            "v": np.zeros(3),
            "q": np.array([x, y, z, w]),  # RotorPy puts the real part last
            "w": np.zeros(3),
            "wind": np.zeros(3),
            "rotor_speeds": np.full(4, hover),
        }
        self._vehicle = Multirotor(parameters, self._state, control_abstraction="cmd_ctbr")

    @property
    def position(self) -> Array:
        """World frame, m."""
        return np.asarray(self._state["x"])

    @property
    def velocity(self) -> Array:
        """World frame, m/s."""
        return np.asarray(self._state["v"])

    @property
    def quaternion(self) -> Array:
        """Body to world, real part first."""
        return np.roll(self._state["q"], 1)

    @property
    def rotation(self) -> Array:
        """Body to world, (3, 3)."""
        return np.asarray(matrix_from_quaternion(self.quaternion))

    @property
    def rates(self) -> Array:
        """Body rates, rad/s."""
        return np.asarray(self._state["w"])

    def fly(self, command: Array, seconds: float, control_step: float = 0.002) -> None:
        """Fly with a command for so long.

        Args:
            command: (4,) collective thrust over mass, m/s², and body rates, rad/s.
            seconds: how long.
            control_step: period of the rate controller, s.
        """
        control = {"cmd_thrust": self.mass * float(command[0]), "cmd_w": np.asarray(command[1:4], float)}
        steps = max(1, round(seconds / control_step))
        for _ in range(steps):
            self._state = self._vehicle.step(self._state, control, seconds / steps)


@dataclass(frozen=True)
class FlightResult:
    """How a flight went.

    Attributes:
        seed: of the track.
        gates: passed.
        seconds: flown.
        ended: "time", "crash" or "fault: …".
        speed: mean, m/s.
        announced: gate events of the policy's detector.
        rate_error: root mean square of body rates against those commanded, rad/s.
    """

    seed: int
    gates: int
    seconds: float
    ended: str
    speed: float
    announced: int
    rate_error: float


def observed_state(drone: RotorpyDrone, gate: Array, next_gate: Array) -> Array:
    """Return the contract's twelve numbers: velocity, up, gate, next gate, in body axes."""
    to_body = drone.rotation.T
    return np.concatenate(
        [to_body @ drone.velocity, drone.rotation[2], to_body @ (gate - drone.position), to_body @ (next_gate - gate)]
    )


class Race:
    """A track with its gates in order, and a camera that sees it.

    Args:
        track: the track.
    """

    def __init__(self, track: Track) -> None:
        self.track = track
        self._cameras = DepthCameras(1, RACING_TASK.camera)
        self._cameras.place(0, SolidTable.from_model(build_model(track, RACING_TASK, colliders=False)))
        self._next = 0
        self.passed = 0

    def gates(self) -> tuple[Array, Array]:
        """Return the centres of the current gate and of the one after it, world frame, m."""
        gates = self.track.gate_positions
        after = self._next + 1
        if after < len(gates):
            return gates[self._next], gates[after]
        return gates[self._next], gates[0] if self.track.closed else self.track.exit_point

    def judge(self, position: Array) -> bool:
        """Move the target on where the current gate is passed, and return whether it was."""
        passed = bool(np.linalg.norm(self.gates()[0] - position) < RACING_TASK.pass_radius)
        if passed:
            self.passed += 1
            self._next = (self._next + 1) % len(self.track.gate_positions)
        return passed

    def clearance(self, position: Array) -> float:
        """Return the distance of a world point to the nearest solid or the ground, m."""
        near = [
            solid.distance(position)
            for solid in self.track.primitives
            if np.linalg.norm(solid.position - position) < solid.bounding_radius + 1.0
        ]
        return min([float(position[2]), *near])

    def image(self, drone: RotorpyDrone) -> npt.NDArray[np.float32]:
        """Return the depth image in metres, +inf where nothing returned."""
        self._cameras.move(drone.position[None], drone.rotation[None])
        self._cameras.capture(np.ones(1, np.bool_), 0, 1, np.empty((1, self._cameras.depth.size), np.float32), 0)
        depth = self._cameras.depth[0].copy()
        depth[depth >= RACING_TASK.camera.max_range] = np.inf
        return depth


def start_drone(track: Track, parameters: dict[str, Any]) -> RotorpyDrone:
    """Return a drone at rest above the track's start that looks at the first gate."""
    position = track.start + np.array([0.0, 0.0, RACING_TASK.start.height])
    to_gate = track.gate_positions[0] - position
    return RotorpyDrone(parameters, position, math.atan2(to_gate[1], to_gate[0]))


def fly(
    policy: OnboardPolicy,
    seed: int,
    parameters: dict[str, Any],
    seconds: float,
    tracks: tuple[str, ...],
    obstacles: bool,
) -> FlightResult:
    """Fly one track until the time is over, the drone has crashed, or the runner refuses to go on.

    Args:
        policy: the bundle.
        seed: of the track.
        parameters: of RotorPy's vehicle.
        seconds: longest flight.
        tracks: kinds to draw from.
        obstacles: whether the track has any.
    """
    contract: OnboardContract = policy.contract
    period = contract.policy_period_s
    race = Race(make_track(seed, tracks, obstacles=obstacles))
    drone = start_drone(race.track, parameters)
    policy.reset()
    acting = deque([contract.offset] * (contract.latency_steps + 1))
    image, image_time, next_frame = race.image(drone), 0.0, contract.depth_period_s
    speeds: list[float] = []
    rate_errors: list[float] = []
    announced, ended, step = 0, "time", 0
    for step in range(round(seconds / period)):
        now = step * period
        if now >= next_frame - 1e-9:
            image, image_time, next_frame = race.image(drone), now, next_frame + contract.depth_period_s
        try:
            output = policy.step(observed_state(drone, *race.gates()), image, now, now, image_time)
        except OnboardFault as fault:
            ended = f"fault: {fault}"
            break
        announced += bool(output.gate_event)
        # The command acts after the contract's latency: what is computed in a step flies from the next one on.
        acting.append(output.command)
        acting.popleft()
        drone.fly(acting[0], period)
        speeds.append(float(np.linalg.norm(drone.velocity)))
        rate_errors.append(float(((drone.rates - acting[0][1:]) ** 2).sum()))
        race.judge(drone.position)
        if race.clearance(drone.position) < BODY_RADIUS_M:
            ended = "crash"
            break
    return FlightResult(
        seed,
        race.passed,
        (step + 1) * period,
        ended,
        float(np.mean(speeds or [0.0])),
        announced,
        math.sqrt(float(np.mean(rate_errors or [0.0]))),
    )


def main(arguments: list[str] | None = None) -> int:
    """Fly, print one line a flight, and verify the log if a checkpoint is given; return 1 if that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--flights", type=int, default=1, help="flights, each on a track of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first track")
    parser.add_argument("--seconds", type=float, default=RACING_TASK.stages[2].episode_length_s, help="longest flight")
    parser.add_argument("--tracks", nargs="+", default=["circular"], choices=["circular", "zigzag", "ellipse"])
    parser.add_argument("--obstacles", action="store_true")
    parser.add_argument("--vehicle", choices=["hummingbird", "task"], default="hummingbird")
    parser.add_argument("--rate-gain", type=float, default=RATE_GAIN, help="of the body-rate controller, 1/s")
    parser.add_argument("--log", help="file, or folder (made if the name ends with /) in which a free name is taken")
    parser.add_argument("--checkpoint", type=Path, help="verify the log against it")
    options = parser.parse_args(arguments)
    if options.checkpoint is not None and options.log is None:
        parser.error("--checkpoint verifies a log: give --log too")
    policy = OnboardPolicy(options.bundle, log=options.log, recording=RecordingOptions(lossless=True))
    parameters = vehicle_parameters(options.vehicle, options.rate_gain)
    results = []
    for seed in range(options.seed, options.seed + options.flights):
        result = fly(policy, seed, parameters, options.seconds, tuple(options.tracks), options.obstacles)
        results.append(result)
        print(
            f"track {result.seed}: {result.gates} gates, {result.announced} announced, {result.seconds:.1f} s, "
            f"{result.speed:.1f} m/s, rates off by {result.rate_error:.2f} rad/s, ended by {result.ended}"
        )
    policy.close()
    crashes = sum(result.ended == "crash" for result in results)
    gates = np.array([result.gates for result in results])
    print(f"{gates.mean():.2f} gates a flight, {crashes} of {len(results)} crashed")
    if options.checkpoint is None:
        return 0
    from deploy_kit.verify.options import VerifyOptions
    from deploy_kit.verify.table import format_table
    from deploy_kit.verify.verifier import verify_bundle

    assert policy.recorder is not None
    log = policy.recorder.path
    report = verify_bundle(
        VerifyOptions(
            options.bundle,
            options.checkpoint,
            replay=False,
            live=False,
            random_rows=16,
            flight=log,
            report=log.with_name(f"{log.stem}-report.json"),
        )
    )
    print(format_table(report))
    return 0 if report.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
