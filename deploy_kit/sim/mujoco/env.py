"""The racing task as an rsl_rl vector environment on MuJoCo."""

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from deploy_kit.errors import InputError
from deploy_kit.sim.levels import TrackGrid
from deploy_kit.sim.mujoco.fleet import Fleet
from deploy_kit.sim.mujoco.motion_kernel import judge_steps
from deploy_kit.sim.mujoco.sensors import Sensors
from deploy_kit.sim.mujoco.snapshot import Slot, restore_snapshot, take_snapshot
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.options import (
    AIRFRAME_STREAM,
    EPISODE_STREAM,
    LEVEL_STREAM,
    SENSOR_STREAM,
    EnvOptions,
    environment_generator,
    environment_seed,
    track_seed,
    usable_cores,
)
from deploy_kit.sim.randomisation import draw_conditions, draw_start, draw_vehicle
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.rules.containment import SolidArrays, points_inside
from deploy_kit.sim.rules.curricula import next_gate_noise, next_levels
from deploy_kit.sim.rules.judgement import Flags
from deploy_kit.sim.tracks import Track, make_track
from deploy_kit.task.racing import RACING_TASK, Task
from deploy_kit.task.tracks import NUM_GATES

_EPISODE_BITS = 32
_ENVS_PER_THREAD = 4


