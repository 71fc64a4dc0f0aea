"""What the policy and the critic see: depth frames, their noise, and the state numbers."""

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.mujoco.camera import DepthCameras, SolidTable
from deploy_kit.sim.mujoco.fleet import Fleet
from deploy_kit.sim.mujoco.motion_kernel import write_states
from deploy_kit.sim.mujoco.noise_kernel import STREAM_SHAPE, add_noise
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.observation import NOISE_SIZE, STATE_SIZE
from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import Task

Flags = npt.NDArray[np.bool_]

_SHARES_PER_THREAD = 2
"""Work is cut into more parts than there are threads, since some environments want a frame and some do not."""


class Sensors:
    """The observations of many environments, some of them by each thread.

    Args:
        num_envs: environments.
        task: camera, noise and clock.
        workers: threads.

    Attributes:
        critic: observations without noise, shape (N, 6928); written by `observe`.
        fresh: whether the last observation brought a new frame, shape (N,).
    """

    def __init__(self, num_envs: int, task: Task, workers: WorkerPool) -> None:
        camera = task.camera
        self._task, self._workers = task, workers
        self._cameras = DepthCameras(num_envs, camera)
        self._streams = np.zeros((num_envs, *STREAM_SHAPE), np.uint32)
        self._normals = np.zeros((num_envs, NOISE_SIZE), np.float32)
        self._captured_at = np.full(num_envs, -np.inf)
        self.critic = np.zeros((num_envs, STATE_SIZE + camera.height * camera.width), np.float32)
        self.fresh: Flags = np.zeros(num_envs, np.bool_)

    def place(self, index: int, solids: SolidTable) -> None:
        """Show an environment's camera other solids."""
        self._cameras.place(index, solids)

    def reset(self, index: int, seed: np.random.SeedSequence) -> None:
        """Begin an episode: with noise of its own, and with a new frame."""
        self._streams[index] = seed.generate_state(self._streams[index].size).reshape(STREAM_SHAPE)
        self.forget_frame(index)

    def forget_frame(self, index: int) -> None:
        """Let an environment's next observation bring a new frame."""
        self._captured_at[index] = -np.inf

    def observe(
        self, fleet: Fleet, now: Array, gates: Array, gate: npt.NDArray[np.int64], target_noise: Array
    ) -> npt.NDArray[np.float32]:
        """Return the policy's observations, shape (N, 6928); `critic` holds the same without noise.

        Args:
            fleet: drones.
            now: time since the episodes began, s, shape (N,).
            gates: true centres in flight order and what follows the last, world frame, m, shape (N, gates + 1, 3).
            gate: index of the gate flown to, shape (N,).
            target_noise: on that gate's and the next one's centre, m, shape (N, 2, 3).
        """
        camera, noise, physics = self._task.camera, self._task.noise, fleet.physics
        policy = np.empty_like(self.critic)
        self.fresh = now - self._captured_at >= self._task.clock.camera_period - 1e-6
        self._captured_at[self.fresh] = now[self.fresh]
        self._cameras.move(physics.position, physics.rotation)
        depth = self._cameras.depth.reshape(len(now), -1)
        parts = min(len(now), self._workers.num_threads * _SHARES_PER_THREAD)
        ends = [part * len(now) // parts for part in range(parts + 1)]

        def see(part: int, _: int) -> None:
            first, end = ends[part], ends[part + 1]
            self._cameras.capture(self.fresh, first, end, self.critic, STATE_SIZE)
            add_noise(
                self._streams, first, end, depth, self._normals, policy, STATE_SIZE, noise.depth, camera.max_range
            )
            write_states(
                first,
                end,
                physics.state,
                physics.rotation,
                fleet.command,
                gates,
                gate,
                target_noise,
                self._normals,
                noise.velocity,
                noise.attitude,
                self.critic,
                policy,
            )

        self._workers.run(see, parts)
        return policy
