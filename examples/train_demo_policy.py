"""Train the demo policy from random weights: rsl_rl's PPO on the racing task, stage after stage, on Isaac Lab.

    python examples/train_demo_policy.py runs/demo --num-envs 4096 --steps 8e6 80e6
    python examples/train_demo_policy.py runs/demo --num-envs 4096 --steps 8e6 200e6 --resume runs/demo/model_800.pt

`--steps` says how many environment steps in all have been flown when stage 0, stage 1, … ends. Checkpoints
(`model_<iteration>.pt`, read by every deploy-kit command), `params/agent.yaml` and TensorBoard logs go to the folder
named first. A run that was stopped goes on from any checkpoint, in the stage and with the gate noise that it had.

The task is the one that `deploy-kit fly` flies. By default the tracks lie in ten levels of difficulty, between which a
drone moves with its success, as in MasterRacing; `--no-levels` draws a track of any difficulty for every episode.
What is rewarded while training differs from MasterRacing's stages:
- Closing in on the gate is rewarded by speed, beside MasterRacing's reward for its direction.
- In stage 0 the drone is solid, a crash ends the episode, and changes of the command cost a tenth. With MasterRacing's
  weights the noise of a new policy costs more than flying earns, and PPO learns to end each episode as soon as it can.
- In stage 1 the noise on commanded gates grows five times as fast as MasterRacing's, to the noise of stage 2.
- In stage 2 a crash costs more (`--crash-weight`), so that the policy slows down among obstacles.

`--weights CHECKPOINT` begins with the weights of a policy that is there (any file that `--checkpoint` of deploy-kit's
commands takes, or `demo`) instead of random ones; give `--steps 0 0 80e6` to train it in stage 2 alone.
"""

import argparse
import importlib.metadata
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from isaaclab.managers import CurriculumTermCfg, RewardTermCfg
from isaaclab.utils.io import dump_yaml
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict
from torch import Tensor

from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.rsl_rl_models import VisionActor, VisionCritic
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.sim.isaaclab.host.launch import launch, parse_launcher
from deploy_kit.sim.isaaclab.host.registration import register
from deploy_kit.sim.isaaclab.racing.agent import racing_agent_cfg
from deploy_kit.sim.isaaclab.racing.config import racing_env_cfg
from deploy_kit.sim.isaaclab.racing.race import race_of
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import RACING_TASK, STAGES, TASK_ID, NoiseCurriculum, Stage

MOST_GATE_NOISE = STAGES[2].gate_noise
"""Half width at which the noise on commanded gates stops growing, m."""

TRAINING_STAGES = (
    replace(STAGES[0], ends_on_crash=True, colliders=True, rewards=replace(STAGES[0].rewards, command_change=-0.001)),
    replace(STAGES[1], curriculum=NoiseCurriculum(grow=1.05, shrink=0.95)),
    STAGES[2],
)


def closing_speed(env: Any) -> Tensor:
    """Return the speed towards the gate, m/s, (N,)."""
    outcome = race_of(env).judge()
    return (outcome.velocity * torch.nn.functional.normalize(outcome.to_gate, dim=-1)).sum(dim=-1)


def limit_gate_noise(env: Any, env_ids: Any) -> None:
    """Keep the curriculum from asking for more than stage 2 does."""
    race_of(env).gate_noise.clamp_(max=MOST_GATE_NOISE)


def training_stages(crash_weight: float) -> tuple[Stage, ...]:
    """Return the stages with a collision's weight in the last one."""
    *first, last = TRAINING_STAGES
    return (*first, replace(last, rewards=replace(last.rewards, collision=crash_weight)))


def make_training_env(options: EnvOptions, stages: tuple[Stage, ...], closing_weight: float) -> RslRlVecEnvWrapper:
    """Build the racing task with the rewards of training, in stage 0.

    Args:
        options: options of the environments.
        stages: training stages.
        closing_weight: reward per second for each m/s towards the gate.
    """
    register()
    cfg = racing_env_cfg(options, replace(RACING_TASK, stages=stages))
    cfg.rewards["closing_speed"] = RewardTermCfg(func=closing_speed, weight=closing_weight)
    cfg.curriculum.limit = CurriculumTermCfg(func=limit_gate_noise)
    launch(cfg, parse_launcher((), options.device))
    return RslRlVecEnvWrapper(gymnasium.make(TASK_ID, cfg=cfg))


