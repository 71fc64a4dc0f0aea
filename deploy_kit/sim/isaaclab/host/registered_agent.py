"""The agent that a task registers for rsl_rl: what it asks of a rollout, and whether it flies a policy as we do."""

import copy
import logging
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict
from torch import Tensor, nn

from deploy_kit.errors import CheckpointError, DeployKitError, TaskError
from deploy_kit.policy.checkpoint import Checkpoint, CheckpointFormat
from deploy_kit.policy.network import NetworkConfig
from deploy_kit.policy.rsl_rl_models import VisionActor
from deploy_kit.policy.run.params import RunParams
from deploy_kit.sim.isaaclab.host.registration import AGENT_KEY, entry_point, registers_agent
from deploy_kit.sim.isaaclab.host.stdout import to_log

logger = logging.getLogger(__name__)

_ROWS = 16
"""Environments whose first observations the restored policy is tried on."""

_TOLERANCE = 1e-4
"""Absolute and relative. Two float32 implementations of one network agree far better, two networks do not."""

_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What rsl_rl and classes of the user's own raise on a configuration or a file that does not fit."""


class RegisteredAgent:
    """A task's agent configuration, as far as a rollout depends on it.

    Args:
        task: Gymnasium id.
        config: rsl_rl's configuration of a runner, None if the task registers none.

    Attributes:
        task: Gymnasium id.
        clip_actions: limit of every action's size, None for none.
    """

    def __init__(self, task: str, config: Mapping[str, Any] | None) -> None:
        self.task, self._config = task, config
        self.clip_actions: float | None = None if config is None else config.get("clip_actions")

    def groups(self, observations: TensorDict) -> list[str]:
        """Return the observation groups that the actor reads, in its order, by rsl_rl's rules.

        Raises:
            TaskError: the configuration gives the actor's groups under the name that they had in rsl_rl 3.
        """
        sets = (self._config or {}).get("obs_groups")
        if not isinstance(sets, Mapping):
            sets = {}
        if "actor" in sets:
            return list(sets["actor"])
        groups = ["actor"] if self._config is not None and "actor" in observations else ["policy"]
        if list(sets.get("policy", groups)) != groups:
            raise TaskError(
                f"task {self.task!r}: obs_groups of the agent that it registers has no set 'actor', so rsl_rl 5 gives "
                f"the actor {groups}; rename its set 'policy', as rsl_rl 3 called it, to 'actor'"
            )
        return groups

    def with_policy_group(self, observations: TensorDict) -> TensorDict:
        """Return the observations with the actor's groups, one after another, as group `policy`.

        Raises:
            TaskError: the task lacks a group, or one is not flat, or the groups' set has an old name.
        """
        groups = self.groups(observations)
        if groups == ["policy"]:
            return observations
        shapes = {name: tuple(value.shape) for name, value in observations.items()}
        for group in groups:
            if len(shapes.get(group, ())) != 2:
                offered = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise TaskError(
                    f"task {self.task!r}: the agent that it registers reads observation group {group!r}, which must "
                    f"be there and flat, (num_envs, numbers); the task offers {offered}"
                )
        fused = torch.cat([observations[group] for group in groups], dim=-1)
        return TensorDict({**observations, "policy": fused}, batch_size=observations.batch_size)

    def require_policy(self, env: RslRlVecEnvWrapper, checkpoint: Checkpoint) -> None:
        """Check that the agent is the one that a policy was trained with.

        What the run recorded beside the checkpoint must say the same. A checkpoint of rsl_rl 5 is also restored by
        rsl_rl itself, from what was read of the file as plain data, and must act as the network that flies.

        Args:
            env: the task's environment.
            checkpoint: the policy.

        Raises:
            TaskError: the run was trained with other groups or another limit, rsl_rl cannot build the agent, or it
                acts otherwise.
            CheckpointError: rsl_rl cannot restore the checkpoint into the agent.
        """
        sample = _Sample(env)
        self.require_run(sample.observations, checkpoint.params, checkpoint.path)
        if self._config is None or checkpoint.format is not CheckpointFormat.RSL_RL_SPLIT:
            return
        # What follows must fly as if nothing had been checked: new layers draw their weights.
        device = torch.device(env.device)
        with to_log(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            theirs = self._restored_actions(sample, checkpoint)
        network = copy.deepcopy(checkpoint.network).to("cpu")
        with torch.inference_mode():
            ours = network(self.with_policy_group(sample.observations)["policy"]).action
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise TaskError(
                f"task {self.task!r}: the agent that it registers acts otherwise than the run of {checkpoint.path} "
                "says; register the one that the run was trained with (activation, image shape, normaliser)"
            )

    def require_run(self, observations: TensorDict, run: RunParams, path: Path) -> None:
        """Check that the task flies with the groups and the limit of the actions that a run was trained with.

        Args:
            observations: as the task offers them.
            run: the run's parameters.
            path: the checkpoint, for messages.

        Raises:
            TaskError: the run was trained with others.
        """
        # In rsl_rl 3 the actor's set of groups was called "policy".
        trained = run.lookup("agent", "obs_groups", "actor") or run.lookup("agent", "obs_groups", "policy")
        here: list[tuple[str, Any, Any]] = []
        if trained is not None:
            here.append(("obs_groups", list(trained), self.groups(observations)))
        if "clip_actions" in (run.agent or {}):
            here.append(("clip_actions", run.lookup("agent", "clip_actions"), self.clip_actions))
        for name, recorded, registered in here:
            if recorded != registered:
                raise TaskError(
                    f"task {self.task!r} flies with {name} {registered}, but {path} was trained with "
                    f"{recorded} (params/agent.yaml); register that under {AGENT_KEY!r}"
                )

    def _restored_actions(self, sample: "_Sample", checkpoint: Checkpoint) -> Tensor:
        """Return what rsl_rl's inference policy does on the sample."""
        actor = self._restore(sample, checkpoint)
        try:
            with torch.inference_mode():
                actions: Tensor = actor(sample.observations).float()
        except _FAILURES as error:
            raise TaskError(
                f"task {self.task!r}: the actor that it registers fails on the task's observations: {_line(error)}"
            ) from error
        return actions

    def _restore(self, sample: "_Sample", checkpoint: Checkpoint) -> nn.Module:
        """Return rsl_rl's inference policy."""
        config: dict[str, Any] = copy.deepcopy(dict(self._config or {}))
        if (runner_class := config.get("class_name", "OnPolicyRunner")) != "OnPolicyRunner":
            raise TaskError(
                f"task {self.task!r} registers an agent of {runner_class!r}; policies of OnPolicyRunner can be flown"
            )
        try:
            # Neither storage nor compiled models are needed to act.
            config.update(num_steps_per_env=1, torch_compile_mode=None)
            model = resolve_callable(config["actor"]["class_name"])
            if isinstance(model, type) and issubclass(model, VisionActor):
                config["actor"].update(_sizes(checkpoint.network.config))
            runner = OnPolicyRunner(sample, config, log_dir=None, device="cpu")
        except (*_FAILURES, DeployKitError) as error:
            raise TaskError(f"task {self.task!r}: rsl_rl cannot build its agent: {_line(error)}") from error
        policy: nn.Module = runner.get_inference_policy(device="cpu")
        known = policy.state_dict()
        # A gate head that finetuning added is unknown to an actor without one.
        tensors = {
            name: tensor
            for name, tensor in checkpoint.entries["actor_state_dict"].items()
            if name in known or not name.startswith("aux_decoder.")
        }
        try:
            runner.alg.load({**checkpoint.entries, "actor_state_dict": tensors}, {"actor": True}, strict=True)
        except _FAILURES as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit the agent that task {self.task!r} registers: {_line(error)}"
            ) from error
        return policy


