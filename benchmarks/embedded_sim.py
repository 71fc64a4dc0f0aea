"""Measure the embedded simulator's env steps per second with a policy, beside two yardsticks on the same scenes.

* rays: what the depth rays alone would allow: one `mj_multiRay` over the whole scene for every frame that the simulator
  captured, on as many threads, and nothing else;
* plain: one environment after the other in one thread, with numpy per environment, as a short script would do it.

The three take turns, round by round, so that a busy machine slows all of them; ratios are of the rounds' medians.
Usage: python benchmarks/embedded_sim.py [--checkpoint FILE] [--num-envs 16] [--cores 2] [--rounds 7] [--steps 60]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np
import torch

from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
from deploy_kit.sim.mujoco.camera import ray_directions
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.mujoco.scene import DRONE, build_model
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.rotations import Array, matrix_from_quaternion, quaternion_from_euler
from deploy_kit.sim.tracks import Track
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import RACING_TASK

TASK = RACING_TASK
CAMERA = TASK.camera
DIRECTIONS = ray_directions(CAMERA)
CUTOFF = CAMERA.max_range * float(np.linalg.norm(DIRECTIONS, axis=1).max())


class WholeScene:
    """One model with every solid, and a plain depth frame of it."""

    def __init__(self, track: Track) -> None:
        self.model = build_model(track, TASK)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.drone = int(self.model.body(DRONE).id)
        self._hits, self._ids = np.empty(len(DIRECTIONS)), np.empty(len(DIRECTIONS), np.int32)

    def depth(self, position: Array, rotation: Array) -> Array:
        """Return the depth of every pixel, m."""
        rays = np.ascontiguousarray(DIRECTIONS @ rotation.T).reshape(-1)
        origin = position + rotation @ np.array(CAMERA.position)
        hits = self._hits
        mujoco.mj_multiRay(
            self.model, self.data, origin, rays, None, True, self.drone, self._ids, hits, None, len(hits), CUTOFF
        )
        return np.minimum(np.where(hits < 0, CAMERA.max_range, hits), CAMERA.max_range)


class PlainEnv:
    """The racing task the short way: one environment, numpy on small arrays, no extras."""

    def __init__(self, track: Track, seed: int) -> None:
        self.scene, self.track, self.rng = WholeScene(track), track, np.random.default_rng(seed)
        self.transform = ActionTransform.from_limits(3.0, 6.0)
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        data, rng = self.scene.data, self.rng
        mujoco.mj_resetData(self.scene.model, data)
        to_gate = self.track.gate_positions[0] - self.track.start
        yaw = np.arctan2(to_gate[1], to_gate[0]) + rng.uniform(-0.7, 0.7)
        data.qpos[:3] = self.track.start
        data.qpos[3:7] = quaternion_from_euler(*rng.uniform(-0.2, 0.2, 2), yaw)
        mujoco.mj_forward(self.scene.model, data)
        self.thrust, self.torque, self.acceleration = 0.0, np.zeros(3), np.zeros(3)
        self.pending, self.command = np.zeros(4), self.transform.apply(np.zeros(4))
        self.gate = self.time = 0
        self.captured, self.image = -1.0, None
        self.noise = rng.uniform(-0.5, 0.5, (2, 3))

    def observe(self) -> Array:
        """Return the noisy observation."""
        data, rng = self.scene.data, self.rng
        rotation, position = data.xmat[self.scene.drone].reshape(3, 3), data.qpos[:3]
        gates = self.track.gate_positions
        target = gates[self.gate] + self.noise[0]
        following = gates[(self.gate + 1) % 8] + self.noise[1]
        if self.image is None or self.time - self.captured >= 0.04 - 1e-6:
            self.image, self.captured = self.scene.depth(position, rotation), self.time
        noisy = np.minimum(self.image * (1 + 0.02 * rng.normal(size=self.image.shape)), 10.0) / 10.0
        velocity = rotation.T @ data.qvel[:3] * (1 + 0.03 * rng.normal(size=3))
        return np.concatenate(
            [
                velocity,
                rotation[2],
                rotation.T @ (target - position),
                rotation.T @ (following - target),
                self.command,
                noisy,
            ]
        ).astype(np.float32)

    def step(self, action: Array) -> bool:
        """Fly one policy step; returns whether the episode has ended."""
        data, body = self.scene.data, self.scene.drone
        self.command, self.pending = self.transform.apply(self.pending), action
        rotation, rate = data.xmat[body].reshape(3, 3).copy(), data.qvel[3:6].copy()
        velocity = rotation.T @ data.qvel[:3]
        inertia, keep = np.array(TASK.controller.inertia), np.exp(-1)
        self.thrust = (1 - keep) * self.command[0] * 0.5 + keep * self.thrust
        torque = inertia * (35 * (self.command[1:] - rate)) + np.cross(rate, inertia * rate)
        torque -= np.array(TASK.controller.acceleration_gain) * self.acceleration
        self.torque = (1 - keep) * torque + keep * self.torque
        drag = np.array([0.09, 0.09, 0.36]) * velocity + np.array([0.005, 0.005, 0.02]) * velocity * np.abs(velocity)
        force = np.array([0.0, 0.0, self.thrust]) - drag
        crashed = False
        for _ in range(3):
            rotation = data.xmat[body].reshape(3, 3)
            data.xfrc_applied[body, :3] = rotation @ force
            data.xfrc_applied[body, 3:] = rotation @ self.torque
            mujoco.mj_step(self.scene.model, data)
            crashed |= data.ncon > 0
        self.acceleration = (data.qvel[3:6] - rate) / 0.03
        mujoco.mj_forward(self.scene.model, data)
        self.time += 0.03
        if np.linalg.norm(self.track.gate_positions[self.gate] - data.qpos[:3]) < 0.35:
            self.gate, self.noise = (self.gate + 1) % 8, self.rng.uniform(-0.5, 0.5, (2, 3))
        return bool(crashed or data.xmat[body][8] < 0 or self.time >= 8.0)


@dataclass
class Frames:
    """Poses at which one policy step captured frames: environment, position, quaternion."""

    envs: list[int]
    positions: Array
    quaternions: Array


def simulator(env: MujocoRacingEnv, policy: VisionActorCritic, steps: int) -> list[Frames]:
    """Fly and return where frames were captured."""
    frames, before = [], None
    observations = env.get_observations()
    for _ in range(steps):
        with torch.inference_mode():
            actions = policy(observations["policy"]).action
        observations, _, _, extras = env.step(actions)
        if before is not None:
            fresh = extras["fresh_image"].numpy().nonzero()[0]
            frames.append(Frames(fresh.tolist(), *(before[key].double().numpy() for key in ("position", "quaternion"))))
        before = extras
    return frames


def rays_alone(pool: WorkerPool, scenes: list[WholeScene], frames: list[Frames]) -> None:
    """Cast the frames' rays, step by step, and nothing else."""
    for step in frames:
        rotations = matrix_from_quaternion(step.quaternions)

        def cast(index: int, _: int, step: Frames = step, rotations: Array = rotations) -> None:
            env = step.envs[index]
            scenes[env].depth(step.positions[env], rotations[env])

        pool.run(cast, len(step.envs))


