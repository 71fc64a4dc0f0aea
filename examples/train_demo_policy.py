"""Train the demo policy from random weights: rsl_rl's PPO on the racing task, stage after stage, on Isaac Lab.

    python examples/train_demo_policy.py runs/demo --num-envs 4096 --steps 25e6 100e6
    python examples/train_demo_policy.py runs/demo --num-envs 4096 --steps 25e6 200e6 --resume runs/demo/model_999.pt
    torchrun --nproc_per_node 2 examples/train_demo_policy.py runs/demo …        # several GPUs

`--steps` says how many environment steps in all have been flown when stage 0, stage 1, … ends. Checkpoints
(`model_<iteration>.pt`, read by every deploy-kit command), `params/agent.yaml` and TensorBoard logs go to the folder
named first. A run that was stopped goes on from any checkpoint, in the stage and with the gate noise that it had.
"""

import argparse
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch
from isaaclab.utils.io import dump_yaml
from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg
from rsl_rl.runners import OnPolicyRunner

from deploy_kit.sim.isaaclab.agent import racing_agent_cfg
from deploy_kit.sim.isaaclab.race import race_of
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env


class DemoRunner(OnPolicyRunner):  # type: ignore[misc]  # rsl_rl carries no types
    """rsl_rl's runner, whose checkpoints also hold what the task has learnt to ask of the policy.

    Attributes:
        steps_before: environment steps flown before this runner began.
    """

    steps_before = 0

    @property
    def env_steps(self) -> int:
        """Environment steps flown, on all GPUs and in all stages."""
        return self.steps_before + int(self.logger.tot_timesteps)

    def save(self, path: str, infos: dict[str, Any] | None = None) -> None:
        """Write a checkpoint."""
        noise = float(race_of(self.env.unwrapped).gate_noise.mean())
        super().save(path, {**(infos or {}), "env_steps": self.env_steps, "gate_noise": noise})

    def resume(self, saved: dict[str, Any], same_stage: bool) -> None:
        """Go on from a checkpoint's contents."""
        self.alg.load(saved, None, strict=True)
        self.current_learning_iteration = saved["iter"] + 1
        self.steps_before = saved["infos"]["env_steps"]
        if same_stage:
            race_of(self.env.unwrapped).gate_noise.fill_(saved["infos"]["gate_noise"])


def fly_stage(arguments: argparse.Namespace, stage: int, saved: dict[str, Any] | None) -> dict[str, Any]:
    """Train in one stage until its steps are flown; returns the contents of the last checkpoint."""
    rank, workers = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = f"cuda:{rank}" if workers > 1 else arguments.device
    options = EnvOptions(
        num_envs=arguments.num_envs,
        seed=arguments.seed + rank,
        stage=stage,
        episodes_per_track=1,
        device=device,
        track_pool=arguments.track_pool,
    )
    env = make_env(options, backend="isaaclab")
    agent = handle_deprecated_rsl_rl_cfg(racing_agent_cfg(), importlib.metadata.version("rsl-rl-lib"))
    agent.save_interval, agent.seed, agent.device = arguments.save_interval, arguments.seed, device
    if rank == 0:
        dump_yaml(str(arguments.output / "params" / "agent.yaml"), agent)
    torch.manual_seed(options.seed)
    runner = DemoRunner(env, agent.to_dict(), log_dir=str(arguments.output), device=device)
    if saved is not None:
        flown = saved["infos"]["env_steps"]
        runner.resume(saved, same_stage=stage == 0 or flown > arguments.steps[stage - 1])
    batch = arguments.num_envs * agent.num_steps_per_env * workers
    iterations = max(1, round((arguments.steps[stage] - runner.steps_before) / batch))
    runner.learn(iterations, init_at_random_ep_len=True)
    last = {**runner.alg.save(), "iter": runner.current_learning_iteration, "infos": {"env_steps": runner.env_steps}}
    env.close()
    return last


def main() -> None:
    """Parse the command line and fly the stages that are not over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of checkpoints and logs")
    parser.add_argument("--steps", type=float, nargs="+", default=[25e6, 100e6], help="env steps at each stage's end")
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from")
    parser.add_argument("--num-envs", type=int, default=4096, help="environments on each GPU")
    parser.add_argument("--track-pool", type=int, help="tracks to draw from (default: 512)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--save-interval", type=int, default=25, help="iterations between checkpoints")
    arguments = parser.parse_args()
    (arguments.output / "params").mkdir(parents=True, exist_ok=True)
    saved = None
    if arguments.resume is not None:
        saved = torch.load(arguments.resume, map_location="cpu", weights_only=True)
    for stage, end in enumerate(arguments.steps):
        if saved is None or saved["infos"]["env_steps"] < end:
            saved = fly_stage(arguments, stage, saved)


if __name__ == "__main__":
    main()
