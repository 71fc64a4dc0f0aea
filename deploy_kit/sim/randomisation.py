"""Domain randomisation and starts: what is drawn once per drone, and what at every reset."""

import math
from dataclasses import dataclass

import numpy as np

from deploy_kit.errors import TaskError
from deploy_kit.sim.controller import nominal_drag
from deploy_kit.sim.rotations import Array, quaternion_from_euler
from deploy_kit.sim.tracks import START_CLEARANCE, Track
from deploy_kit.task.racing import Task

_START_TRIES = 1000


@dataclass(frozen=True, eq=False)
class Vehicle:
    """What is drawn once per drone.

    Attributes:
        mass: kg. The controller goes on reckoning with the nominal one.
        inertia_factor: on the airframe's moments.
        rate_gain: of the controller, 1/s, shape (3,).
        time_constant: lags of thrust and of the three torques, s, shape (4,).
    """

    mass: float
    inertia_factor: float
    rate_gain: Array
    time_constant: Array


@dataclass(frozen=True, eq=False)
class FlightConditions:
    """What is drawn at every reset.

    Attributes:
        drag_linear: N·s/m, body axes, shape (3,).
        drag_quadratic: N·s²/m², body axes, shape (3,).
        thrust_factor: true over commanded thrust.
    """

    drag_linear: Array
    drag_quadratic: Array
    thrust_factor: float


@dataclass(frozen=True, eq=False)
class Start:
    """State at reset: position (m) and velocity (m/s) in the world frame, angular velocity (rad/s) in body axes."""

    position: Array
    quaternion: Array
    velocity: Array
    angular_velocity: Array


def draw_vehicle(rng: np.random.Generator, task: Task, randomised: bool = True) -> Vehicle:
    """Draw one drone; the nominal one if not randomised."""
    airframe, controller, ranges = task.airframe, task.controller, task.randomisation
    gains, lags = np.array(controller.rate_gain), np.full(4, controller.time_constant)
    if not randomised:
        return Vehicle(airframe.mass, 1.0, gains, lags)
    return Vehicle(
        mass=airframe.mass + rng.uniform(-ranges.mass, ranges.mass),
        inertia_factor=rng.uniform(*ranges.inertia),
        rate_gain=gains * rng.uniform(*ranges.rate_gain, 3),
        time_constant=lags * rng.uniform(*ranges.time_constant, 4),
    )


def draw_conditions(rng: np.random.Generator, task: Task, randomised: bool = True) -> FlightConditions:
    """Draw drag and thrust error; the nominal ones if not randomised."""
    linear, quadratic = nominal_drag(task)
    if not randomised:
        return FlightConditions(linear, quadratic, 1.0)
    ranges, airframe = task.randomisation, task.airframe
    # The draws are added to the coefficients before the z axis gets its factor.
    linear = airframe.drag_linear * airframe.mass + rng.uniform(0, ranges.drag_linear, 3)
    quadratic = airframe.drag_quadratic * airframe.mass + rng.uniform(0, ranges.drag_quadratic, 3)
    linear[2] *= airframe.drag_z_factor + rng.uniform(0, ranges.drag_z_factor)
    quadratic[2] *= airframe.drag_z_factor + rng.uniform(0, ranges.drag_z_factor)
    return FlightConditions(linear, quadratic, 1.0 + ranges.thrust_error * rng.normal())


def draw_start(rng: np.random.Generator, track: Track, task: Task) -> Start:
    """Draw a start around the track's, clear of every solid, that faces the first gate.

    Raises:
        TaskError: no free place was found.
    """
    spread = task.start
    for _ in range(_START_TRIES):
        position = track.start + rng.uniform(-spread.position, spread.position, 3)
        if track.clearance(position) >= START_CLEARANCE:
            break
    else:
        raise TaskError(f"track {track.seed} leaves the drone no free place around its start {track.start}")
    to_gate = track.gate_positions[0] - position
    yaw = math.atan2(to_gate[1], to_gate[0]) + rng.uniform(-spread.yaw, spread.yaw)
    roll, pitch = rng.uniform(-spread.tilt, spread.tilt, 2)
    velocity, angular_velocity = rng.uniform(-spread.velocity, spread.velocity, (2, 3))
    return Start(position, quaternion_from_euler(roll, pitch, yaw), velocity, angular_velocity)
