"""Tasks of the user's own, with the observation groups that the pipeline reads."""

from pathlib import Path
from typing import Any

import gymnasium
import torch
from isaaclab.envs import DirectMARLEnv
from tensordict import TensorDict

from deploy_kit.errors import TaskError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.run.params import RunParams
from deploy_kit.sim.isaaclab.host.env import IsaacLabEnv
from deploy_kit.sim.isaaclab.host.interface import task_interface
from deploy_kit.sim.isaaclab.host.registered_agent import RegisteredAgent

_LABEL = "auxiliary"


class IsaacLabUserEnv(IsaacLabEnv):
    """A registered task: its group `policy` is what the agent that it registers reads, groups and order.

    A multi-agent task, seen as one agent, gets its label from the entry `auxiliary` that stands beside the agents' own
    in its observations; Isaac Lab's conversion would drop it.

    Args:
        env: as Isaac Lab builds it, or as `multi_agent_to_single_agent` gives it.
        agent: the agent that the task registers.

    Attributes:
        own_groups: whether observations keep the task's own groups as they are, for policies that read several.
    """

    def __init__(self, env: Any, agent: RegisteredAgent) -> None:
        super().__init__(_TellTimeOuts(env), agent)
        self.own_groups = False

    def require_policy(self, checkpoint: Checkpoint) -> None:
        """Check that the task's agent flies a policy as deploy-kit does; see `RegisteredAgent.require_policy`."""
        self.agent.require_policy(self, checkpoint)

    def require_run(self, run: RunParams, path: Path) -> None:
        """Check that the task's agent flies as a run was trained; see `RegisteredAgent.require_run`."""
        self.agent.require_run(super().get_observations(), run, path)

    def interface(self) -> dict[str, Any]:
        """Return what the task's managers say of observations and actions; see `task_interface`."""
        return task_interface(self.unwrapped)

    def get_observations(self) -> TensorDict:
        """Return the current observations.

        Raises:
            TaskError: the task lacks a group that its agent reads, or a multi-agent task the label or its shape.
        """
        return self._shown(super().get_observations())

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step all environments, the actions clipped as the agent's configuration says."""
        observations, rewards, dones, extras = super().step(actions)
        return self._shown(observations), rewards, dones, extras

    def _shown(self, observations: TensorDict) -> TensorDict:
        agents = getattr(self.unwrapped, "env", None)
        if isinstance(agents, DirectMARLEnv):
            if _LABEL not in agents.obs_dict:
                raise TaskError(
                    f"task {self.agent.task!r} has several agents and no observation {_LABEL!r}; what its "
                    "_get_observations returns must hold it, (num_envs, 1), beside those of the agents"
                )
            label = agents.obs_dict[_LABEL]
            if tuple(label.shape) != (self.num_envs, 1):
                raise TaskError(
                    f"task {self.agent.task!r}: observation {_LABEL!r} beside those of the agents has shape "
                    f"{tuple(label.shape)}, not (num_envs, 1) ({self.num_envs} envs)"
                )
            observations[_LABEL] = label
        return observations if self.own_groups else self.agent.with_policy_group(observations)


class _TellTimeOuts(gymnasium.Wrapper):
    """Tells time-outs of tasks with a finite horizon too, whose learner is not to know: here they are no crashes."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, extras = self.env.step(action)
        return observations, rewards, terminated, truncated, {**extras, "time_outs": truncated}
