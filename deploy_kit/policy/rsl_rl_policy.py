"""rsl_rl's own models behind the protocol: `MLPModel`, `CNNModel`, and `RNNModel` with LSTM or GRU."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.errors import CheckpointError, MissingDependencyError, OptionError
from deploy_kit.policy.plan import Plan, PlanBuilder
from deploy_kit.policy.protocol import NumberArray, PolicyNetwork, PolicySpec, StateTensor

MODELS: tuple[str, ...] = ("MLPModel", "CNNModel", "RNNModel")
"""rsl_rl's models that are read."""

DISTRIBUTIONS: tuple[str, ...] = (
    "GaussianDistribution",
    "HeteroscedasticGaussianDistribution",
    "BetaDistribution",
)
"""rsl_rl's distributions whose mean is exported."""

_STATE_NAMES = {"lstm": ("h", "c"), "gru": ("h",)}


def import_rsl_rl() -> ModuleType:
    """Return rsl_rl's models.

    Raises:
        MissingDependencyError: rsl_rl 5 is not installed.
    """
    try:
        return importlib.import_module("rsl_rl.models")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "rsl_rl 5 is not installed, and its models are built by its own classes: "
            'pip install "rsl-rl-lib>=5.0" tensordict'
        ) from error


class RslRlPolicy(PolicyNetwork):
    """A model of rsl_rl as a policy.

    Args:
        model: rsl_rl's model with its weights, in eval mode.
        spec: sizes and names.
        prefix: what layers of ``mlp`` are called in the checkpoint: "mlp", "actor" or "student".
        names: the checkpoint's name of each tensor of the model.
    """

    def __init__(self, model: nn.Module, spec: PolicySpec, prefix: str, names: Mapping[str, str]) -> None:
        super().__init__(spec)
        self.model, self._prefix, self.names = model, prefix, dict(names)
        self._seen: list[Tensor] = []
        layer = self._mlp().get_submodule(spec.feature_layer.rpartition(".")[2])
        layer.register_forward_pre_hook(self._remember)

    def _mlp(self) -> nn.Sequential:
        mlp = self.model.get_submodule("mlp")
        assert isinstance(mlp, nn.Sequential)
        return mlp

    def _remember(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._seen.append(given[0])

    def act(
        self, observation: Mapping[str, Tensor], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return what rsl_rl's own forward gives, what the feature layer reads, and the next state."""
        from tensordict import TensorDict

        groups = {group.name: observation[group.name] for group in self.spec.groups}
        count = len(next(iter(groups.values())))
        memory: Any = getattr(self.model, "rnn", None)
        if memory is not None:
            memory.hidden_state = state if len(state) > 1 else state[0]
        self._seen.clear()
        action = self.model(TensorDict(groups, batch_size=[count]))
        features = self._seen.pop()
        after: tuple[Tensor, ...] = ()
        if memory is not None:
            after = memory.hidden_state if isinstance(memory.hidden_state, tuple) else (memory.hidden_state,)
            memory.hidden_state = None
        return action, features, after

    def policy_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that fly, by their names in the checkpoint."""
        tensors = self.model.state_dict()
        return {theirs: tensors[ours] for ours, theirs in self.names.items() if flies(ours)}

    def usual_numbers(self) -> dict[str, tuple[NumberArray, NumberArray]]:
        """Return mean and deviation of the numbers of each flat group, as the normaliser has seen them."""
        if self.spec.normalizer_eps is None:
            return {}
        normalizer: Any = self.model.obs_normalizer
        mean, deviation = (tensor.detach().numpy().reshape(-1) for tensor in (normalizer._mean, normalizer._std))
        usual, start = {}, 0
        for group in self.spec.groups:
            if len(group.shape) == 1:
                columns = slice(start, start + group.shape[0])
                usual[group.name] = mean[columns], deviation[columns]
                start += group.shape[0]
        return usual

    def plan(self) -> Plan:
        """Return the operators of one step."""
        builder, model = PlanBuilder(), self.model
        values = {group.name: builder.input(group.name) for group in self.spec.groups}
        before = [builder.input(item.input) for item in self.spec.state]
        cnns = getattr(model, "cnns", {})
        flat = [values[group.name] for group in self.spec.groups if len(group.shape) == 1]
        parts: list[str] = []
        if flat:
            value = builder.concatenated(flat, "observation groups")
            if self.spec.normalizer_eps is not None:
                normalizer: Any = model.obs_normalizer
                value = builder.normalised(
                    value, normalizer._mean, normalizer._std + normalizer.eps, "observation normaliser"
                )
            parts.append(value)
        parts += [
            builder.module(values[group.name], cnns[group.name], f"cnns.{group.name}")
            for group in self.spec.groups
            if len(group.shape) == 3
        ]
        value = builder.concatenated(parts, "what the network reads")
        after: tuple[str, ...] = ()
        if before:
            memory: Any = model.rnn
            value, after = builder.recurrent(value, memory.rnn, before, "rnn.rnn")
        features = value
        for name, layer in self._mlp()._modules.items():  # named_children leaves out shared activations
            assert layer is not None
            if f"{self._prefix}.{name}" == self.spec.feature_layer:
                features = value
            value = builder.module(value, layer, f"{self._prefix}.{name}")
        return builder.finish(self._mean(builder, value), features, after)

    def _mean(self, builder: PlanBuilder, value: str) -> str:
        """Add what makes actions of the last layer's numbers."""
        distribution: Any = self.model.distribution
        kind = type(distribution).__name__
        if distribution is None or kind == "GaussianDistribution":
            return value
        count = self.spec.num_actions
        first = builder.columns(value, 0, count, "distribution")
        if kind == "HeteroscedasticGaussianDistribution":
            return first
        second = builder.columns(value, count, 2 * count, "distribution")
        alpha, beta = (
            builder.shifted(builder.add("Softplus", [raw], "distribution"), 1.0, "distribution")
            for raw in (first, second)
        )
        share = builder.add("Div", [alpha, builder.add("Add", [alpha, beta], "distribution")], "distribution")
        low, high = distribution.action_range
        return builder.shifted(builder.scaled(share, high - low, "distribution"), low, "distribution")


def flies(name: str) -> bool:
    """Return whether a tensor of a model takes part in the mean of its actions."""
    passive = ("obs_normalizer._var", "obs_normalizer.count")
    return not (name.startswith("distribution.") or name in passive or name.endswith("num_batches_tracked"))


def state_tensors(kind: str, layers: int, hidden: int) -> tuple[StateTensor, ...]:
    """Return the memory of an "lstm" or a "gru", by rsl_rl's names."""
    return tuple(StateTensor(f"{name}_in", f"{name}_out", layers, hidden) for name in _STATE_NAMES[kind])


def build_model(settings: Mapping[str, Any], groups: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Build a model of rsl_rl without weights: its tensors are on torch's meta device and take no memory.

    Args:
        settings: ``class_name``, ``output_dim`` and the class's own arguments.
        groups: shape of each observation group, in order.

    Raises:
        CheckpointError: rsl_rl refuses the settings.
        MissingDependencyError: rsl_rl is not installed.
    """
    models = import_rsl_rl()
    from tensordict import TensorDict

    arguments = {key: value for key, value in settings.items() if key not in ("class_name", "output_dim")}
    try:
        with torch.device("meta"):
            example = TensorDict({name: torch.zeros(1, *shape) for name, shape in groups.items()}, batch_size=[1])
            model: nn.Module = getattr(models, settings["class_name"])(
                example, {"policy": list(groups)}, "policy", settings["output_dim"], **arguments
            )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"rsl_rl's {settings['class_name']} cannot be built: {error}") from error
    return model


def feature_layer_of(model: nn.Module, prefix: str, wanted: str | None) -> tuple[str, int]:
    """Return the layer that reads the features, by its name in the checkpoint, and how many numbers it reads.

    Args:
        model: rsl_rl's model.
        prefix: what layers of ``mlp`` are called in the checkpoint.
        wanted: name that the user gives; the last linear layer, which gives the action, if None.

    Raises:
        OptionError: there is no such layer.
    """
    layers = {
        f"{prefix}.{name}": layer.in_features
        for name, layer in model.get_submodule("mlp").named_children()
        if isinstance(layer, nn.Linear)
    }
    name = list(layers)[-1] if wanted is None else wanted
    if name not in layers:
        raise OptionError(
            f"--feature-layer {name}: the policy has no linear layer of that name; its layers are {', '.join(layers)}"
        )
    return name, layers[name]
