"""Measure the embedded simulator's env steps per second with a policy, beside other ways to fly the same task.

* simulator: this checkout, flown as `fly` and `collect` fly it;
* plain: one environment after the other in one thread, MuJoCo's rays and numpy per environment, as a short script would
  do it, a twentieth of the steps;
* other (with --against FOLDER): the simulator of another checkout of this project, such as an earlier commit's.

Each runs in a process of its own. They take turns, round by round, so that a busy machine slows all of them; ratios
are of the rounds' medians. Processor time, all threads together, is disturbed less than wall time. Then come the shares
of a step, on one thread, and with --curve the rate on 1, 2, 4, … cores.

Usage: python benchmarks/embedded_sim.py [--checkpoint FILE] [--num-envs 16] [--cores 2] [--rounds 7] [--steps 60]
       [--against FOLDER] [--curve]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = np.ndarray
SECTIONS = ("policy", "physics", "camera", "noise")


class Flight:
    """A simulator's environments with a policy, of whichever version is on the path."""

    def __init__(self, args: argparse.Namespace, threads: int) -> None:
        from deploy_kit.policy.checkpoint import load_checkpoint
        from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
        from deploy_kit.sim.mujoco.env import MujocoRacingEnv
        from deploy_kit.sim.options import EnvOptions

        # More torch threads than one spin on the simulator's cores after every small batch.
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        network = load_checkpoint(args.checkpoint).network if args.checkpoint else VisionActorCritic(NetworkConfig())
        self.driver: Callable[[torch.Tensor], Any] = network.eval()
        try:
            from deploy_kit.flight.cpu_driver import CpuDriver

            self.driver = CpuDriver(network, threads)
        except ModuleNotFoundError:
            pass
        self.env = MujocoRacingEnv(EnvOptions(args.num_envs, args.seed, num_threads=threads))

    def steps(self, count: int) -> None:
        """Fly policy steps, with the copy of the observation that a rollout makes."""
        for _ in range(count):
            with torch.inference_mode():
                self.env.step(self.driver(self.env.get_observations()["policy"].clone()).action)

    def solids(self) -> float:
        """Return the mean number of solids of a track."""
        return statistics.mean(len(track.primitives) for track in self.env.tracks())


