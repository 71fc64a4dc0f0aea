"""`VisionActorCritic` as a pair of rsl_rl 5.x models, so that rsl_rl's own runner trains, saves, loads and exports it.

Agent configuration (see docs/isaaclab.md for a whole one)::

    actor:     {class_name: "deploy_kit.policy.rsl_rl_models:VisionActor", distribution_cfg: {...}, ...}
    critic:    {class_name: "deploy_kit.policy.rsl_rl_models:VisionCritic", ...}
    algorithm: {share_cnn_encoders: true, ...}

The critic reads the actor's stem and state encoder and holds them unregistered: registered by both models, they would
enter the optimiser twice and be stepped twice.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import Tensor, nn

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.policy.network import ACTIVATIONS, ConvSpec, NetworkConfig, VisionActorCritic
from deploy_kit.task.interface import ObservationLayout

_EXPORT_INPUTS = ["state", "depth"]


def _convolve(image: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Return a convolution whose stride is its kernel as a matrix product; (N, rows, columns, channels) in and out."""
    kernel = convolution.kernel_size[0]
    count, rows, columns, channels = len(image), *(size // kernel for size in image.shape[1:3]), image.shape[3]
    patches = image[:, : rows * kernel, : columns * kernel].reshape(count, rows, kernel, columns, kernel, channels)
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return patches.transpose(2, 3).flatten(3) @ weight


class _Encoder(nn.Module):
    """From flat observations to fused features, with the parameter names of `VisionActorCritic`.

    Channels come last all the way: cuDNN's batch normalisation over channels that come first took two thirds of a
    training step.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        network = VisionActorCritic(config)
        self.config = config
        self.stem, self.state_enc, self.activation = network.stem, network.state_enc, network.activation

    def forward(self, observation: Tensor) -> Tensor:
        layout = self.config.layout
        image = observation[:, layout.state_size :].reshape(-1, *layout.image_shape, 1)
        *blocks, flatten, linear = self.stem
        for convolution, norm, activation in zip(*[iter(blocks)] * 3, strict=True):
            image = activation(norm(_convolve(image, convolution).movedim(3, 1))).movedim(1, 3)
        fused: Tensor = self.activation(
            linear(flatten(image.movedim(3, 1))) + self.state_enc(observation[:, : layout.state_size])
        )
        return fused


class VisionActor(MLPModel):  # type: ignore[misc]  # rsl_rl carries no types
    """Actor with gate head over features fused from vehicle state and depth image.

    State-dict names are `stem.*`, `state_enc.*`, `mlp.*` (the actor's head), `aux_decoder.*`, `distribution.*` and,
    with a normaliser, `obs_normalizer.*`. PPO's losses do not reach the gate head; `deploy-kit finetune` trains it.

    Args:
        obs: observations, for their sizes.
        obs_groups: observation groups of each set.
        obs_set: set that this model reads.
        output_dim: number of actions.
        hidden_dims: hidden widths of the head.
        activation: key of `ACTIVATIONS`, used in stem and head.
        obs_normalization: whether a running normaliser stands before the stem.
        distribution_cfg: rsl_rl's; its deterministic output must be its mean.
        image_shape: (rows, columns) of the depth image that ends the observation.
        stem: (channels, kernel) of each convolution; stride and kernel are equal.
        feature_size: width of the fused features.
        gate_head: whether there is an `aux_decoder`.

    Raises:
        OptionError: the activation is unknown.
        TaskError: the observation is smaller than the image.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (128, 128),
        activation: str = "lrelu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
        image_shape: tuple[int, int] | list[int] = (72, 96),
        stem: tuple[tuple[int, int], ...] = ((16, 3), (32, 3), (64, 2)),
        feature_size: int = 192,
        gate_head: bool = True,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise OptionError(f"actor.activation is {activation!r}; known are {', '.join(sorted(ACTIVATIONS))}")
        rows, columns = image_shape
        size = sum(obs[group].shape[-1] for group in obs_groups[obs_set])
        if size <= rows * columns:
            raise TaskError(
                f"observation groups {obs_groups[obs_set]} of set {obs_set!r} have {size} numbers, too few for an "
                f"image of {rows} x {columns} and a state; set actor.image_shape"
            )
        self._feature_size = feature_size
        config = NetworkConfig(
            layout=ObservationLayout(size - rows * columns, (rows, columns)),
            stem=tuple(ConvSpec(channels, kernel, kernel) for channels, kernel in stem),
            feature_size=feature_size,
            actor_hidden=tuple(hidden_dims),
            critic_hidden=None,
            num_actions=output_dim,
            activation=activation,
            gate_head=gate_head,
        )
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        self.config = config
        encoder = _Encoder(config)
        self.stem, self.state_enc = encoder.stem, encoder.state_enc
        self.aux_decoder = nn.Linear(feature_size, 1) if gate_head else None
        # Outside of the registry of sub-modules: its parts are registered above, under the names of the checkpoint.
        object.__setattr__(self, "cnns", encoder)

    cnns: _Encoder
    """What rsl_rl hands to the critic with `algorithm.share_cnn_encoders`."""

    def _get_latent_dim(self) -> int:
        return self._feature_size

    def get_latent(self, obs: TensorDict, masks: Tensor | None = None, hidden_state: Any = None) -> Tensor:
        """Return the fused features (B, 192) of the model's observation groups."""
        features: Tensor = self.cnns(super().get_latent(obs, masks, hidden_state))
        return features

    def gate_logit(self, obs: TensorDict) -> Tensor:
        """Return the gate head's logit (B, 1).

        Raises:
            TaskError: the model has no gate head.
        """
        if self.aux_decoder is None:
            raise TaskError("this actor has no gate head; set actor.gate_head to true")
        logit: Tensor = self.aux_decoder(self.get_latent(obs))
        return logit

    def network(self) -> VisionActorCritic:
        """Return a copy as the network that deploy-kit exports: in eval mode, on the CPU, without critic.

        Raises:
            OptionError: the distribution's deterministic output is not the actor's output.
        """
        if self.distribution is not None and self.distribution.input_dim != self.config.num_actions:
            raise OptionError(
                f"{type(self.distribution).__name__} turns {self.distribution.input_dim} numbers into "
                f"{self.config.num_actions} actions; only a Gaussian with a state-independent deviation is exported"
            )
        eps = self.obs_normalizer.eps if self.obs_normalization else None
        network = VisionActorCritic(replace(self.config, normalizer_eps=eps))
        tensors = self.state_dict()
        network.load_state_dict({name: tensors[_model_name(name)] for name in network.state_dict()})
        return network.eval().requires_grad_(False)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return the twin that rsl_rl's `export_policy_to_onnx` traces: split inputs, action and gate logit."""
        return ExportedPolicy(self.network())

    def as_jit(self) -> nn.Module:
        """Return the traced twin that rsl_rl's `export_policy_to_jit` saves; inputs and outputs as in the ONNX."""
        twin = ExportedPolicy(self.network()).eval()
        return cast(nn.Module, torch.jit.trace(twin, twin.get_dummy_inputs()))  # type: ignore[no-untyped-call]  # torch's own


class VisionCritic(MLPModel):  # type: ignore[misc]  # rsl_rl carries no types
    """Critic over the actor's features. Its state dict holds the value head (`mlp.*`) alone.

    Args:
        obs: observations, for their sizes.
        obs_groups: observation groups of each set.
        obs_set: set that this model reads; as large as the actor's.
        output_dim: 1.
        hidden_dims: hidden widths of the head.
        activation: key of `ACTIVATIONS`.
        obs_normalization: whether a running normaliser stands before the stem.
        cnns: the actor's encoder, which rsl_rl passes with `algorithm.share_cnn_encoders`.

    Raises:
        OptionError: the encoder is missing.
        TaskError: the observation's size is not the actor's.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (128, 128),
        activation: str = "lrelu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
        cnns: _Encoder | None = None,
    ) -> None:
        if cnns is None:
            raise OptionError("VisionCritic reads the actor's stem; set algorithm.share_cnn_encoders to true")
        self._feature_size = cnns.config.feature_size
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        if self.obs_dim != cnns.config.layout.size:
            raise TaskError(
                f"observation groups {obs_groups[obs_set]} of set {obs_set!r} have {self.obs_dim} numbers, "
                f"the actor's have {cnns.config.layout.size}; a shared stem needs equal sizes"
            )
        object.__setattr__(self, "_encoder", cnns)

    _encoder: _Encoder

    def _get_latent_dim(self) -> int:
        return self._feature_size

    def get_latent(self, obs: TensorDict, masks: Tensor | None = None, hidden_state: Any = None) -> Tensor:
        """Return the fused features (B, 192) of the model's observation groups."""
        features: Tensor = self._encoder(super().get_latent(obs, masks, hidden_state))
        return features


class ExportedPolicy(nn.Module):
    """What rsl_rl's exporters write: ``forward(state, depth)`` gives the action and, with a gate head, its logit.

    Args:
        network: network in eval mode; it is held, not copied.
    """

    is_recurrent = False

    def __init__(self, network: VisionActorCritic) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: Tensor, depth: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the action (B, 4), with a gate head also the gate logit (B, 1)."""
        output = self.network.heads(self.network.features(state, depth))
        return output.action if output.gate_logit is None else (output.action, output.gate_logit)

    def get_dummy_inputs(self) -> tuple[Tensor, Tensor]:
        """Return a state (1, 16) and a depth image (1, 1, 72, 96) to trace with."""
        layout = self.network.config.layout
        return torch.zeros(1, layout.state_size), torch.zeros(1, 1, *layout.image_shape)

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs."""
        return list(_EXPORT_INPUTS)

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return ["action"] if self.network.aux_decoder is None else ["action", "gate_logit"]


def _model_name(canonical: str) -> str:
    """Return the actor's name of a tensor of `VisionActorCritic`."""
    for own, replacement in (("actor.", "mlp."), ("normalizer.", "obs_normalizer._")):
        if canonical.startswith(own):
            return replacement + canonical[len(own) :]
    return canonical
