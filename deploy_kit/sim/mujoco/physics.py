"""Rigid bodies and contact of many drones, each on a track of its own, through MuJoCo's rollouts."""

from collections.abc import Callable, Sequence

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco import rollout

from deploy_kit.sim.mujoco.camera import SolidTable
from deploy_kit.sim.mujoco.motion_kernel import ANGULAR_VELOCITY, POSITION, QUATERNION, VELOCITY, take_states
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.randomisation import Start, Vehicle
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import Task

Flags = npt.NDArray[np.bool_]

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
        room: solids that each model has room for.
        models: MuJoCo's models.
        solids: what each drone's camera sees.
        state: MuJoCo's state of each drone, with the columns that `motion_kernel` names, shape (N, 14).
        control: wrenches to hold: forces x y z in N, torques x y z in N·m, body frame, shape (N, physics steps, 6).
        position: centres, world frame, m, shape (N, 3).
        quaternion: attitudes, body to world, shape (N, 4).
        velocity: of the centres, world frame, m/s, shape (N, 3).
        angular_velocity: body axes, rad/s, shape (N, 3).
        angular_acceleration: of the last physics step, body axes, rad/s², shape (N, 3); 0 after a reset.
        rotation: attitudes as matrices, shape (N, 3, 3).
        contact_force: net contact force in each physics step of the last policy step, N, shape (N, steps, 3).
        exceeded: whether it exceeded the task's limit in any of them, shape (N,).
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
        self.state, self._states = np.zeros((n, size)), np.zeros((n, steps, size))
        self.contact_force = np.zeros((n, steps, 3))
        self.control, self._still = np.zeros((n, steps, 6)), np.zeros((n, 6))
        self.position, self.quaternion, self.velocity, self.angular_velocity = (
            self.state[:, first : first + size]
            for first, size in ((POSITION, 3), (QUATERNION, 4), (VELOCITY, 3), (ANGULAR_VELOCITY, 3))
        )
        self.angular_acceleration, self.rotation = np.zeros((n, 3)), np.zeros((n, 3, 3))
        self.exceeded: Flags = np.zeros(n, np.bool_)

    def _build(self, room: int) -> None:
        self.room = room
        self.models = [self._model(*each) for each in zip(self._tracks, self._vehicles, strict=True)]
        self.solids = [SolidTable.from_model(model) for model in self.models]
        self._datas = [mujoco.MjData(self.models[0]) for _ in self._rollouts]

    def _model(self, track: Track, vehicle: Vehicle) -> mujoco.MjModel:
        return build_model(track, self._task, vehicle, self._colliders, self.room)

    def place(self, index: int, track: Track) -> None:
        """Put a drone on another track."""
        self._tracks[index] = track
        if len(track.primitives) > self.room:
            self._build(len(track.primitives) * 5 // 4)
            return
        model = self._model(track, self._vehicles[index])
        # Memory of another layout would be overrun.
        assert all(getattr(model, name) == getattr(self.models[0], name) for name in _DATA_SIZES)
        self.models[index], self.solids[index] = model, SolidTable.from_model(model)

    def place_all(self, tracks: Sequence[Track], room: int) -> None:
        """Put every drone on another track, with room for so many solids in each model."""
        self._tracks = list(tracks)
        self._build(room)

    def reset(self, index: int, start: Start) -> None:
        """Put a drone at a state and forget everything else."""
        self.state[index, 0] = 0.0
        self.position[index], self.quaternion[index] = start.position, start.quaternion
        self.velocity[index], self.angular_velocity[index] = start.velocity, start.angular_velocity
        self.rotation[index] = matrix_from_quaternion(start.quaternion)
        self.angular_acceleration[index] = 0.0

    def step(self, prepare: Callable[[int, int], None] = lambda first, end: None) -> None:
        """Fly one policy step with the wrenches in `control`.

        Args:
            prepare: called by each thread before it flies its share, with the first drone and the one after the last.
        """
        threads, clock = self._workers.num_threads, self._task.clock
        ends = [share * len(self.state) // threads for share in range(threads + 1)]

        def fly(share: int, thread: int) -> None:
            first, end = ends[share], ends[share + 1]
            part = slice(first, end)
            prepare(first, end)
            self._rollouts[thread].rollout(
                self.models[part],
                [self._datas[thread]],
                self.state[part],
                self.control[part],
                nstep=clock.decimation,
                initial_warmstart=self._still[part],
                state=self._states[part],
                sensordata=self.contact_force[part],
                skip_checks=True,
            )
            take_states(
                first,
                end,
                self._states,
                self.contact_force,
                clock.physics_dt,
                self._task.contact_force,
                self.state,
                self.angular_acceleration,
                self.rotation,
                self.exceeded,
            )

        self._workers.run(fly, threads)