class MujocoRacingEnv(VecEnv):  # type: ignore[misc]  # rsl_rl carries no types
    """The racing task for many drones, each on a track of its own.

    Observation groups: `policy` (N, 6928) with noise, `critic` (N, 6928) without, `auxiliary` (N, 1): whether the step
    just taken passed a gate, judged before the automatic reset. Dones are int64, 1 where the episode ended.

    `extras` of `step` holds `time_outs` (ended by the clock or by the end of an open track), `log`, and, for the step
    just taken and before any reset, each of length N: `track_id`, `episode_id`, `episode_step` (from 0), `crashed`
    (ended otherwise than by time-out), `gates_passed` (so far), `speed` (m/s), `position` (world, m),
    `quaternion` (w, x, y, z), `fresh_image` (the observation that this step consumed held a new frame), `first_step`.

    Everything random comes from the seed, the environment's index and the episode's number, so that an environment's
    episodes depend neither on the number of threads nor on the other environments.

    Args:
        options: options.
        task: numbers.

    Attributes:
        options: as given.
        task: as given.
        stage: numbers of the training stage.
        gate_noise: half width of each environment's noise on commanded gate positions, m, shape (N,); stage 1 changes
            it from episode to episode.
        level: level of each environment's track, shape (N,); 0 without the option `levels`.

    Raises:
        OptionError: an option is out of range.
        TaskError: a track kind is unknown.
    """

    def __init__(self, options: EnvOptions, task: Task = RACING_TASK) -> None:
        options.check()
        n = options.num_envs
        self.options, self.task, self.stage = options, task, task.stages[options.stage]
        self.num_envs, self.num_actions, self.device = n, 4, options.device
        self.cfg: dict[str, Any] = {"backend": "mujoco", "options": asdict(options), "task": asdict(task)}
        # Isaac Lab's rule for the number of steps.
        self.max_episode_length = math.ceil(self.stage.episode_length_s / task.clock.policy_dt - 1e-9)
        self.episode_length_buf = torch.zeros(n, dtype=torch.long, device=self.device)

        self._grid = TrackGrid(options, task.levels) if options.levels else None
        self._offsets = np.array(task.body_points.offsets)
        self._weights = np.array(astuple(self.stage.rewards))
        self._allocate(n)
        # More threads than these wait for each other: 16 environments fly fastest on four of 16 cores.
        threads = min(usable_cores(), max(1, n // _ENVS_PER_THREAD))
        self._workers = WorkerPool(min(options.num_threads or threads, n))
        self._slots = [self._new_slot(index) for index in range(n)]
        vehicles = [slot.vehicle for slot in self._slots]
        self._fleet = Fleet(self.tracks(), vehicles, task, self.stage.colliders, self._workers)
        self._sensors = Sensors(n, task, self._workers)
        for index, solids in enumerate(self._fleet.physics.solids):
            self._sensors.place(index, solids)
        self._solids: SolidArrays | None = None
        self.reset()

    def _allocate(self, n: int) -> None:
        # Gate centres in flight order, then what follows the last one; one more row than there are gates.
        self._gates = np.zeros((n, NUM_GATES + 1, 3))
        self._gate = np.zeros(n, np.int64)
        self.gate_noise = np.full(n, self.stage.gate_noise)
        self._target_noise = np.zeros((n, 2, 3))
        self._open = np.zeros(n, np.bool_)
        self.level, self._level_flown = np.zeros((2, n), np.int64)
        self._gates_passed = np.zeros(n, np.int32)
        self._episode_step = np.zeros(n, np.int32)
        self._episode_id, self._track_id = np.zeros((2, n), np.int64)

    def _generator(self, index: int, stream: int, counter: int = 0) -> np.random.Generator:
        return environment_generator(self.options.seed, index, stream, counter)

    def _new_track(self, index: int, counter: int) -> Track:
        if self._grid is not None:
            return self._grid.track(int(self.level[index]), self._grid.column_of(index))
        owner = index if self.options.track_pool is None else index % self.options.track_pool
        seed = track_seed(self.options.seed, owner, counter)
        return make_track(seed, self.options.tracks, self.options.difficulty, self.options.obstacles)

    def _new_slot(self, index: int) -> Slot:
        rng = self._generator(index, AIRFRAME_STREAM)
        vehicle = draw_vehicle(rng, self.task, self.options.randomisation)
        if self._grid is not None:
            first = self._generator(index, LEVEL_STREAM)
            self.level[index] = self._level_flown[index] = first.integers(self.task.levels.highest_first + 1)
        track = self._new_track(index, 0)
        self._place_gates(index, track)
        return Slot(track, vehicle, 0, rng)

    def _place_gates(self, index: int, track: Track) -> None:
        self._open[index] = not track.closed and self.options.finish == "end"
        self._gates[index, :NUM_GATES] = track.gate_positions
        self._gates[index, NUM_GATES] = track.exit_point if self._open[index] else track.gate_positions[0]
        self._track_id[index] = track.track_id

    def tracks(self) -> list[Track]:
        """Return the track that each environment is on."""
        return [slot.track for slot in self._slots]

    def get_observations(self) -> TensorDict:
        """Return the current observations, those that the last `step` or `reset` returned."""
        return self._observations

    def reset(self) -> tuple[TensorDict, dict[str, Any]]:
        """Begin a new episode in every environment and return its first observations."""
        every = np.ones(self.num_envs, np.bool_)
        self.episode_length_buf[:] = 0
        self._adapt(every, self._gates_passed)
        self._observations = self._observe(every, np.zeros(self.num_envs, np.float32))
        return self._observations, {"log": {}}

    def _reset_slot(self, index: int) -> None:
        """Begin the next episode of one environment."""
        slot = self._slots[index]
        self._change_track(index)
        slot.episode_rng = self._generator(index, EPISODE_STREAM, slot.episodes)
        self._sensors.reset(index, environment_seed(self.options.seed, index, SENSOR_STREAM, slot.episodes))
        self._episode_id[index] = (index << _EPISODE_BITS) + slot.episodes
        slot.episodes += 1
        randomised = self.options.randomisation
        conditions = draw_conditions(slot.episode_rng, self.task, slot.vehicle.reckoned_mass, randomised)
        self._fleet.reset(index, draw_start(slot.episode_rng, slot.track, self.task), conditions)
        self._gate[index] = self._gates_passed[index] = self._episode_step[index] = 0
        self._draw_targets(index)

    def _change_track(self, index: int) -> None:
        """Put an environment on another track where its turn or its level asks for one."""
        slot, per_track = self._slots[index], self.options.episodes_per_track
        if self._grid is not None:
            if self.level[index] == self._level_flown[index]:
                return
            self._level_flown[index] = self.level[index]
            track = self._new_track(index, 0)
        elif per_track and slot.episodes and slot.episodes % per_track == 0:
            track = self._new_track(index, slot.episodes // per_track)
        else:
            return
        self._place(index, track)

    def _place(self, index: int, track: Track) -> None:
        """Put an environment on a track; its drone stays where it is."""
        self._slots[index].track = track
        self._fleet.physics.place(index, track)
        self._sensors.place(index, self._fleet.physics.solids[index])
        self._place_gates(index, track)
        self._solids = None

    def _draw_targets(self, index: int) -> None:
        """Draw the noise of the current and the next gate's commanded centre."""
        draw = self._slots[index].episode_rng.uniform(-1, 1, (2, 3))
        self._target_noise[index] = self.gate_noise[index] * draw

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Fly one policy step; environments whose episode ends are reset.

        Args:
            actions: the network's unbounded actions, shape (N, 4). They act in the next step.

        Returns:
            Observations, rewards (N,), dones (N,), and extras as the class describes.

        Raises:
            InputError: the actions have another shape, or are not finite.
        """
        self._fleet.fly(self._checked(actions))
        self.episode_length_buf += 1
        return self._judge()

    def _checked(self, actions: torch.Tensor) -> Array:
        array = actions.detach().to("cpu", torch.float64).numpy().copy()
        if array.shape != (self.num_envs, 4):
            raise InputError(f"actions have shape {tuple(array.shape)}, not ({self.num_envs}, 4)")
        if not np.isfinite(array).all():
            index = int(np.argwhere(~np.isfinite(array).all(axis=1))[0, 0])
            raise InputError(
                f"actions of environment {index} are not finite ({array[index]}); look for NaN in the policy"
            )
        return array

    def _judge(self) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Judge the step just flown, move targets on, reset what has ended, and observe."""
        stage, task, fleet, n = self.stage, self.task, self._fleet, self.num_envs
        passed, crashed, rewards = np.empty(n, np.bool_), np.empty(n, np.bool_), np.empty(n, np.float32)
        lowest, highest = stage.height_range or (-math.inf, math.inf)
        judge_steps(
            fleet.physics.state,
            fleet.physics.rotation,
            self._gates,
            self._gate,
            fleet.physics.exceeded if stage.colliders else self._inside(),
            fleet.newest,
            fleet.given_before,
            fleet.to_force,
            self._weights,
            task.pass_radius,
            task.clock.policy_dt,
            stage.ends_on_crash,
            lowest,
            highest,
            passed,
            crashed,
            rewards,
        )
        passed_before = self._gates_passed.copy()
        self._gates_passed += passed
        finished = passed & self._open & (self._gate == NUM_GATES - 1)
        timed_out = (self.episode_length_buf.cpu().numpy() >= self.max_episode_length) | finished
        done = crashed | timed_out
        extras = self._extras(crashed, timed_out & ~crashed, done)
        self._gate[passed] = (self._gate[passed] + 1) % NUM_GATES
        for index in np.flatnonzero(passed & ~done):
            self._draw_targets(int(index))
        self._adapt(done, passed_before)
        self._episode_step += 1
        self.episode_length_buf[self._tensor(done)] = 0
        self._observations = self._observe(done, passed.astype(np.float32))
        return self._observations, self._tensor(rewards), self._tensor(done.astype(np.int64)), extras

    def _inside(self) -> Flags:
        """Return which drones without colliders count as in collision."""
        if self._solids is None:
            self._solids = SolidArrays.of([slot.track.primitives for slot in self._slots])
        rows, physics = np.arange(self.num_envs), self._fleet.physics
        inside = points_inside(physics.position, physics.rotation, self._offsets, self._solids, rows)
        return np.asarray(inside.sum(axis=1) >= self.task.body_points.limit)

    def _adapt(self, ended: Flags, gates: npt.NDArray[np.integer]) -> None:
        """Scale the gate noise and move the levels of environments whose episode ends, by the gates passed in it."""
        rows = np.flatnonzero(ended)
        self.gate_noise[rows] = next_gate_noise(self.gate_noise[rows], gates[rows], self.stage.curriculum)
        if self._grid is not None:
            levels = self.task.levels
            beyond = np.array([self._beyond(int(row)) for row in rows], np.int64)
            self.level[rows] = next_levels(self.level[rows], gates[rows], beyond, levels)

    def _beyond(self, index: int) -> int:
        """Draw the level of a drone that has risen above the last one."""
        generator = self._generator(index, LEVEL_STREAM, self._slots[index].episodes + 1)
        return int(generator.integers(self.task.levels.count))

    def _extras(self, crashed: Flags, timed_out: Flags, done: Flags) -> dict[str, Any]:
        log = {}
        if done.any():
            log["/episode/gates_passed"] = float(self._gates_passed[done].mean())
            log["/episode/crash_rate"] = float(crashed[done].mean())
        physics = self._fleet.physics
        arrays = {
            "time_outs": timed_out,
            "track_id": self._track_id,
            "episode_id": self._episode_id,
            "episode_step": self._episode_step,
            "crashed": crashed,
            "gates_passed": self._gates_passed,
            "speed": np.linalg.norm(physics.velocity, axis=1).astype(np.float32),
            "position": physics.position.astype(np.float32),
            "quaternion": physics.quaternion.astype(np.float32),
            "fresh_image": self._sensors.fresh,
            "first_step": self._episode_step == 0,
        }
        return {"log": log, **{name: self._tensor(array) for name, array in arrays.items()}}

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def _observe(self, reset: Flags, label: npt.NDArray[np.float32]) -> TensorDict:
        """Reset the environments marked, then take every environment's observation."""
        for index in np.flatnonzero(reset):
            self._reset_slot(int(index))
        now = self._episode_step.astype(np.float64) * self.task.clock.policy_dt
        policy = self._sensors.observe(self._fleet, now, self._gates, self._gate, self._target_noise)
        groups = {"policy": policy, "critic": self._sensors.critic.copy(), "auxiliary": label[:, None]}
        tensors = {name: torch.from_numpy(array).to(self.device) for name, array in groups.items()}
        return TensorDict(tensors, batch_size=[self.num_envs], device=self.device)

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of all that the next step depends on besides options and task; for `restore`."""
        return take_snapshot(self)

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a `snapshot` of an environment with the same options and task, to the last bit.

        Raises:
            InputError: it was taken of another environment.
        """
        restore_snapshot(self, arrays)

    def close(self) -> None:
        """Stop the threads; the environment cannot be stepped afterwards."""
        self._workers.close()

    def __enter__(self) -> "MujocoRacingEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
