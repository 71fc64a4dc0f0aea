"""One drone on one track in MuJoCo."""

import mujoco
import numpy as np

from deploy_kit.sim.mujoco.camera import SolidTable
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.randomisation import Vehicle
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import Task


class DronePhysics:
    """Rigid body and contact of one environment.

    Args:
        track: gates and obstacles.
        task: numbers.
        vehicle: mass and inertia of the drone.
        colliders: whether the drone collides with anything.

    Attributes:
        model: MuJoCo model.
        data: its state.
        solids: what the camera sees.
        position: view of the centre's position, world frame, m, shape (3,).
        quaternion: view of the attitude, body to world, shape (4,).
        velocity: view of the centre's velocity, world frame, m/s, shape (3,).
        angular_velocity: view, body axes, rad/s, shape (3,).
        angular_acceleration: view of the last physics step's, body axes, rad/s², shape (3,).
    """

    def __init__(self, track: Track, task: Task, vehicle: Vehicle, colliders: bool = True) -> None:
        self.model = build_model(track, task, vehicle, colliders)
        self.data = mujoco.MjData(self.model)
        self.solids = SolidTable.from_model(self.model)
        self._substeps = task.clock.decimation
        self._force_limit_squared = task.contact_force**2
        data = self.data
        self.position, self.quaternion = data.qpos[:3], data.qpos[3:7]
        self.velocity, self.angular_velocity = data.qvel[:3], data.qvel[3:6]
        self.angular_acceleration = data.qacc[3:6]
        self._control = data.ctrl
        self._contact = data.qfrc_constraint[:3]

    def reset(self, position: Array, quaternion: Array, velocity: Array, angular_velocity: Array) -> None:
        """Put the drone at a state and forget everything else."""
        mujoco.mj_resetData(self.model, self.data)
        self.position[:], self.quaternion[:] = position, quaternion
        self.velocity[:], self.angular_velocity[:] = velocity, angular_velocity

    def step(self, wrench: Array) -> bool:
        """Hold a body-frame wrench (forces x y z in N, torques x y z in N·m) over one policy step.

        Returns:
            Whether the net contact force exceeded the task's limit in any of the physics steps.
        """
        self._control[:] = wrench
        hit = False
        for _ in range(self._substeps):
            mujoco.mj_step(self.model, self.data)
            # Nothing but contact constrains a free body, so its constraint force is the net contact force.
            hit = hit or float(np.dot(self._contact, self._contact)) > self._force_limit_squared
        return hit