def plain_loop(envs: list[PlainEnv], policy: VisionActorCritic, observations: Array, steps: int) -> None:
    """Step the environments one after the other."""
    for _ in range(steps):
        with torch.inference_mode():
            actions = policy(torch.from_numpy(observations)).action.double().numpy()
        for index, env in enumerate(envs):
            if env.step(actions[index]):
                env.reset()
            observations[index] = env.observe()


@dataclass
class Meter:
    """Rates of one contender, round by round.

    Attributes:
        rates: env steps per second of wall time.
        costs: processor time per env step, µs, all threads together; a busy machine disturbs it less.
    """

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object], count: int) -> None:
        """Time work that takes `count` env steps."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.rates.append(count / (time.perf_counter() - wall))
        self.costs.append((time.process_time() - cpu) / count * 1e6)


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: random weights of the same architecture")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])
    # More torch threads than one spin on the simulator's cores after every small batch.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    policy = load_checkpoint(args.checkpoint).network if args.checkpoint else VisionActorCritic(NetworkConfig())
    policy.eval()

    env = MujocoRacingEnv(EnvOptions(args.num_envs, args.seed, num_threads=args.cores, randomisation=False))
    tracks = env.tracks()
    scenes, pool = [WholeScene(track) for track in tracks], WorkerPool(args.cores)
    plain = [PlainEnv(track, args.seed + index) for index, track in enumerate(tracks)]
    observations = np.stack([each.observe() for each in plain])
    solids = statistics.mean(len(track.primitives) + 1 for track in tracks)
    simulator(env, policy, 20)
    plain_loop(plain, policy, observations, 5)

    meters = {"simulator": Meter(), "rays": Meter(), "plain": Meter()}
    count = args.num_envs * args.steps
    frames: list[Frames] = []
    for _ in range(args.rounds):
        meters["simulator"].time(lambda: frames.extend(simulator(env, policy, args.steps)), count)
        # The first step's frames were captured before the round: one step fewer.
        meters["rays"].time(lambda: rays_alone(pool, scenes, frames), args.num_envs * (args.steps - 1))
        meters["plain"].time(lambda: plain_loop(plain, policy, observations, args.steps), count)
        frames.clear()
    env.close()
    pool.close()

    median = {name: statistics.median(meter.rates) for name, meter in meters.items()}
    print(f"{args.num_envs} environments, {solids:.0f} solids each, {args.cores} cores, MuJoCo {mujoco.__version__}")
    for name, meter in meters.items():
        spread = f"{min(meter.rates):.0f} to {max(meter.rates):.0f}"
        cost = statistics.median(meter.costs)
        print(f"{name:10s} {median[name]:6.0f} env steps/s (rounds: {spread}), {cost:.0f} µs of processor time each")
    print(f"simulator / plain loop        {median['simulator'] / median['plain']:.2f} (aim: at least 2)")
    print(f"simulator / whole-scene rays  {median['simulator'] / median['rays']:.2f} (aim: at least 0.70)")


if __name__ == "__main__":
    main()