class PlainEnv:
    """The racing task the short way: one environment, numpy on small arrays, MuJoCo's rays, no extras."""

    def __init__(self, track: Any, seed: int) -> None:
        import mujoco

        from deploy_kit.sim.mujoco.camera import ray_directions
        from deploy_kit.sim.mujoco.scene import DRONE, build_model
        from deploy_kit.task.interface import ActionTransform
        from deploy_kit.task.racing import RACING_TASK

        self.task, self.mujoco, self.track = RACING_TASK, mujoco, track
        self.model = build_model(track, RACING_TASK)
        self.data, self.drone = mujoco.MjData(self.model), int(self.model.body(DRONE).id)
        self.directions = ray_directions(RACING_TASK.camera)
        self.cutoff = 10.0 * float(np.linalg.norm(self.directions, axis=1).max())
        self.hits, self.ids = np.empty(len(self.directions)), np.empty(len(self.directions), np.int32)
        self.rng = np.random.default_rng(seed)
        self.transform = ActionTransform.from_limits(3.0, 6.0)
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        from deploy_kit.sim.rotations import quaternion_from_euler

        data, rng = self.data, self.rng
        self.mujoco.mj_resetData(self.model, data)
        to_gate = self.track.gate_positions[0] - self.track.start
        yaw = np.arctan2(to_gate[1], to_gate[0]) + rng.uniform(-0.7, 0.7)
        data.qpos[:3] = self.track.start
        data.qpos[3:7] = quaternion_from_euler(*rng.uniform(-0.2, 0.2, 2), yaw)
        self.mujoco.mj_forward(self.model, data)
        self.thrust, self.torque, self.acceleration = 0.0, np.zeros(3), np.zeros(3)
        self.pending, self.command = np.zeros(4), self.transform.apply(np.zeros(4))
        self.gate = self.time = 0
        self.captured, self.image = -1.0, None
        self.noise = rng.uniform(-0.5, 0.5, (2, 3))

    def depth(self, position: Array, rotation: Array) -> Array:
        """Return the depth of every pixel, m."""
        rays = np.ascontiguousarray(self.directions @ rotation.T).reshape(-1)
        origin, hits = position + rotation @ np.array(self.task.camera.position), self.hits
        self.mujoco.mj_multiRay(
            self.model, self.data, origin, rays, None, True, self.drone, self.ids, hits, None, len(hits), self.cutoff
        )
        return np.minimum(np.where(hits < 0, 10.0, hits), 10.0)

    def observe(self) -> Array:
        """Return the noisy observation."""
        data, rng = self.data, self.rng
        rotation, position = data.xmat[self.drone].reshape(3, 3), data.qpos[:3]
        gates = self.track.gate_positions
        target = gates[self.gate] + self.noise[0]
        following = gates[(self.gate + 1) % 8] + self.noise[1]
        if self.image is None or self.time - self.captured >= 0.04 - 1e-6:
            self.image, self.captured = self.depth(position, rotation), self.time
        noisy = np.minimum(self.image * (1 + 0.02 * rng.normal(size=self.image.shape)), 10.0) / 10.0
        velocity = rotation.T @ data.qvel[:3] * (1 + 0.03 * rng.normal(size=3))
        offsets = rotation.T @ (target - position), rotation.T @ (following - target)
        return np.concatenate([velocity, rotation[2], *offsets, self.command, noisy]).astype(np.float32)

    def step(self, action: Array) -> bool:
        """Fly one policy step; returns whether the episode has ended."""
        data, body, controller = self.data, self.drone, self.task.controller
        self.command, self.pending = self.transform.apply(self.pending), action
        rotation, rate = data.xmat[body].reshape(3, 3).copy(), data.qvel[3:6].copy()
        velocity = rotation.T @ data.qvel[:3]
        inertia, keep = np.array(controller.inertia), np.exp(-1)
        self.thrust = (1 - keep) * self.command[0] * 0.5 + keep * self.thrust
        torque = inertia * (35 * (self.command[1:] - rate)) + np.cross(rate, inertia * rate)
        torque -= np.array(controller.acceleration_gain) * self.acceleration
        self.torque = (1 - keep) * torque + keep * self.torque
        drag = np.array([0.09, 0.09, 0.36]) * velocity + np.array([0.005, 0.005, 0.02]) * velocity * np.abs(velocity)
        force = np.array([0.0, 0.0, self.thrust]) - drag
        crashed = False
        for _ in range(3):
            rotation = data.xmat[body].reshape(3, 3)
            data.xfrc_applied[body, :3] = rotation @ force
            data.xfrc_applied[body, 3:] = rotation @ self.torque
            self.mujoco.mj_step(self.model, data)
            crashed |= data.ncon > 0
        self.acceleration = (data.qvel[3:6] - rate) / 0.03
        self.mujoco.mj_forward(self.model, data)
        self.time += 0.03
        if np.linalg.norm(self.track.gate_positions[self.gate] - data.qpos[:3]) < 0.35:
            self.gate, self.noise = (self.gate + 1) % 8, self.rng.uniform(-0.5, 0.5, (2, 3))
        return bool(crashed or data.xmat[body][8] < 0 or self.time >= 8.0)


class PlainLoop:
    """Plain environments on the simulator's tracks, one after the other."""

    def __init__(self, args: argparse.Namespace, threads: int) -> None:
        from deploy_kit.policy.checkpoint import load_checkpoint
        from deploy_kit.policy.network import NetworkConfig, VisionActorCritic

        flight = Flight(args, 1)
        tracks = flight.env.tracks()
        flight.env.close()
        torch.set_num_threads(threads)
        torch.manual_seed(args.seed)
        network = load_checkpoint(args.checkpoint).network if args.checkpoint else VisionActorCritic(NetworkConfig())
        self.network = network.eval()
        self.envs = [PlainEnv(track, args.seed + index) for index, track in enumerate(tracks)]
        self.observations = np.stack([env.observe() for env in self.envs])

    def steps(self, count: int) -> None:
        """Fly policy steps."""
        for _ in range(count):
            with torch.inference_mode():
                actions = self.network(torch.from_numpy(self.observations)).action.double().numpy()
            for index, env in enumerate(self.envs):
                if env.step(actions[index]):
                    env.reset()
                self.observations[index] = env.observe()

    def solids(self) -> float:
        """Return the mean number of solids of a track."""
        return statistics.mean(len(env.track.primitives) for env in self.envs)