def registered_agent(task: str) -> RegisteredAgent:
    """Return the agent that a task registers for rsl_rl.

    Raises:
        TaskError: the task is not registered, or its agent's configuration cannot be loaded.
    """
    if not registers_agent(task):
        logger.info("task %r registers no %r: actions are not clipped", task, AGENT_KEY)
        return RegisteredAgent(task, None)
    found = entry_point(task, AGENT_KEY)
    if not isinstance(found, Mapping):
        try:
            with to_log():
                found = handle_deprecated_rsl_rl_cfg(found, version("rsl-rl-lib")).to_dict()
        except _FAILURES as error:
            raise TaskError(f"task {task!r}: {AGENT_KEY} is no agent of rsl_rl: {_line(error)}") from error
    return RegisteredAgent(task, found)


class _Sample:
    """What rsl_rl's runner asks of an environment that it does not step: a few observations, on the CPU."""

    device = "cpu"

    def __init__(self, env: RslRlVecEnvWrapper) -> None:
        # As the task offers them: a subclass may show other groups.
        self.observations: TensorDict = RslRlVecEnvWrapper.get_observations(env)[:_ROWS].cpu()
        self.num_envs, self.num_actions = len(self.observations), env.num_actions
        self.cfg, self.unwrapped = env.cfg, env.unwrapped

    def get_observations(self) -> TensorDict:
        return self.observations


def _sizes(config: NetworkConfig) -> dict[str, Any]:
    """Return the options of `VisionActor` that stand in the weights, which the registration need not repeat."""
    return {
        "hidden_dims": list(config.actor_hidden),
        "stem": [(block.channels, block.kernel) for block in config.stem],
        "feature_size": config.feature_size,
        "gate_head": config.gate_head,
    }


def _line(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__