def enter_stage(env: RslRlVecEnvWrapper, stage: Stage) -> None:
    """Put the stage's rewards, endings and noise in force. Building the tracks anew would take a minute."""
    race, rewards = race_of(env.unwrapped), env.unwrapped.reward_manager
    race.stage = stage
    race.gate_noise.fill_(race.stage.gate_noise)
    for name, weight in asdict(race.stage.rewards).items():
        rewards.set_term_cfg(name, replace(rewards.get_term_cfg(name), weight=weight))


def agent_cfg(seed: int, device: str, save_interval: int, init_std: float) -> dict[str, Any]:
    """Return the task's own agent with the settings that learnt fastest."""
    agent = handle_deprecated_rsl_rl_cfg(racing_agent_cfg(), importlib.metadata.version("rsl-rl-lib"))
    agent.seed, agent.device, agent.save_interval = seed, device, save_interval
    agent.actor.distribution_cfg.init_std = init_std
    # One observation for both, so that one pass through the stem serves both (see `share_features`).
    agent.obs_groups = {"actor": ["policy"], "critic": ["policy"]}
    agent.algorithm.num_mini_batches = 8
    agent.algorithm.entropy_coef = 0.002
    # A crash costs more than the clip lets the value change in an update.
    agent.algorithm.use_clipped_value_loss = False
    return dict(agent.to_dict())


def share_features(actor: VisionActor, critic: VisionCritic, *, fast: bool) -> None:
    """Let the critic read the features that the actor has just computed from the same observations.

    Args:
        actor: the actor.
        critic: the critic, which shares the actor's stem.
        fast: whether the stem is compiled and runs in bfloat16; the weights stay float32.
    """
    encode = torch.compile(actor.cnns.forward, dynamic=False) if fast else actor.cnns.forward
    read_actor, read_critic = actor.get_latent, critic.get_latent
    last: list[tuple[TensorDict, Tensor]] = []

    def forward(observation: Tensor) -> Tensor:
        with torch.autocast(observation.device.type, dtype=torch.bfloat16, enabled=fast):
            features: Tensor = encode(observation)
        return features.float()

    def get_latent(obs: TensorDict, masks: Tensor | None = None, hidden_state: Any = None) -> Tensor:
        features: Tensor = read_actor(obs, masks, hidden_state)
        last[:] = [(obs, features)]
        return features

    def get_shared_latent(obs: TensorDict, masks: Tensor | None = None, hidden_state: Any = None) -> Tensor:
        # Used once: after a step of the optimiser the same observations have other features.
        if last and last[0][0] is obs:
            return last.pop()[1]
        features: Tensor = read_critic(obs, masks, hidden_state)
        return features

    actor.cnns.forward, actor.get_latent, critic.get_latent = forward, get_latent, get_shared_latent


def load_weights(actor: VisionActor, critic: VisionCritic, path: str) -> None:
    """Begin with the weights of a policy that is there."""
    tensors = load_checkpoint(DEMO_POLICY if path == "demo" else Path(path)).network.state_dict()
    for model, head in ((actor, "actor."), (critic, "critic.")):
        names = {name: name.replace("mlp.", head) for name in model.state_dict() if not name.startswith("distribution")}
        model.load_state_dict({name: tensors[own] for name, own in names.items()}, strict=False)


class DemoRunner(OnPolicyRunner):  # type: ignore[misc]  # rsl_rl carries no types
    """rsl_rl's runner, whose checkpoints also hold the experience so far, the stage, and where the curriculum stands.

    Attributes:
        steps_before: environment steps flown before this runner began.
        stage: the stage that is trained in.
    """

    steps_before = 0
    stage = 0

    @property
    def env_steps(self) -> int:
        """Environment steps flown, in all stages."""
        return self.steps_before + int(self.logger.tot_timesteps)

    def save(self, path: str, infos: dict[str, Any] | None = None) -> None:
        """Write a checkpoint."""
        noise = float(race_of(self.env.unwrapped).gate_noise.mean())
        stands = {"env_steps": self.env_steps, "stage": self.stage, "gate_noise": noise}
        super().save(path, {**(infos or {}), **stands})

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint's contents."""
        self.alg.load(saved, None, strict=True)
        self.current_learning_iteration = saved["iter"] + 1
        self.steps_before = saved["infos"]["env_steps"]


