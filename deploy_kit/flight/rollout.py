"""The one rollout loop that collect, fly and verify share."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from deploy_kit.errors import TaskError
from deploy_kit.flight.finite import FiniteCheck
from deploy_kit.flight.policy_driver import flat_observation, require_groups
from deploy_kit.policy.any_policy import AnyCheckpoint
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.policy.protocol import ObservationGroup
from deploy_kit.policy.run.resolve_task import require_same_interface
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import RACING_TASK

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv


SINGLE_THREAD_ENVS = 128
"""Environments up to which one torch thread drives."""


class Driver(Protocol):
    """Whatever turns observations into actions: a network, or an exported artifact.

    One that reads other observation groups than `policy` names them in `groups`, and one that remembers has `reset`,
    which is given (N,) bool where an episode has ended; see `PolicyDriver`.
    """

    def __call__(self, observation: Tensor) -> PolicyOutput:
        """Return the output for flat observations (N, 6928)."""


@dataclass(frozen=True)
class StepRecord:
    """One step of all environments.

    Attributes:
        step: index of the step since the rollout began.
        observation: (N, 6928) what the policy saw before the step; of several groups one after another.
        output: what the driver made of it.
        label: (N,) bool, whether this step passed the gate, judged before any automatic reset.
        done: (N,) bool, whether the episode ended with this step.
        time_out: (N,) bool, whether it ended because its time was over.
        extras: what else the environment reports of this step (``track_id``, ``crashed``, … where it has them).
        broken: (N,) bool, where the observation was not finite; None if it was everywhere.
    """

    step: int
    observation: Tensor
    output: PolicyOutput
    label: Tensor
    done: Tensor
    time_out: Tensor
    extras: dict[str, Any]
    broken: Tensor | None = None


def require_checkpoint(env: "VecEnv", checkpoint: AnyCheckpoint, task: str) -> None:
    """Check that a checkpoint's policy can fly in an environment, and flies there as it was trained to.

    Raises:
        TaskError: sizes differ, or the environment knows the agent that was trained in it and it is another one.
        CheckpointError: that agent cannot be restored from the checkpoint, or the environment describes itself and its
            terms or joints are not those that the run was trained with.
    """
    if isinstance(checkpoint, PolicyCheckpoint):
        spec = checkpoint.network.spec
        require_groups(env, spec.groups, spec.num_actions, task)
        if hasattr(env, "require_run"):
            env.require_run(checkpoint.params, checkpoint.path)
        if callable(describe := getattr(env, "interface", None)):
            require_same_interface(checkpoint.params, describe(), task)
    else:
        config = checkpoint.network.config
        require_interface(env, config.layout, config.num_actions, task)
    # Isaac Lab's tasks register an agent.
    if hasattr(env, "require_policy"):
        env.require_policy(checkpoint)


def require_interface(env: "VecEnv", layout: ObservationLayout, num_actions: int, task: str) -> None:
    """Check that an environment gives the observation that a policy takes, and takes the actions that it gives.

    Raises:
        TaskError: the sizes differ.
    """
    offered = env.get_observations()["policy"].shape[1]
    if offered != layout.size:
        raise TaskError(
            f"task {task!r}: observation group 'policy' has {offered} numbers, the policy takes {layout.size} "
            f"({layout.state_size} state, {layout.image_shape[0]}x{layout.image_shape[1]} image)"
        )
    if env.num_actions != num_actions:
        raise TaskError(f"task {task!r} takes {env.num_actions} actions, the policy gives {num_actions}")


def policy_period(env: "VecEnv") -> float:
    """Return the seconds of one step: what the task says (`step_dt`), else the racing task's."""
    own = getattr(env, "step_dt", RACING_TASK.clock.policy_dt)
    return float(getattr(getattr(env, "unwrapped", None), "step_dt", own))


def _float32(device: torch.device) -> AbstractContextManager[None]:
    """Keep convolutions on a GPU in float32 and repeatable: TF32, cuDNN's default, moves features by 1e-3."""
    if device.type != "cuda":
        return nullcontext()
    return cast(
        AbstractContextManager[None],
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    )


def rollout(
    env: "VecEnv", driver: Driver, max_steps: int | None = None, go_on_broken: bool = False
) -> Iterator[StepRecord]:
    """Fly all environments with one driver and yield every step.

    Args:
        env: vector environment with observation groups ``policy`` and ``auxiliary``.
        driver: maps observations (N, 6928) to actions.
        max_steps: stop after this many steps, None to go on for ever.
        go_on_broken: go on where an environment's observation is not finite, with zeros in its place, and say so in
            the record.

    Yields:
        One record a step.

    Raises:
        TaskError: an observation is not finite (with `go_on_broken`: all of them), or an action.
    """
    with _threads_for(env):
        yield from _steps(env, driver, max_steps, go_on_broken)


@contextmanager
def _threads_for(env: "VecEnv") -> Iterator[None]:
    """Keep torch to one thread beside a simulator on the CPU while batches are small.

    Idle torch threads spin on the cores that the simulator's threads need: at 16 environments on a busy machine, four
    of them cost nine tenths of the speed.
    """
    before = torch.get_num_threads()
    if torch.device(env.device).type == "cpu" and env.num_envs <= SINGLE_THREAD_ENVS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _label(observations: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return the labels of a step; a task without labels, which may fly but not be collected from, has none."""
    if "auxiliary" not in observations:
        return torch.zeros_like(like)
    return observations["auxiliary"][:, 0] > 0.5


def _steps(env: "VecEnv", driver: Driver, max_steps: int | None, go_on_broken: bool) -> Iterator[StepRecord]:
    groups: tuple[ObservationGroup, ...] | None = getattr(driver, "groups", None)
    forget = getattr(driver, "reset", None)

    def seen(observations: Mapping[str, Tensor]) -> Tensor:
        # Environments may reuse their buffers, and a record is read after the step that consumed its observation: copy.
        return (observations["policy"] if groups is None else flat_observation(observations, groups)).clone()

    observation, check = seen(env.get_observations()), FiniteCheck(go_on_broken)
    step = 0
    while max_steps is None or step < max_steps:
        check.take(observation, step)
        with torch.inference_mode():
            with _float32(observation.device):
                output = driver(observation)
            check.take_action(output.action, step)
            following, _, dones, extras = env.step(output.action)
        broken = check.verdict(step)
        # A bool tensor is its own .bool(), and environments may reuse it.
        done = dones.bool().clone()
        if forget is not None:
            forget(done)
        time_out = extras.get("time_outs")
        yield StepRecord(
            step=step,
            observation=observation,
            output=output,
            label=_label(following, done),
            done=done,
            time_out=torch.zeros_like(done) if time_out is None else time_out.bool().clone(),
            extras=extras,
            broken=broken,
        )
        observation = seen(following)
        step += 1
