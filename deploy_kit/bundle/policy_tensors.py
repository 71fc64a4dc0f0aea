"""Inputs and outputs of the graph of any policy, by role."""

from deploy_kit.bundle.contract_fields import TensorSpec
from deploy_kit.bundle.tensor_names import check_tensor_names
from deploy_kit.policy.protocol import PolicySpec

OBSERVATION = "observation"
STATE = "hidden_state"
ACTIONS = "actions"
LOGIT = "head_logit"


def policy_inputs(spec: PolicySpec, batch: int | None, names: tuple[str, ...] | None = None) -> tuple[TensorSpec, ...]:
    """Return the inputs: one an observation group, then the state.

    Args:
        spec: the policy's sizes and names.
        batch: fixed batch size, None for a dynamic one.
        names: names of the inputs; those of groups and state tensors if None.

    Raises:
        OptionError: the names do not fit.
    """
    rows: int | str = batch or "batch"
    specs = [
        (group.name, OBSERVATION, (rows, *group.shape), f"observation group {group.name}") for group in spec.groups
    ]
    specs += [
        (item.input, STATE, (item.layers, rows, item.hidden), f"zeros at the start of an episode, then {item.output}")
        for item in spec.state
    ]
    return _specs("--input-names", specs, names)


def policy_outputs(
    spec: PolicySpec, batch: int | None, *, head: bool, names: tuple[str, ...] | None = None
) -> tuple[TensorSpec, ...]:
    """Return the outputs: actions, the head's logit if it is asked for, then the next state.

    Args:
        spec: the policy's sizes and names.
        batch: fixed batch size, None for a dynamic one.
        head: whether the head's logit is given.
        names: names of the outputs; rsl_rl's if None.

    Raises:
        OptionError: the names do not fit.
    """
    rows: int | str = batch or "batch"
    specs: list[tuple[str, str, tuple[int | str, ...], str]] = [
        (ACTIONS, ACTIONS, (rows, spec.num_actions), "actions, before the task scales or cuts them")
    ]
    if head:
        specs.append((LOGIT, LOGIT, (rows, 1), "logit of what the head predicts"))
    specs += [
        (item.output, STATE, (item.layers, rows, item.hidden), f"next step's {item.input}") for item in spec.state
    ]
    return _specs("--output-names", specs, names)


def _specs(
    option: str, specs: list[tuple[str, str, tuple[int | str, ...], str]], names: tuple[str, ...] | None
) -> tuple[TensorSpec, ...]:
    if names is not None:
        check_tensor_names(option, names, len(specs))
    given = names or tuple(spec[0] for spec in specs)
    return tuple(
        TensorSpec(name, role, shape, "float32", description)
        for name, (_, role, shape, description) in zip(given, specs, strict=True)
    )
