"""Live rollouts of any policy: artifact beside checkpoint in the user's task, each with a state an environment."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy_kit.bundle.parity import ParityComparison
from deploy_kit.bundle.policy_runners import PolicyOnnxRunner, row_matrix
from deploy_kit.bundle.policy_tensors import ACTIONS
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs
from deploy_kit.errors import TaskError
from deploy_kit.flight.rollout import require_checkpoint
from deploy_kit.progress import Progress
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.policy.artifacts import PolicyArtifacts
from deploy_kit.verify.policy.sequences import at_reset, state_outputs_of
from deploy_kit.verify.policy.subject import PolicySubject
from deploy_kit.verify.report import Check, NotRun

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

MODES: tuple[str, ...] = ("shadow", "driving")
"""Of the live modes, those that such policies have: who drives, while the other computes along."""

_MOST_STEPS = 2000


def live_checks(
    subject: PolicySubject, artifacts: PolicyArtifacts, options: VerifyOptions, progress: Callable[[Progress], None]
) -> Iterator[Check]:
    """Yield the checks of live rollouts, or why they were not run.

    Args:
        subject: bundle and checkpoint.
        artifacts: what could be opened.
        options: task, episodes, modes, runtime.
        progress: told what is being done.

    Raises:
        TaskError: the task is unknown, or does not fit the policy.
    """
    for mode in MODES:
        name = f"live/{mode}"
        if not options.live:
            yield NotRun(name, "--no-live", "--no-live")
        elif mode not in options.live_modes:
            yield NotRun(name, "not among the live modes asked for", "--live-mode")
        elif options.task == TASK_ID and options.backend == "mujoco":
            yield NotRun(name, "no task of this policy is named: give --task MODULE:FACTORY, or --no-live")
        elif artifacts.onnx is None or subject.misfit is not None:
            yield NotRun(name, subject.misfit or "the ONNX graph was not opened")
        else:
            progress(Progress(name, 0))
            yield _flown(subject, artifacts.onnx, options, mode)


def _flown(subject: PolicySubject, model: bytes, options: VerifyOptions, mode: str) -> Check:
    """Roll out until every environment has ended an episode, and compare each step of all of them."""
    settings = replace(options.env or EnvOptions(), num_envs=options.episodes)
    spec = subject.checkpoint.network.spec
    env = make_env(settings, options.task, options.backend, groups=tuple(group.name for group in spec.groups))
    drives = "the checkpoint drives" if mode == "shadow" else "the ONNX graph drives"
    described = f"{options.episodes} environments of {options.task}, a state each; {drives}"
    comparison = ParityComparison(f"live/{mode}", described, subject.roles, subject.semantics)
    try:
        require_checkpoint(env, subject.checkpoint, options.task)
        runner = PolicyOnnxRunner(model, subject.contract, options.runtimes[0])
        _roll(env, subject, runner, comparison, mode)
    except ArtifactError as error:
        comparison.fail(str(error))
    finally:
        if hasattr(env, "close"):
            env.close()
    count = options.episodes
    return comparison.result(lambda row: f"step {row // count} of environment {row % count}", subject.note)


def _roll(
    env: "VecEnv", subject: PolicySubject, runner: PolicyOnnxRunner, comparison: ParityComparison, mode: str
) -> None:
    names = state_outputs_of(subject.contract)
    reference = subject.reference
    state = theirs = reference.initial_state(env.num_envs)
    ended = np.zeros(env.num_envs, np.bool_)
    observation = env.get_observations()
    for step in range(_MOST_STEPS):
        groups = {group.name: _numbers(observation[group.name], step) for group in subject.contract.groups}
        expected, given = reference(groups, state), runner(groups, theirs)
        comparison.add(_rows(expected, names), _rows(given, names))
        action = expected[ACTIONS] if mode == "shadow" else given[ACTIONS]
        if not np.isfinite(action).all():
            raise ArtifactError(f"an action is not finite at step {step}: the rollout ends there")
        observation, _, dones, _ = env.step(torch.from_numpy(action.copy()).to(env.device))
        done = dones.bool().cpu().numpy()
        state = at_reset(tuple(expected[name] for name in names), done)
        theirs = at_reset(tuple(np.asarray(given[name], np.float32) for name in names), done)
        ended |= done
        if ended.all():
            return


def _numbers(values: torch.Tensor, step: int) -> Float32:
    numbers: Float32 = values.detach().cpu().numpy().astype(np.float32, copy=True)
    if not np.isfinite(numbers).all():
        raise TaskError(f"the simulator's observation is not finite at step {step}; the task's physics fail there")
    return numbers


def _rows(outputs: Outputs, state_outputs: tuple[str, ...]) -> Outputs:
    return {name: row_matrix(values, state=name in state_outputs) for name, values in outputs.items()}
