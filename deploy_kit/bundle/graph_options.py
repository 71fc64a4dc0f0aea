"""How an exported graph looks from outside: layout, outputs, names, batch."""

from dataclasses import dataclass

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import GateOutput, InputLayout, TensorSpec
from deploy_kit.bundle.tensor_names import check_tensor_names
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.interface import ActionTransform


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


def graph_options_of(contract: Contract, network: VisionActorCritic, transform: ActionTransform) -> GraphOptions:
    """Return the options that a bundle's graph was exported with, as far as the exporter was free to choose them.

    Args:
        contract: tells layout, names, batch size, and which outputs there are.
        network: without a gate head, no gate output can have been asked for.
        transform: action transform of the vehicle, for graphs that hold it.
    """
    return GraphOptions(
        layout=contract.observation.layout,
        gate_output=None if contract.gate is None or network.aux_decoder is None else contract.gate.output,
        transform=transform if contract.action.inside_graph else None,
        batch_size=contract.batch,
        input_names=tuple(spec.name for spec in contract.inputs),
        output_names=tuple(spec.name for spec in contract.outputs[: 1 if network.aux_decoder is None else 2]),
    )


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
    check_tensor_names(option, given, len(default))
    return given
