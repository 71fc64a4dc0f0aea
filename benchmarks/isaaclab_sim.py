"""Measure Isaac Lab's env steps per second against the number of environments, with and without the policy.

Usage: python benchmarks/isaaclab_sim.py [--checkpoint FILE] [--device cuda:0] [--num-envs 64 1024 4096] [--steps 200]

Each row: seconds to build the environment, env steps/s under hovering actions, env steps/s with the policy in the loop
(the rollout that collect, fly and verify share; the better of two), the same where the host waits in each step to hear
whether numbers are finite, as it did before, the host's processor time over wall time in both, and env steps/s with
training rows written to a feature file.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.flight import finite
from deploy_kit.flight.rollout import rollout
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env

WARM_UP = 20


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(num_envs: int, steps: int, device: str, checkpoint: Path) -> dict[str, Any]:
    """Measure one number of environments."""
    options = EnvOptions(num_envs=num_envs, device=device, seed=1)
    started = time.monotonic()
    env = make_env(options, backend="isaaclab")
    row: dict[str, Any] = {"num_envs": num_envs, "build_s": time.monotonic() - started}
    actions = torch.zeros(num_envs, 4, device=device)
    for name in ("warm_up", "simulator"):
        synchronise(device)
        started = time.monotonic()
        for _ in range(WARM_UP if name == "warm_up" else steps):
            env.step(actions)
        synchronise(device)
    row["simulator"] = steps * num_envs / (time.monotonic() - started)
    network = load_checkpoint(checkpoint).network.to(device)
    late = finite.LATE_DEVICES
    # By turns, since a machine's speed drifts.
    for name in ("with_policy_waiting", "with_policy", "with_policy_waiting", "with_policy"):
        finite.LATE_DEVICES = () if name.endswith("waiting") else late
        for record in rollout(env, network, WARM_UP + steps, go_on_broken=True):
            if record.step == WARM_UP - 1:
                synchronise(device)
                started, cpu = time.monotonic(), time.process_time()
        synchronise(device)
        seconds = time.monotonic() - started
        row[name] = max(row.get(name, 0.0), steps * num_envs / seconds)
        row[f"{name}_step_ms"] = 1000 * seconds / steps
        row[f"{name}_host"] = (time.process_time() - cpu) / seconds
    finite.LATE_DEVICES = late
    env.close()
    with tempfile.TemporaryDirectory() as folder:
        result = collect(
            CollectOptions(
                checkpoint=checkpoint,
                feature_file=Path(folder) / "features.h5",
                env=options,
                backend="isaaclab",
                heldout_episodes=0,
                keep_observations=0,
                max_steps=steps,
            )
        )
    row["collect"], row["collect_s"] = result.env_steps / result.seconds, result.seconds
    return row


def main() -> None:
    """Parse the command line and print one JSON line a number of environments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(folder) / "random.safetensors"
            save_safetensors(checkpoint, VisionActorCritic(NetworkConfig()))
        for num_envs in arguments.num_envs:
            print(json.dumps(measure(num_envs, arguments.steps, arguments.device, checkpoint)), flush=True)


if __name__ == "__main__":
    main()
