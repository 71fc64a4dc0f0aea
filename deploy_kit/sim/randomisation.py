"""Domain randomisation and starts: what is drawn once per drone, and what at every reset."""

import math
from dataclasses import dataclass

import numpy as np

from deploy_kit.sim.controller import drag_coefficients
from deploy_kit.sim.rotations import Array, matrix_from_quaternion, quaternion_from_euler
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import Task


@dataclass(frozen=True, eq=False)
class Vehicle:
    """What is drawn once per drone.

    Attributes:
        mass: of the body, kg.
        reckoned_mass: that the controller and the drag reckon with, kg; a draw of its own.
        inertia: moments of the body, kg·m², shape (3,).
        rate_gain: of the controller, 1/s, shape (3,).
        acceleration_gain: of the controller, kg·m², shape (3,).
        time_constant: lags of thrust and of the three torques, s, shape (4,).
    """

    mass: float
    reckoned_mass: float
    inertia: Array
    rate_gain: Array
    acceleration_gain: Array
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


def nominal_vehicle(task: Task) -> Vehicle:
    """Return the drone without randomisation."""
    airframe, controller = task.airframe, task.controller
    return Vehicle(
        mass=airframe.mass,
        reckoned_mass=airframe.mass,
        inertia=np.array(airframe.inertia),
        rate_gain=np.array(controller.rate_gain),
        acceleration_gain=np.array(controller.acceleration_gain),
        time_constant=np.full(4, controller.time_constant),
    )


def draw_vehicle(rng: np.random.Generator, task: Task, randomised: bool = True) -> Vehicle:
    """Draw one drone; the nominal one if not randomised.

    MasterRacing's start-up draws the mass twice: the controller is built between the two, and the body keeps the
    second. Its inertia is the nominal one times the ratio of the masses, each moment times a factor of its own, so
    that Ixx + Iyy may fall short of Izz.
    """
    nominal, ranges = nominal_vehicle(task), task.randomisation
    if not randomised:
        return nominal
    reckoned, mass = nominal.mass + rng.uniform(-ranges.mass, ranges.mass, 2)
    return Vehicle(
        mass=float(mass),
        reckoned_mass=float(reckoned),
        inertia=nominal.inertia * mass / nominal.mass * rng.uniform(*ranges.inertia, 3),
        rate_gain=nominal.rate_gain * rng.uniform(*ranges.rate_gain, 3),
        acceleration_gain=nominal.acceleration_gain * rng.uniform(*ranges.acceleration_gain, 3),
        time_constant=nominal.time_constant * rng.uniform(*ranges.time_constant, 4),
    )


def draw_conditions(
    rng: np.random.Generator, task: Task, reckoned_mass: float, randomised: bool = True
) -> FlightConditions:
    """Draw drag and thrust error; the nominal ones if not randomised.

    Args:
        rng: source of the draws.
        task: numbers.
        reckoned_mass: that the drag scales with, kg.
        randomised: whether to draw.
    """
    linear, quadratic = drag_coefficients(reckoned_mass, task)
    factor, thrust = task.airframe.drag_z_factor, 1.0
    if randomised:
        ranges = task.randomisation
        # The draws are added to the coefficients before the z axis gets its factor, one for both.
        linear += rng.uniform(0, ranges.drag_linear, 3)
        quadratic += rng.uniform(0, ranges.drag_quadratic, 3)
        factor += rng.uniform(0, ranges.drag_z_factor)
        thrust += ranges.thrust_error * rng.normal()
    linear[2] *= factor
    quadratic[2] *= factor
    return FlightConditions(linear, quadratic, thrust)


def draw_start(rng: np.random.Generator, track: Track, task: Task) -> Start:
    """Draw a start above the track's start point that faces the first gate. Nothing keeps it clear of solids."""
    spread = task.start
    position = track.start + rng.uniform(-spread.position, spread.position, 3)
    position[2] += spread.height
    to_gate = track.gate_positions[0] - position
    yaw = math.atan2(to_gate[1], to_gate[0]) + rng.uniform(-spread.yaw, spread.yaw)
    roll, pitch = rng.uniform(-spread.tilt, spread.tilt, 2)
    quaternion = quaternion_from_euler(roll, pitch, yaw)
    velocity, turning = rng.uniform(-spread.velocity, spread.velocity, (2, 3))
    # Drawn in world axes, like the velocity.
    return Start(position, quaternion, velocity, turning @ matrix_from_quaternion(quaternion))
