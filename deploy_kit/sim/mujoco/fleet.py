"""From actions to flown states, for many drones: latency, controller, drag and physics."""

from collections.abc import Sequence

import numpy as np

from deploy_kit.sim.controller import RateController
from deploy_kit.sim.mujoco.motion_kernel import hold_wrenches
from deploy_kit.sim.mujoco.physics import FleetPhysics
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.randomisation import FlightConditions, Start, Vehicle
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.tracks import Track
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import Task


class Fleet:
    """Drones that take the network's actions.

    Args:
        tracks: gates and obstacles of each drone.
        vehicles: each drone.
        task: numbers.
        colliders: whether drones collide with anything.
        workers: threads.

    Attributes:
        physics: rigid bodies.
        command: acting in this step: thrust over mass, m/s², and body rates, rad/s, shape (N, 4).
        newest: given in this step, likewise.
        given_before: given in the step before.
        to_force: factors from commands to thrust in N and body rates, with the mass that the controller reckons with.
    """

    def __init__(
        self, tracks: Sequence[Track], vehicles: Sequence[Vehicle], task: Task, colliders: bool, workers: WorkerPool
    ) -> None:
        n, controller = len(vehicles), task.controller
        self.physics = FleetPhysics(tracks, vehicles, task, colliders, workers)
        self._transform = ActionTransform.from_limits(
            controller.max_thrust_to_weight, controller.max_body_rate, task.gravity
        )
        self._resting = self._transform.apply(np.zeros(4))
        self._controller = RateController(n, task)
        self._controller.rate_gain[:] = [vehicle.rate_gain for vehicle in vehicles]
        self._controller.acceleration_gain[:] = [vehicle.acceleration_gain for vehicle in vehicles]
        self._controller.time_constant[:] = [vehicle.time_constant for vehicle in vehicles]
        self._keep = self._controller.keep()
        self._drag_linear, self._drag_quadratic = np.zeros((2, n, 3))
        self._thrust_factor = np.ones(n)
        self._pending = np.zeros((n, 4))
        self.command, self.newest, self.given_before = np.tile(self._resting, (3, n, 1))
        self.to_force = np.ones((n, 4))
        self.to_force[:, 0] = [vehicle.reckoned_mass for vehicle in vehicles]

    def reset(self, index: int, start: Start, conditions: FlightConditions) -> None:
        """Put a drone at a start; what acts, and what acts next, stay as the last episode left them."""
        self._drag_linear[index], self._drag_quadratic[index] = conditions.drag_linear, conditions.drag_quadratic
        self._thrust_factor[index] = conditions.thrust_factor
        self.newest[index] = self._resting
        self._controller.reset(index)
        self.physics.reset(index, start)

    def fly(self, actions: Array) -> None:
        """Fly one policy step with the actions given one step ago.

        Args:
            actions: the network's, to act in the next step, shape (N, 4).
        """
        physics, controller = self.physics, self._controller
        self.command = self._transform.apply(self._pending).astype(np.float64, copy=False)
        self._pending = actions
        self.given_before = self.newest
        self.newest = self._transform.apply(actions).astype(np.float64, copy=False)
        target = self.command * self.to_force
        target[:, 0] *= self._thrust_factor

        def hold(first: int, end: int) -> None:
            hold_wrenches(
                first,
                end,
                target,
                physics.rotation,
                physics.state,
                physics.angular_acceleration,
                controller.inertia,
                controller.rate_gain,
                controller.acceleration_gain,
                self._keep,
                self._drag_linear,
                self._drag_quadratic,
                controller.wrench,
                physics.control,
            )

        physics.step(hold)
