"""What every policy offers: observation groups in; features, actions, head logit and state out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deploy_kit.policy.plan import Plan

NumberArray = npt.NDArray[np.float32]


class ObservationGroup(NamedTuple):
    """One input of a policy.

    Attributes:
        name: name of the observation group, as the run calls it.
        shape: sizes of one row, without the batch: ``(n,)``, or ``(channels, rows, columns)`` of an image.
    """

    name: str
    shape: tuple[int, ...]


class StateTensor(NamedTuple):
    """One tensor of a recurrent policy's memory, ``(layers, batch, hidden)``.

    Attributes:
        input: name of the graph's input.
        output: name of the graph's output.
        layers: number of layers.
        hidden: numbers in each.
    """

    input: str
    output: str
    layers: int
    hidden: int


@dataclass(frozen=True)
class PolicySpec:
    """What export, judge and runner must know of a policy.

    Attributes:
        kind: class of the network.
        groups: observation groups, in the order in which the network reads them.
        num_actions: numbers of the action.
        feature_size: numbers that the head reads.
        feature_layer: name, as in the checkpoint, of the layer that reads them.
        state: memory of a recurrent policy, empty without one.
        normalizer_eps: epsilon of the observation normaliser, None without one.
        settings: what builds the network again, as JSON values.
    """

    kind: str
    groups: tuple[ObservationGroup, ...]
    num_actions: int
    feature_size: int
    feature_layer: str
    state: tuple[StateTensor, ...] = ()
    normalizer_eps: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class PolicyStep(NamedTuple):
    """What one step gives.

    Attributes:
        action: (B, A), the mean of the policy's distribution.
        head_logit: (B, 1), None without a head.
        features: (B, F), what the head reads.
        state: the next state, empty without memory.
    """

    action: Tensor
    head_logit: Tensor | None
    features: Tensor
    state: tuple[Tensor, ...]


class PolicyNetwork(nn.Module, ABC):
    """A policy of any network, with room for a head beside it.

    Subclasses set `spec` and implement `act` and `plan`. Whoever owns the network keeps it in eval mode.

    Args:
        spec: sizes and names.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.head: nn.Linear | None = None

    @abstractmethod
    def act(
        self, observation: Mapping[str, Tensor], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return action (B, A), features (B, F) and the next state."""

    @abstractmethod
    def plan(self) -> Plan:
        """Return the operators that give the same as `act`, without the head."""

    @abstractmethod
    def policy_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that fly, without the head, by their names in the checkpoint."""

    @property
    def is_recurrent(self) -> bool:
        """Whether the policy has a memory."""
        return bool(self.spec.state)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> tuple[Tensor, ...]:
        """Return the state at the start of an episode, which is zero; an empty tuple without memory."""
        return tuple(torch.zeros(item.layers, batch, item.hidden, device=device) for item in self.spec.state)

    def forward(self, observation: Mapping[str, Tensor], state: tuple[Tensor, ...] = ()) -> PolicyStep:
        """Return one step for observation groups (B, …) and a state; a TensorDict will do."""
        action, features, after = self.act(observation, state)
        return PolicyStep(action, None if self.head is None else self.head(features), features, after)

    def usual_numbers(self) -> dict[str, tuple[NumberArray, NumberArray]]:
        """Return what the numbers of each flat group usually are, mean and deviation (n,), as a normaliser knows them.

        Empty for a policy without one. Drawn observations are drawn from it, nothing more.
        """
        return {}

    def head_terms(self, features: Tensor) -> Tensor:
        """Return the summed sizes of the terms that the head's logit is the sum of, (B, 1)."""
        assert self.head is not None
        return features.abs() @ self.head.weight.abs().T + self.head.bias.abs()


def reset_state(state: Sequence[Tensor], dones: Tensor) -> tuple[Tensor, ...]:
    """Return a state (layers, B, hidden) with zeros where an episode begins; dones (B,) tells where."""
    keep = (~dones.to(torch.bool).to(state[0].device)).view(1, -1, 1) if state else None
    return tuple(torch.where(keep, tensor, torch.zeros_like(tensor)) for tensor in state) if keep is not None else ()
