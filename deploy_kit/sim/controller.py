"""Collective-thrust and body-rate control, its lags, and drag, for many drones at once and for any physics engine."""

import numpy as np

from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import RACING_TASK, Task


class RateController:
    """From commands to the body-frame wrench that is held over one policy step.

    Each policy step: torque target J·K·(rate_cmd − ω) + ω × J·ω − D·dω/dt; thrust and torque follow their targets
    through x ← (1 − k)·target + k·x with k = exp(−Δt/τ), from 0 at reset.

    Args:
        num_drones: number of drones.
        task: numbers; gains and time constants start at the nominal ones.

    Attributes:
        inertia: moments that it reckons with, kg·m², shape (3,).
        rate_gain: proportional gains, 1/s, shape (N, 3).
        acceleration_gain: damping on the angular acceleration, kg·m², shape (N, 3).
        time_constant: lags of thrust and of the three torques, s, shape (N, 4).
        wrench: thrust along body z, N, then torque in body axes, N·m, shape (N, 4).
    """

    def __init__(self, num_drones: int, task: Task = RACING_TASK) -> None:
        controller = task.controller
        self.inertia = np.array(controller.inertia)
        self._dt = task.clock.policy_dt
        self.rate_gain = np.tile(np.array(controller.rate_gain), (num_drones, 1))
        self.acceleration_gain = np.tile(np.array(controller.acceleration_gain), (num_drones, 1))
        self.time_constant = np.full((num_drones, 4), controller.time_constant)
        self.wrench = np.zeros((num_drones, 4))

    def reset(self, index: int) -> None:
        """Let one drone's thrust and torque start from 0."""
        self.wrench[index] = 0.0

    def keep(self) -> Array:
        """Return k of thrust and of the three torques, shape (N, 4)."""
        return np.asarray(np.exp(-self._dt / self.time_constant))

    def update(self, thrust: Array, rates: Array, angular_velocity: Array, angular_acceleration: Array) -> None:
        """Advance `wrench` by one policy step.

        Args:
            thrust: target of the collective thrust, N, shape (N,).
            rates: commanded body rates, rad/s, shape (N, 3).
            angular_velocity: body axes, rad/s, shape (N, 3).
            angular_acceleration: body axes, rad/s², shape (N, 3).
        """
        target = np.empty_like(self.wrench)
        target[:, 0] = thrust
        target[:, 1:] = self.inertia * (self.rate_gain * (rates - angular_velocity))
        target[:, 1:] += cross(angular_velocity, self.inertia * angular_velocity)
        target[:, 1:] -= self.acceleration_gain * angular_acceleration
        keep = self.keep()
        self.wrench = (1 - keep) * target + keep * self.wrench


def cross(a: Array, b: Array) -> Array:
    """Return the cross products of vectors (N, 3); numpy's own is several times slower on few rows."""
    x, y, z = a[:, 0], a[:, 1], a[:, 2]
    u, v, w = b[:, 0], b[:, 1], b[:, 2]
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def drag_coefficients(mass: float, task: Task = RACING_TASK) -> tuple[Array, Array]:
    """Return linear (N·s/m) and quadratic (N·s²/m²) drag of the body axes, shape (3,) each, before z's factor."""
    return np.full(3, task.airframe.drag_linear * mass), np.full(3, task.airframe.drag_quadratic * mass)


def drag_force(velocity: Array, linear: Array, quadratic: Array) -> Array:
    """Return −(d1·v + d2·v·|v|) per axis, N, for body-frame velocities (N, 3) in m/s and coefficients (N, 3)."""
    return -velocity * (linear + quadratic * np.abs(velocity))