def shares(args: argparse.Namespace) -> dict[str, float]:
    """Return processor time per env step on one thread, µs: of each section, and in all."""
    from deploy_kit.sim.mujoco import camera, physics, sensors

    flight, spent = Flight(args, 1), dict.fromkeys(SECTIONS, 0.0)

    def metered(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **named: Any) -> Any:
            start = time.thread_time()
            result = call(*values, **named)
            spent[name] += time.thread_time() - start
            return result

        return timed

    flight.driver = metered("policy", flight.driver)
    # Methods are replaced by ones that count their time.
    camera.DepthCameras.capture = metered("camera", camera.DepthCameras.capture)  # type: ignore[method-assign]  # timed
    sensors.add_noise = metered("noise", sensors.add_noise)
    physics.FleetPhysics.step = metered("physics", physics.FleetPhysics.step)  # type: ignore[method-assign]  # timed
    flight.steps(20)
    spent.update(dict.fromkeys(SECTIONS, 0.0))
    start, count = time.thread_time(), args.rounds * args.steps
    flight.steps(count)
    spent["all"] = time.thread_time() - start
    return {name: value / count / args.num_envs * 1e6 for name, value in spent.items()}


def serve(args: argparse.Namespace) -> None:
    """Fly a round for each line on the standard input and tell what it took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])
    if args.serve == "shares":
        print(json.dumps(shares(args)), flush=True)
        return
    contender = (PlainLoop if args.serve == "plain" else Flight)(args, args.cores)
    contender.steps(20)
    print(json.dumps(contender.solids()), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        contender.steps(int(line))
        count = int(line) * args.num_envs
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"rate": count / wall, "cost": cpu / count * 1e6}), flush=True)


class Contender:
    """A process that flies a round when it is asked to."""

    def __init__(self, kind: str, args: argparse.Namespace, folder: Path, cores: int) -> None:
        options = ["--serve", kind, "--cores", cores, "--num-envs", args.num_envs, "--seed", args.seed]
        options += ["--rounds", args.rounds, "--steps", args.steps]
        options += ["--checkpoint", args.checkpoint] if args.checkpoint else []
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"},
        )
        self.told = self._read()
        self.rounds: list[dict[str, float]] = []

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with code {self.process.wait()}")
        return json.loads(line)

    def fly(self, steps: int) -> None:
        """Fly a round."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        self.rounds.append(self._read())

    def median(self, figure: str) -> float:
        """Return a figure's median over the rounds."""
        return statistics.median(each[figure] for each in self.rounds)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(args: argparse.Namespace, here: Path) -> None:
    """Fly the contenders by turns and print rates, costs and ratios."""
    folders = {"plain": here} | ({"other": args.against} if args.against else {})
    simulator = Contender("simulator", args, here, args.cores)
    others = {kind: Contender(kind, args, folder, args.cores) for kind, folder in folders.items()}
    contenders = {"simulator": simulator, **others}
    for _ in range(args.rounds):
        for name, contender in contenders.items():
            contender.fly(max(args.steps // 20, 2) if name == "plain" else args.steps)
    for name, contender in contenders.items():
        rates = [each["rate"] for each in contender.rounds]
        print(
            f"{name:10s} {contender.median('rate'):7.0f} env steps/s (rounds: {min(rates):.0f} to {max(rates):.0f}), "
            f"{contender.median('cost'):5.0f} µs of processor time each, {contender.told:.0f} solids a track"
        )
        contender.close()
    for name, other in others.items():
        rate = simulator.median("rate") / other.median("rate")
        cost = other.median("cost") / simulator.median("cost")
        print(f"simulator / {name}: {rate:.2f} by wall time, {cost:.2f} by processor time")


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: random weights of the same architecture")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--curve", action="store_true", help="also the rate on 1, 2, 4, … cores")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    here = Path(__file__).parent.parent
    print(f"{args.num_envs} environments, {args.cores} cores")
    compare(args, here)
    part = Contender("shares", args, here, 1)
    total = part.told.pop("all")
    part.told["rest"] = total - sum(part.told.values())
    part.close()
    print(f"on one thread {total:.0f} µs: " + ", ".join(f"{name} {value:.0f}" for name, value in part.told.items()))
    if args.curve:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for count in sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)}):
            contender = Contender("simulator", args, here, count)
            for _ in range(args.rounds):
                contender.fly(args.steps)
            contender.close()
            print(f"{count:3d} cores {contender.median('rate'):7.0f} env steps/s")


if __name__ == "__main__":
    main()