def stage_of(infos: dict[str, Any], steps: list[float]) -> int:
    """Return the stage that a checkpoint was written in.

    Args:
        infos: of the checkpoint. Older ones do not tell the stage, only the environment steps.
        steps: environment steps at each stage's end.
    """
    return int(infos.get("stage", sum(infos["env_steps"] > ends for ends in steps[:-1])))


def train(arguments: argparse.Namespace) -> None:
    """Train in the stages that are not over."""
    options = EnvOptions(
        num_envs=arguments.num_envs,
        seed=arguments.seed,
        stage=0,
        episodes_per_track=0 if arguments.levels else 1,
        levels=arguments.levels,
        device=arguments.device,
        track_pool=arguments.track_pool,
    )
    stages = training_stages(arguments.crash_weight)
    env = make_training_env(options, stages, arguments.closing_weight)
    agent = agent_cfg(options.seed, options.device, arguments.save_interval, arguments.init_std)
    dump_yaml(str(arguments.output / "params" / "agent.yaml"), agent)
    torch.manual_seed(options.seed)
    # What cuDNN does with convolutions anyway.
    torch.backends.cuda.matmul.allow_tf32 = True
    runner = DemoRunner(env, agent, log_dir=str(arguments.output), device=options.device)
    share_features(runner.alg.actor, runner.alg.critic, fast=arguments.fast)
    if arguments.weights is not None:
        load_weights(runner.alg.actor, runner.alg.critic, arguments.weights)
    saved = None
    if arguments.resume is not None:
        saved = torch.load(arguments.resume, map_location="cpu", weights_only=True)
        runner.resume(saved)
    batch = arguments.num_envs * agent["num_steps_per_env"]
    for stage, ends in enumerate(arguments.steps):
        iterations = round((ends - runner.env_steps) / batch)
        if iterations > 0:
            enter_stage(env, stages[stage])
            runner.stage = stage
            # A stage's last checkpoint has its noise, not that of the next stage.
            if saved is not None and stage_of(saved["infos"], arguments.steps) == stage:
                race_of(env.unwrapped).gate_noise.fill_(saved["infos"]["gate_noise"])
            runner.learn(iterations, init_at_random_ep_len=stage == 0)
            runner.current_learning_iteration += 1
    env.close()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of checkpoints and logs")
    parser.add_argument("--steps", type=float, nargs="+", default=[8e6, 80e6], help="env steps at each stage's end")
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from")
    parser.add_argument("--crash-weight", type=float, default=-300.0, help="weight of a collision in stage 2")
    parser.add_argument(
        "--closing-weight", type=float, default=0.5, help="reward per second for each m/s towards the gate"
    )
    parser.add_argument("--fast", action="store_true", help="compile the stem and run it in bfloat16")
    parser.add_argument("--weights", help="policy whose weights to begin with, `demo` for the one that comes along")
    parser.add_argument("--init-std", type=float, default=0.5, help="standard deviation of the action at first")
    parser.add_argument("--num-envs", type=int, default=4096, help="environments side by side")
    parser.add_argument("--track-pool", type=int, default=640, help="tracks to draw from, or in all levels")
    parser.add_argument("--no-levels", dest="levels", action="store_false", help="tracks of any difficulty for all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--save-interval", type=int, default=25, help="iterations between checkpoints")
    arguments = parser.parse_args()
    if len(arguments.steps) > len(TRAINING_STAGES):
        parser.error(f"--steps: there are {len(TRAINING_STAGES)} stages")
    (arguments.output / "params").mkdir(parents=True, exist_ok=True)
    train(arguments)


if __name__ == "__main__":
    main()
