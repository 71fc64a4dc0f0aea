"""Rigid bodies and contact of many drones, each on a track of its own, through MuJoCo's rollouts."""

from collections.abc import Sequence

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco import rollout

from deploy_kit.sim.mujoco.camera import SolidTable
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.randomisation import Start, Vehicle
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import Task

Flags = npt.NDArray[np.bool_]

_POSITION, _QUATERNION, _VELOCITY, _ANGULAR_VELOCITY = slice(1, 4), slice(4, 8), slice(8, 11), slice(11, 14)
"""Columns of MuJoCo's state of one free body; the first one is the time."""
_DATA_SIZES = ("nq", "nv", "nu", "na", "nbody", "ngeom", "nsite", "nbvh", "njmax", "nsensordata", "narena")
"""Sizes on which the layout of MuJoCo's working memory depends."""


class FleetPhysics:
    """Drones stepped by MuJoCo, a share of them by each thread, without Python in between.

    A rollout runs many models in one working memory, so that all must have as many solids: models are filled up, and
    built anew with more room when a track has too many. What fills up is out of reach, and changes no flight.

    Args:
        tracks: gates and obstacles of each drone.
        vehicles: mass and inertia of each drone.
        task: numbers.
        colliders: whether drones collide with anything.
        workers: threads.

    Attributes:
        models: MuJoCo's models.
        solids: what each drone's camera sees.
        position: centres, world frame, m, shape (N, 3).
        quaternion: attitudes, body to world, shape (N, 4).
        velocity: of the centres, world frame, m/s, shape (N, 3).
        angular_velocity: body axes, rad/s, shape (N, 3).
        angular_acceleration: of the last physics step, body axes, rad/s², shape (N, 3); 0 after a reset.
        contact_force: net contact force in each physics step of the last policy step, N, shape (N, steps, 3).
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        vehicles: Sequence[Vehicle],
        task: Task,
        colliders: bool,
        workers: WorkerPool,
    ) -> None:
        self._tracks, self._vehicles = list(tracks), list(vehicles)
        self._task, self._colliders, self._workers = task, colliders, workers
        self._rollouts = [rollout.Rollout(nthread=0) for _ in range(workers.num_threads)]
        self._build(max(len(track.primitives) for track in tracks))
        n, steps = len(tracks), task.clock.decimation
        size = mujoco.mj_stateSize(self.models[0], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state, self._states = np.zeros((n, size)), np.zeros((n, steps, size))
        self.contact_force = np.zeros((n, steps, 3))
        self._control = np.zeros((n, steps, 6))
        self._still = np.zeros((n, 6))
        self.position, self.quaternion = self._state[:, _POSITION], self._state[:, _QUATERNION]
        self.velocity, self.angular_velocity = self._state[:, _VELOCITY], self._state[:, _ANGULAR_VELOCITY]
        self.angular_acceleration = np.zeros((n, 3))
        self.quaternion[:, 0] = 1.0

    def _build(self, room: int) -> None:
        self._room = room
        self.models = [self._model(*each) for each in zip(self._tracks, self._vehicles, strict=True)]
        self.solids = [SolidTable.from_model(model) for model in self.models]
        self._datas = [mujoco.MjData(self.models[0]) for _ in self._rollouts]

    def _model(self, track: Track, vehicle: Vehicle) -> mujoco.MjModel:
        return build_model(track, self._task, vehicle, self._colliders, self._room)

    def place(self, index: int, track: Track) -> None:
        """Put a drone on another track."""
        self._tracks[index] = track
        if len(track.primitives) > self._room:
            self._build(len(track.primitives) * 5 // 4)
            return
        model = self._model(track, self._vehicles[index])
        # Memory of another layout would be overrun.
        assert all(getattr(model, name) == getattr(self.models[0], name) for name in _DATA_SIZES)
        self.models[index], self.solids[index] = model, SolidTable.from_model(model)

    def reset(self, index: int, start: Start) -> None:
        """Put a drone at a state and forget everything else."""
        self._state[index, 0] = 0.0
        self.position[index], self.quaternion[index] = start.position, start.quaternion
        self.velocity[index], self.angular_velocity[index] = start.velocity, start.angular_velocity
        self.angular_acceleration[index] = 0.0

    def step(self, wrench: Array) -> Flags:
        """Hold body-frame wrenches over one policy step.

        Args:
            wrench: forces x y z in N, torques x y z in N·m, shape (N, 6).

        Returns:
            Whether the net contact force exceeded the task's limit in any of the physics steps, shape (N,).
        """
        self._control[:] = wrench[:, None]
        shares = np.linspace(0, len(self._state), self._workers.num_threads + 1).astype(int).tolist()

        def fly(share: int, thread: int) -> None:
            part = slice(shares[share], shares[share + 1])
            self._rollouts[thread].rollout(
                self.models[part],
                [self._datas[thread]],
                self._state[part],
                self._control[part],
                nstep=self._task.clock.decimation,
                initial_warmstart=self._still[part],
                state=self._states[part],
                sensordata=self.contact_force[part],
                skip_checks=True,
            )

        self._workers.run(fly, self._workers.num_threads)
        before = self._states[:, -2, _ANGULAR_VELOCITY] if self._states.shape[1] > 1 else self.angular_velocity
        # A free body's physics step adds to the velocities what they change by, and nothing else.
        change = self._states[:, -1, _ANGULAR_VELOCITY] - before
        self.angular_acceleration = change / self._task.clock.physics_dt
        self._state[:] = self._states[:, -1]
        squared = np.einsum("nsi,nsi->ns", self.contact_force, self.contact_force)
        return np.asarray((squared > self._task.contact_force**2).any(axis=1))
