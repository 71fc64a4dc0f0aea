"""The VisionActorCritic network, with the state-dict names of the checkpoints it is trained in.

features = act(stem(depth) + state_enc(state))        (B, 192)
action, value, gate logit = actor, critic, aux_decoder(features)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deploy_kit.task.interface import ObservationLayout

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "crelu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "lrelu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Activation names as rsl_rl's agent configurations spell them."""


class ConvSpec(NamedTuple):
    """One block of the stem: convolution without bias, batch norm, activation."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that shapes the network.

    Attributes:
        layout: sizes of vehicle state and depth image.
        stem: convolution blocks, in order.
        feature_size: width of the fused features.
        actor_hidden: hidden widths of the actor.
        critic_hidden: hidden widths of the critic, None to leave the critic out.
        num_actions: number of actions.
        activation: key of `ACTIVATIONS`, used everywhere.
        gate_head: whether there is an `aux_decoder`.
        normalizer_eps: epsilon of the observation normaliser, None if the policy has no normaliser. rsl_rl uses 1e-2.
    """

    layout: ObservationLayout = field(default_factory=ObservationLayout)
    stem: tuple[ConvSpec, ...] = (ConvSpec(16, 3, 3), ConvSpec(32, 3, 3), ConvSpec(64, 2, 2))
    feature_size: int = 192
    actor_hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] | None = (128, 128)
    num_actions: int = 4
    activation: str = "lrelu"
    gate_head: bool = True
    normalizer_eps: float | None = None

    @property
    def stem_output_shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) after the last convolution, before flattening."""
        rows, columns = self.layout.image_shape
        for block in self.stem:
            rows = (rows - block.kernel) // block.stride + 1
            columns = (columns - block.kernel) // block.stride + 1
        return self.stem[-1].channels, rows, columns


class PolicyOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        action: (B, 4) unbounded actor mean.
        gate_logit: (B, 1) logit of "this step passes the gate", None without a gate head.
        features: (B, 192) fused features.
    """

    action: Tensor
    gate_logit: Tensor | None
    features: Tensor


class ObservationNormalizer(nn.Module):
    """Frozen empirical normaliser ``(x - mean) / (std + eps)`` over the flat observation, as rsl_rl applies it.

    Args:
        layout: sizes of vehicle state and depth image.
        eps: added to the standard deviation; it is not stored in checkpoints.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layout: ObservationLayout, eps: float) -> None:
        super().__init__()
        self.layout = layout
        self.eps = eps
        self.register_buffer("mean", torch.zeros(1, layout.size))
        self.register_buffer("std", torch.ones(1, layout.size))

    def forward(self, state: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise a state (B, 16) and a depth image (B, 1, 72, 96)."""
        split, shape = self.layout.state_size, (1, 1, *self.layout.image_shape)
        scale = self.std + self.eps
        state = (state - self.mean[:, :split]) / scale[:, :split]
        depth = (depth - self.mean[:, split:].reshape(shape)) / scale[:, split:].reshape(shape)
        return state, depth


def _mlp(sizes: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


class VisionActorCritic(nn.Module):
    """Actor, critic and gate head over features fused from vehicle state and depth image.

    Sub-module names match the training code's, so a training state dict loads unchanged.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        activation = ACTIVATIONS[config.activation]
        stem: list[nn.Module] = []
        channels = 1
        for block in config.stem:
            stem += [
                nn.Conv2d(channels, block.channels, block.kernel, block.stride, bias=False),
                nn.BatchNorm2d(block.channels),
                activation(),
            ]
            channels = block.channels
        out_channels, rows, columns = config.stem_output_shape
        stem += [nn.Flatten(), nn.Linear(out_channels * rows * columns, config.feature_size)]
        self.stem = nn.Sequential(*stem)
        self.state_enc = nn.Linear(config.layout.state_size, config.feature_size)
        self.activation = activation()
        self.actor = _mlp((config.feature_size, *config.actor_hidden, config.num_actions), activation)
        if config.critic_hidden is not None:
            self.critic = _mlp((config.feature_size, *config.critic_hidden, 1), activation)
        self.aux_decoder = nn.Linear(config.feature_size, 1) if config.gate_head else None
        self.normalizer = (
            None if config.normalizer_eps is None else ObservationNormalizer(config.layout, config.normalizer_eps)
        )

    def split(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Split flat observations (B, 6928) into state (B, 16) and depth (B, 1, 72, 96)."""
        layout = self.config.layout
        return (
            observation[:, : layout.state_size],
            observation[:, layout.state_size :].reshape(-1, 1, *layout.image_shape),
        )

    def features(self, state: Tensor, depth: Tensor) -> Tensor:
        """Return the fused features (B, 192) of a state (B, 16) and a depth image (B, 1, 72, 96) in [0, 1]."""
        return self._fused(*self._encoded(state, depth))

    def _encoded(self, state: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last layers of both encoders read: the flat image (B, n) and the normalised state (B, 16)."""
        if self.normalizer is not None:
            state, depth = self.normalizer(state, depth)
        for layer in list(self.stem)[:-1]:
            depth = layer(depth)
        return depth, state

    def _fused(self, flat: Tensor, state: Tensor) -> Tensor:
        fused: Tensor = self.activation(self.stem[-1](flat) + self.state_enc(state))
        return fused

    def with_feature_terms(self, observation: Tensor) -> tuple[PolicyOutput, Tensor]:
        """Return what `forward` does, and the summed sizes of the terms that each feature is the sum of, (B, 192)."""
        flat, state = self._encoded(*self.split(observation))
        last = self.stem[-1]
        assert isinstance(last, nn.Linear)
        terms = flat.abs() @ last.weight.abs().T + state.abs() @ self.state_enc.weight.abs().T
        return self.heads(self._fused(flat, state)), terms + last.bias.abs() + self.state_enc.bias.abs()

    def heads(self, features: Tensor) -> PolicyOutput:
        """Return action and gate logit of fused features (B, 192)."""
        logit = None if self.aux_decoder is None else self.aux_decoder(features)
        return PolicyOutput(self.actor(features), logit, features)

    def gate_terms(self, features: Tensor) -> Tensor:
        """Return the summed sizes of the terms that the gate logit of features (B, 192) is the sum of, (B, 1).

        The logit's rounding errors are shares of this, however small the logit itself is.
        """
        assert self.aux_decoder is not None
        return features.abs() @ self.aux_decoder.weight.abs().T + self.aux_decoder.bias.abs()

    def forward(self, observation: Tensor) -> PolicyOutput:
        """Return action, gate logit and features of flat observations (B, 6928)."""
        return self.heads(self.features(*self.split(observation)))
