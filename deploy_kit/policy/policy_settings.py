"""What builds a model of rsl_rl again: read off weights and run, asked for where neither says it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deploy_kit.errors import CheckpointError, MissingParametersError, OptionError
from deploy_kit.policy.network import ACTIVATIONS
from deploy_kit.policy.network_hints import DEFAULT_NORMALIZER_EPS, NetworkHints
from deploy_kit.policy.policy_groups import Facts, groups_of
from deploy_kit.policy.policy_layout import PolicyFormat, PolicyLayout
from deploy_kit.policy.rsl_rl_policy import DISTRIBUTIONS, MODELS
from deploy_kit.policy.run.params import RunParams

_CLASSES = {
    **{name: name for name in MODELS},
    "ActorCritic": "MLPModel",
    "ActorCriticRecurrent": "RNNModel",
    "ActorCriticCNN": "CNNModel",
    "StudentTeacher": "MLPModel",
    "StudentTeacherRecurrent": "RNNModel",
}
"""rsl_rl's classes of all versions, as models of version 5."""

_NOISE = {kind: f"distribution.{kind}" for kind in ("std_param", "log_std_param")}
"""A Gaussian's standard deviation among the weights, by how it is kept."""

_GATES = {4: "lstm", 3: "gru"}
"""Kind of memory by its number of gates."""


@dataclass(frozen=True)
class ModelSettings:
    """What `build_model` needs, and what the spec says besides.

    Attributes:
        settings: class, output size and arguments of the class.
        groups: shape of each observation group, in order.
        normalizer_eps: epsilon of the normaliser, None without one.
    """

    settings: dict[str, Any]
    groups: dict[str, tuple[int, ...]]
    normalizer_eps: float | None


def checked_record(record: Any, path: Path) -> dict[str, Any]:
    """Return what deploy-kit recorded of a policy in its file, an empty mapping where it recorded nothing.

    Args:
        record: the entry as read.
        path: the file, for messages.

    Raises:
        CheckpointError: it is no such record.
    """
    if record is None:
        return {}
    groups = record.get("groups", []) if isinstance(record, dict) else None
    eps = record.get("normalizer_eps") if isinstance(record, dict) else None
    fits = (
        isinstance(record, dict)
        and isinstance(record.get("settings", {}), dict)
        and isinstance(record.get("feature_layer", ""), str)
        and (eps is None or (isinstance(eps, (int, float)) and not isinstance(eps, bool) and 0 <= eps < math.inf))
        and isinstance(groups, list)
        and all(map(_is_group, groups))
    )
    if not fits:
        raise CheckpointError(
            f"{path}: its entry deploy_kit has no usable record of the policy; take the file as it was"
        )
    return dict(record)


def _is_group(group: Any) -> bool:
    if not isinstance(group, list) or len(group) != 2:
        return False
    name, shape = group
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) not in (1, 3):
        return False
    return all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape)


def resolve_settings(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    layout: PolicyLayout,
    params: RunParams,
    recorded: Mapping[str, Any],
    hints: NetworkHints,
    path: Path,
) -> ModelSettings:
    """Return what builds the model of a checkpoint.

    Args:
        tensors: the policy's tensors, by their names in rsl_rl 5's models.
        names: the file's name of each.
        layout: how the file names things.
        params: the run's parameters.
        recorded: what deploy-kit recorded in the file: ``settings``, ``groups`` and ``normalizer_eps``.
        hints: what the user says.
        path: the file, for messages.

    Raises:
        MissingParametersError: neither file, run nor hints say something; all that is missing is named.
        CheckpointError: weights and run contradict each other, or the class is not rsl_rl's.
        OptionError: a hint contradicts them, or has no effect.
    """
    facts = Facts(tensors, names, layout, params, recorded, hints, path)
    if hints.image_shape is not None:
        raise OptionError("--image-shape has no effect on this policy; give --obs-shape GROUP=CHANNELSxROWSxCOLUMNS")
    layers = _layers(facts)
    kind = _kind(facts)
    settings: dict[str, Any] = {"class_name": kind}
    settings["hidden_dims"] = _hidden(facts, layers)
    settings["activation"] = _activation(facts)
    settings["obs_normalization"] = _normalised(facts)
    _memory(facts, kind, settings)
    if kind == "CNNModel":
        settings["cnn_cfg"] = _encoders(facts)
    distribution, doubled = _distribution(facts)
    settings["distribution_cfg"] = distribution
    settings["output_dim"] = int(tensors[layers[-1]].shape[0]) // (2 if doubled else 1)
    groups = groups_of(facts, kind)
    eps = _eps(facts) if settings["obs_normalization"] else None
    if eps is None and hints.normalizer_eps is not None:
        raise OptionError(f"--normalizer-eps has no effect: {path} holds no observation normaliser; leave it out")
    if facts.missing:
        raise MissingParametersError(*facts.missing)
    return ModelSettings(settings, groups, eps)


