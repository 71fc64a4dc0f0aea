"""What weights and run say of a policy's inputs, and what must be asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_layout import PolicyLayout
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.resolve_task import group_shapes


@dataclass
class Facts:
    """Collects facts, and what is missing of them.

    Attributes:
        tensors: the policy's tensors, by their names in rsl_rl 5's models.
        names: the file's name of each.
        layout: how the file names things.
        params: the run's parameters.
        recorded: what deploy-kit recorded in the file.
        hints: what the user says.
        path: the file, for messages.
        missing: what nobody says, each with the option that gives it.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    layout: PolicyLayout
    params: RunParams
    recorded: Mapping[str, Any]
    hints: NetworkHints
    path: Path
    missing: list[str] = field(default_factory=list)

    def agent(self, *keys: str) -> tuple[str, Any]:
        """Return where ``agent.yaml`` says the first of some keys of the policy, and its value; None if it does not."""
        for section in self.layout.agent:
            for key in keys:
                if (value := self.params.lookup("agent", section, key)) is not None:
                    return f"params/agent.yaml ({section}.{key})", value
        return f"params/agent.yaml ({self.layout.agent[0] if self.layout.agent else 'actor'}.{keys[0]})", None

    def named(self, model_name: str) -> str:
        """Return a tensor as a message names it."""
        return f"{self.names[model_name]} {tuple(self.tensors[model_name].shape)}"

    def another_run(self, source: str, said: Any, found: str) -> CheckpointError:
        """Return the error that the run's parameters are another run's."""
        return CheckpointError(
            f"{self.path} holds {found}, but {source} says {said}: these are the parameters of another run; give those "
            "of this one with --params FOLDER"
        )


def groups_of(facts: Facts, kind: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each observation group, in the order in which the network reads them.

    Args:
        facts: facts; what nobody says is added to what is missing.
        kind: class of the model.

    Raises:
        CheckpointError: the run lists other groups.
        OptionError: a given shape does not fit.
    """
    encoded = list(dict.fromkeys(name.split(".")[1] for name in facts.tensors if name.startswith("cnns.")))
    recorded = {name: tuple(shape) for name, shape in facts.recorded.get("groups", [])}
    given = dict(facts.hints.observation_shapes)
    names = list(recorded) or _group_names(facts) or [name for name in given if name not in encoded] + encoded
    if kind == "MLPModel" or kind == "RNNModel":
        total = facts.tensors["mlp.0.weight" if kind == "MLPModel" else "rnn.rnn.weight_ih_l0"].shape[1]
    elif "obs_normalizer._mean" in facts.tensors:
        total = facts.tensors["obs_normalizer._mean"].shape[-1]
    else:
        total = None
    names = names or ["policy"]
    if unknown := [name for name in given if name not in names]:
        raise OptionError(
            f"--obs-shape {unknown[0]}: the policy reads no such observation group; its groups are {', '.join(names)}"
        )
    told = group_shapes(facts.params)
    shapes: dict[str, tuple[int, ...] | None] = {
        name: given.get(name, recorded.get(name, told.get(name))) for name in names
    }
    for name in encoded:
        if name not in shapes:
            raise facts.another_run("obs_groups", names, f"an encoder of the observation group {name}")
        _check_image(facts, name, shapes[name])
    flat = [name for name in names if name not in encoded]
    open_groups = [name for name in flat if shapes[name] is None]
    if len(open_groups) == 1 and total is not None:
        rest = int(total) - sum(shape[0] for name in flat if (shape := shapes[name]) is not None)
        if rest > 0:
            shapes[open_groups[0]] = (rest,)
    still_open = [name for name in flat if shapes[name] is None]
    if total is not None and kind == "CNNModel" and not flat:
        facts.missing.append(
            f"{facts.path}: the normaliser takes {int(total)} numbers of observation groups that nobody names: give "
            f"--obs-shape NAME={int(total)}, or one NAME=N for each in the network's order"
        )
    elif still_open:
        facts.missing.append(
            f"{facts.path}: weights do not say how many numbers the observation groups {', '.join(still_open)} have"
            f"{'' if total is None else f' (together with the others {int(total)})'}: give --obs-shape "
            f"{','.join(f'{name}=N' for name in still_open)}"
        )
    elif flat and total is not None and sum((shapes[name] or (0,))[0] for name in flat) != int(total):
        listed = ", ".join(f"{name} {shapes[name]}" for name in flat)
        if not given and not recorded:
            raise facts.another_run("params/interface.yaml, or env.yaml,", listed, f"a layer that takes {int(total)}")
        raise OptionError(f"--obs-shape: {facts.path} takes {int(total)} numbers, the observation groups have {listed}")
    return {name: shape or (1,) for name, shape in shapes.items()}


def _check_image(facts: Facts, name: str, shape: tuple[int, ...] | None) -> None:
    first = f"cnns.{name}.0.weight"
    channels = (
        int(facts.tensors[first].shape[1]) if first in facts.tensors and facts.tensors[first].dim() == 4 else None
    )
    if shape is None:
        facts.missing.append(
            f"{facts.path}: weights do not say rows and columns of the observation group {name}: give --obs-shape "
            f"{name}={channels or 'CHANNELS'}xROWSxCOLUMNS"
        )
    elif len(shape) != 3 or (channels is not None and shape[0] != channels):
        raise OptionError(
            f"--obs-shape {name}={'x'.join(map(str, shape))} does not fit {facts.path}: cnns.{name} takes images of "
            f"{channels or 'some'} channels, as CHANNELSxROWSxCOLUMNS"
        )


def _group_names(facts: Facts) -> list[str]:
    for group_set in (facts.layout.group_set, "policy"):
        found = facts.params.lookup("agent", "obs_groups", group_set)
        if isinstance(found, (list, tuple)) and found and all(isinstance(name, str) for name in found):
            return list(found)
    return []
