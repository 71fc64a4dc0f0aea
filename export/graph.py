"""The module that is exported: the policy in eval mode, reduced to what flies and shaped as the caller asked."""

import copy

import torch
from torch import Tensor, nn

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions
from deploy_kit.errors import CheckpointError
from deploy_kit.policy.folded_network import fold_batch_norms
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.interface import ActionTransform


class DeployedPolicy(nn.Module):
    """Twin of a `VisionActorCritic` that shares nothing with it: batch norms folded, no critic, always in eval mode.

    ``forward(state, depth)`` or ``forward(observation)`` returns action, gate output (if any) and features, in
    this order. Sub-modules keep their training names, so the artifact's tensors can be traced back.

    Args:
        network: the policy; it is copied, not changed.
        options: layout and outputs.

    Raises:
        CheckpointError: a gate output is asked for and the policy has no gate head.
    """

    def __init__(self, network: VisionActorCritic, options: GraphOptions) -> None:
        super().__init__()
        source = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self.options = options
        self.shape = source.config.layout.image_shape
        self.state_size = source.config.layout.state_size
        self.stem = fold_batch_norms(source.stem)
        self.state_enc = source.state_enc
        self.activation = source.activation
        self.actor = source.actor
        self.aux_decoder: nn.Linear | None = None
        if options.gate_output is not None:
            if source.aux_decoder is None:
                raise CheckpointError(
                    "aux_decoder.weight is missing: this checkpoint was trained without the auxiliary head; "
                    "export without --use-auxiliary-head, or take a checkpoint that has one"
                )
            self.aux_decoder = source.aux_decoder
        self.normalizer = None if source.normalizer is None else _Normalizer(source)
        self.transform = None if options.transform is None else _Transform(options.transform)
        self.eval()
        assert not any(module.training for module in self.modules())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs and the features of a batch."""
        state, depth = inputs if self.options.layout is InputLayout.SPLIT else self._split(inputs[0])
        if self.normalizer is not None:
            state, depth = self.normalizer(state, depth)
        features = self.activation(self.stem(depth) + self.state_enc(state))
        action = self.actor(features)
        outputs = [action if self.transform is None else self.transform(action)]
        if self.aux_decoder is not None:
            logit = self.aux_decoder(features)
            outputs.append(torch.sigmoid(logit) if self.options.gate_output is GateOutput.PROBABILITY else logit)
        return (*outputs, features)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs that fit, for tracing; two rows where the batch is dynamic, since one row would be baked in."""
        batch = self.options.batch_size or 2
        generator = torch.Generator().manual_seed(0)
        state = torch.randn(batch, self.state_size, generator=generator)
        depth = torch.rand(batch, 1, *self.shape, generator=generator)
        if self.options.layout is InputLayout.SPLIT:
            return state, depth
        return (torch.cat([state, depth.flatten(1)], 1),)

    def _split(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        depth = observation[:, self.state_size :].reshape(-1, 1, *self.shape)
        return observation[:, : self.state_size], depth


class _Normalizer(nn.Module):
    """The policy's normaliser, constants split and summed once, so that the graph holds no constant arithmetic."""

    mean_state: Tensor
    mean_depth: Tensor
    scale_state: Tensor
    scale_depth: Tensor

    def __init__(self, network: VisionActorCritic) -> None:
        super().__init__()
        assert network.normalizer is not None
        scale = network.normalizer.std + network.normalizer.eps
        for name, value in (("mean", network.normalizer.mean), ("scale", scale)):
            state, depth = network.split(value)
            self.register_buffer(f"{name}_state", state.clone())
            self.register_buffer(f"{name}_depth", depth.clone())

    def forward(self, state: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        return (state - self.mean_state) / self.scale_state, (depth - self.mean_depth) / self.scale_depth


class _Transform(nn.Module):
    scale: Tensor
    offset: Tensor

    def __init__(self, transform: ActionTransform) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([transform.scale], dtype=torch.float32))
        self.register_buffer("offset", torch.tensor([transform.offset], dtype=torch.float32))

    def forward(self, action: Tensor) -> Tensor:
        return torch.tanh(action) * self.scale + self.offset
