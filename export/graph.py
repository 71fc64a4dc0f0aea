"""The module that is exported: the policy in eval mode, reduced to what flies and shaped as the caller asked."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.export.contract import FEATURES_TENSOR, GateOutput, InputLayout, TensorSpec
from deploy_kit.policy.interface import ActionTransform
from deploy_kit.policy.network import VisionActorCritic


@dataclass(frozen=True)
class GraphOptions:
    """How the exported graph looks from outside.

    Attributes:
        layout: one flat observation, or state and depth apart.
        gate_output: what the second output holds, None for no second output.
        transform: action transform to put inside the graph, None to give the network's unbounded action.
        batch_size: fixed batch size, None for a dynamic one.
        input_names: names of the inputs, None for "state", "depth" or "obs".
        output_names: names of the outputs, None for "action" or "command" and "gate_logit" or "gate_probability".
    """

    layout: InputLayout = InputLayout.SPLIT
    gate_output: GateOutput | None = None
    transform: ActionTransform | None = None
    batch_size: int | None = None
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None


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
        self.stem = _fold_batch_norms(source.stem)
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


def _fold_batch_norms(stem: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm into the convolution before it; done in float64, so that only the result is rounded."""
    folded: list[tuple[str, nn.Module]] = []
    for name, module in stem.named_children():
        if isinstance(module, nn.BatchNorm2d):
            convolution_name, convolution = folded.pop()
            assert isinstance(convolution, nn.Conv2d)
            folded.append((convolution_name, fuse_conv_bn_eval(convolution.double(), module.double()).float()))
        else:
            folded.append((name, module))
    result = nn.Sequential()
    for name, module in folded:
        result.add_module(name, module)
    return result


def input_specs(network: VisionActorCritic, options: GraphOptions) -> tuple[TensorSpec, ...]:
    """Return the graph's inputs.

    Raises:
        OptionError: the names do not fit.
    """
    layout = network.config.layout
    batch: int | str = options.batch_size or "batch"
    rows, columns = layout.image_shape
    specs: tuple[tuple[str, str, tuple[int, ...], str], ...]
    if options.layout is InputLayout.FLAT:
        specs = (
            ("obs", "observation", (layout.size,), "state, then the normalised depth image row-major, top row first"),
        )
    else:
        specs = (
            ("state", "state", (layout.state_size,), "state terms in the order of observation.terms"),
            ("depth", "depth", (1, rows, columns), "normalised depth image, top row first"),
        )
    names = _names("--input-names", options.input_names, tuple(spec[0] for spec in specs))
    return tuple(
        TensorSpec(name, role, (batch, *shape), "float32", description)
        for name, (_, role, shape, description) in zip(names, specs, strict=True)
    )


def output_specs(network: VisionActorCritic, options: GraphOptions) -> tuple[TensorSpec, ...]:
    """Return the graph's outputs.

    Raises:
        OptionError: the names do not fit.
    """
    batch: int | str = options.batch_size or "batch"
    if options.transform is None:
        specs = [("action", "action", network.config.num_actions, "unbounded action: apply action.formula")]
    else:
        specs = [("command", "command", network.config.num_actions, "physical command in action.units")]
    if options.gate_output is not None:
        role = f"gate_{options.gate_output}"
        specs.append((role, role, 1, f"{options.gate_output} of: this step passes the gate"))
    names = _names("--output-names", options.output_names, tuple(spec[0] for spec in specs))
    return tuple(
        TensorSpec(name, role, (batch, width), "float32", description)
        for name, (_, role, width, description) in zip(names, specs, strict=True)
    )


def _names(option: str, given: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return default
    if len(given) != len(default):
        raise OptionError(
            f"{option}: {len(given)} given ({', '.join(given)}), the graph has {len(default)} ({', '.join(default)})"
        )
    for name in given:
        if not name.replace(".", "_").replace("-", "_").replace("/", "_").isidentifier():
            raise OptionError(f"{option}: {name!r} is no tensor name; use letters, digits and _ . - /")
        if given.count(name) > 1:
            raise OptionError(f"{option}: {name!r} is given twice")
        if name == FEATURES_TENSOR:
            raise OptionError(f"{option}: {name!r} names the features inside the graph; choose another name")
    return given