def _layers(facts: Facts) -> list[str]:
    """Return the names of the weights of ``mlp``, in order."""
    numbers = sorted(
        int(name.split(".")[1])
        for name in facts.tensors
        if name.startswith("mlp.") and name.endswith(".weight") and name.split(".")[1].isdecimal()
    )
    names = [f"mlp.{number}.weight" for number in numbers]
    for name in names:
        if facts.tensors[name].dim() != 2 or 0 in facts.tensors[name].shape:
            raise CheckpointError(f"{facts.path}: {facts.named(name)} is no matrix; it holds another network")
    if len(names) < 2:
        raise CheckpointError(
            f"{facts.path}: {facts.layout.section} has no {facts.layout.mlp}.0.weight and {facts.layout.mlp}.2.weight, "
            "so there is no network of rsl_rl in it; see docs/policies.md"
        )
    return names


def _kind(facts: Facts) -> str:
    kind = "MLPModel"
    for prefix, found in (("cnns.", "CNNModel"), ("rnn.", "RNNModel")):
        if any(name.startswith(prefix) for name in facts.tensors):
            kind = found
    source, said = facts.agent("class_name")
    if said is None:
        return kind
    name = str(said).replace(":", ".").rpartition(".")[2]
    if name not in _CLASSES:
        raise CheckpointError(
            f"{source} is {said!r}, which is no class of rsl_rl's; a network of your own is brought by an extension, "
            "see docs/policies.md"
        )
    if _CLASSES[name] != kind:
        raise facts.another_run(source, said, f"the tensors of a {kind}")
    return kind


def _hidden(facts: Facts, layers: list[str]) -> list[int]:
    found = [int(facts.tensors[name].shape[0]) for name in layers[:-1]]
    source, said = facts.agent("hidden_dims", f"{facts.layout.mlp}_hidden_dims")
    if isinstance(said, (list, tuple)):
        width = int(facts.tensors[layers[0]].shape[1])
        if [width if size == -1 else size for size in said] != found:
            raise facts.another_run(source, list(said), f"hidden layers of {found}")
    return found


def _activation(facts: Facts) -> str:
    candidates = [
        ("--activation", facts.hints.activation),
        ("the file", facts.recorded.get("settings", {}).get("activation")),
        facts.agent("activation"),
    ]
    known: list[tuple[str, str]] = []
    for source, value in candidates:
        if value is None:
            continue
        if not isinstance(value, str) or value.lower() not in ACTIVATIONS:
            raise OptionError(
                f"activation {value!r} of {facts.path}, from {source}, is not supported; known are "
                f"{', '.join(sorted(ACTIVATIONS))}"
            )
        known.append((source, value.lower()))
    for source, value in known[1:]:
        if value != known[0][1]:
            raise OptionError(
                f"activation of {facts.path}: {known[0][0]} says {known[0][1]}, but {source} says {value}; leave out "
                "the wrong one"
            )
    if not known:
        facts.missing.append(
            f"{facts.path}: the weights of {facts.layout.section} ({facts.layout.mlp}.*) do not say the activation, "
            f"and no {candidates[-1][0]} does: give --activation ({', '.join(sorted(ACTIVATIONS))})"
        )
    return known[0][1] if known else "elu"


def _normalised(facts: Facts) -> bool:
    found = "obs_normalizer._mean" in facts.tensors
    mine = f"{'student' if facts.layout.mlp == 'student' else 'actor'}_obs_normalization"
    source, said = facts.agent("obs_normalization", mine)
    if not found and said is None and facts.params.lookup("agent", "empirical_normalization") is True:
        source, said = "params/agent.yaml (empirical_normalization)", True
    if said is True and not found:
        raise CheckpointError(
            f"{facts.path} holds no observation normaliser, but {source} says that the run trained with one: the "
            "policy would act on unnormalised observations; give the complete checkpoint"
        )
    if said is False and found:
        raise facts.another_run(source, said, f"an observation normaliser ({facts.names['obs_normalizer._mean']})")
    if found and "obs_normalizer._std" not in facts.tensors:
        raise CheckpointError(f"{facts.path}: the normaliser has a mean and no standard deviation; it is not complete")
    return found


