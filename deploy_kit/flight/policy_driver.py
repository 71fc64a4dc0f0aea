"""Lets any policy fly: observation groups as one row of numbers, and the memory of a recurrent policy."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deploy_kit.errors import TaskError
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.policy.protocol import ObservationGroup, PolicyNetwork, reset_state

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv


def flat_observation(observations: Mapping[str, Tensor], groups: Sequence[ObservationGroup]) -> Tensor:
    """Return observation groups as rows (N, numbers), one group after another, each row-major."""
    parts = [observations[group.name].flatten(1) for group in groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def split_observation(flat: Tensor, groups: Sequence[ObservationGroup]) -> dict[str, Tensor]:
    """Return the groups of rows that `flat_observation` made."""
    parts = torch.split(flat, [math.prod(group.shape) for group in groups], dim=1)
    return {group.name: part.reshape(-1, *group.shape) for group, part in zip(groups, parts, strict=True)}


def require_groups(env: "VecEnv", groups: Sequence[ObservationGroup], num_actions: int, task: str) -> None:
    """Check that an environment gives the observation groups that a policy reads, and takes its actions.

    Raises:
        TaskError: a group is missing or has another shape, or the numbers of actions differ.
    """
    observations = env.get_observations()
    shapes = {str(name): tuple(value.shape)[1:] for name, value in observations.items()}
    for group in groups:
        if shapes.get(group.name) != tuple(group.shape):
            offered = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise TaskError(
                f"task {task!r}: the policy reads observation group {group.name!r} of shape {tuple(group.shape)} "
                f"(without the environments), the task offers {offered}"
            )
    if env.num_actions != num_actions:
        raise TaskError(f"task {task!r} takes {env.num_actions} actions, the policy gives {num_actions}")


class PolicyDriver:
    """A policy in flight, with a state for each environment.

    Args:
        network: the policy, on the environments' device.

    Attributes:
        groups: what it reads.
    """

    def __init__(self, network: PolicyNetwork) -> None:
        self._network, self.groups = network, network.spec.groups
        self._state: tuple[Tensor, ...] | None = None

    def __call__(self, observation: Tensor) -> PolicyOutput:
        """Return the output for rows of `flat_observation`, and keep the state for the next step."""
        if self._state is None:
            self._state = self._network.initial_state(len(observation), observation.device)
        found = self._network(split_observation(observation, self.groups), self._state)
        self._state = found.state
        return PolicyOutput(found.action, found.head_logit, found.features)

    @property
    def memory(self) -> tuple[Tensor, ...]:
        """What it remembers of each environment, each (…); empty without a memory and before the first step."""
        return self._state or ()

    def remember(self, memory: Sequence[Tensor]) -> None:
        """Go on from a `memory`, on the environments' device.

        Raises:
            ValueError: it is of another policy.
        """
        known = self._network.initial_state(memory[0].shape[1]) if memory else ()
        if [tensor.shape for tensor in memory] != [tensor.shape for tensor in known]:
            raise ValueError("the policy's memory has another shape")
        self._state = tuple(memory) or None

    def reset(self, done: Tensor) -> None:
        """Forget what environments remember whose episode has ended, (N,) bool."""
        if self._state:
            self._state = reset_state(self._state, done)