def _eps(facts: Facts) -> float:
    option, recorded = facts.hints.normalizer_eps, facts.recorded.get("normalizer_eps")
    value = option if option is not None else recorded
    return DEFAULT_NORMALIZER_EPS if value is None else float(value)


def _memory(facts: Facts, kind: str, settings: dict[str, Any]) -> None:
    if kind != "RNNModel":
        return
    weight = facts.tensors.get("rnn.rnn.weight_hh_l0")
    if weight is None or weight.dim() != 2 or weight.shape[1] == 0:
        raise CheckpointError(f"{facts.path}: {facts.layout.section} has a memory without weight_hh_l0")
    hidden = int(weight.shape[1])
    found = {
        "rnn_type": _GATES.get(weight.shape[0] // hidden, "neither"),
        "rnn_hidden_dim": hidden,
        "rnn_num_layers": sum(name.startswith("rnn.rnn.weight_hh_l") for name in facts.tensors),
    }
    if found["rnn_type"] == "neither" or weight.shape[0] % hidden:
        raise CheckpointError(f"{facts.path}: {facts.named('rnn.rnn.weight_hh_l0')} is neither of an LSTM nor of a GRU")
    for key, value in found.items():
        other = {"rnn_hidden_dim": ("rnn_hidden_size",)}.get(key, ())
        source, said = facts.agent(key, *other)
        if said is not None and (said.lower() if isinstance(said, str) else said) != value:
            raise facts.another_run(source, said, f"a memory with {key} {value}")
    settings.update(found)


def _encoders(facts: Facts) -> Any:
    recorded = facts.recorded.get("settings", {}).get("cnn_cfg")
    source, said = facts.agent("cnn_cfg", "actor_cnn_cfg")
    found = recorded if said is None else said
    if not isinstance(found, Mapping):
        facts.missing.append(
            f"{facts.path}: weights do not say stride, padding and pooling of cnns.*, and no {source} does: give "
            "--params with an agent.yaml that has it"
        )
        return {}
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _distribution(facts: Facts) -> tuple[dict[str, Any] | None, bool]:
    """Return the distribution's settings, and whether the last layer gives two numbers for each action."""
    noise = next((kind for kind, tensor in _NOISE.items() if tensor in facts.tensors), None)
    recorded = facts.recorded.get("settings", {})
    source = "the record of deploy-kit in it"
    if "distribution_cfg" in recorded:
        stated: Any = recorded["distribution_cfg"]
    else:
        source, stated = facts.agent("distribution_cfg")
        if stated is not None and (not isinstance(stated, Mapping) or "class_name" not in stated):
            raise CheckpointError(f"{source} of {facts.path} has no class_name")
    dependent, says_so = facts.agent("state_dependent_std")
    if stated is None and says_so is True:
        source, stated = dependent, {"class_name": "HeteroscedasticGaussianDistribution"}
    if stated is None:
        if noise is not None:
            kind = "scalar" if noise == "std_param" else "log"
            return {"class_name": "GaussianDistribution", "std_type": kind}, False
        known = any(facts.params.lookup("agent", section) is not None for section in facts.layout.agent)
        if not known and facts.layout.format is not PolicyFormat.SAFETENSORS:
            facts.missing.append(
                f"{facts.path}: {facts.layout.section} holds no standard deviation, and no params/agent.yaml says "
                f"whether the last layer gives actions alone ({facts.layout.agent[0]}.distribution_cfg): give --params "
                "with an agent.yaml that has it"
            )
        return None, False
    name = str(stated["class_name"]).replace(":", ".").rpartition(".")[2]
    if name not in DISTRIBUTIONS:
        raise CheckpointError(
            f"distribution {stated['class_name']!r} of {facts.path} is not known; exported are "
            f"{', '.join(DISTRIBUTIONS)}"
        )
    # Only a Gaussian keeps a deviation among the weights, and it always does; what flies alone is kept without it.
    if facts.layout.format is not PolicyFormat.SAFETENSORS and (name == "GaussianDistribution") != (noise is not None):
        found = "no standard deviation" if noise is None else f"a standard deviation ({facts.named(_NOISE[noise])})"
        raise facts.another_run(source, name, found)
    settings = {**_plain(stated), "class_name": name}
    if name == "GaussianDistribution" and noise is not None:
        settings["std_type"] = "scalar" if noise == "std_param" else "log"
    return settings, name != "GaussianDistribution"
