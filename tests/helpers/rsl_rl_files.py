"""Policies that rsl_rl's own classes make, in the files of its versions 2, 3 and 5."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rsl_rl.models import CNNModel, MLPModel, RNNModel
from tensordict import TensorDict

GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 1.0}
CNN = {
    "output_channels": [4, 6],
    "kernel_size": [5, 3],
    "stride": [2, 1],
    "padding": "zeros",
    "norm": ["batch", "layer"],
    "max_pool": [False, True],
}
GROUPS = {"proprio": (9,), "camera": (1, 12, 16), "command": (3,)}


@dataclass(frozen=True)
class MadePolicy:
    """A policy in a file, with the model of rsl_rl that it was made from.

    Attributes:
        path: the checkpoint; its run's ``agent.yaml`` lies beside it.
        model: rsl_rl's model, in eval mode.
        shapes: shape of each observation group.
    """

    path: Path
    model: MLPModel
    shapes: dict[str, tuple[int, ...]]

    def observations(self, steps: int, batch: int, seed: int = 0) -> list[TensorDict]:
        generator = torch.Generator().manual_seed(seed)
        return [
            TensorDict(
                {name: torch.randn(batch, *shape, generator=generator) for name, shape in self.shapes.items()},
                batch_size=[batch],
            )
            for _ in range(steps)
        ]


KINDS: dict[str, tuple[type[MLPModel], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "mlp": (MLPModel, {}, {"policy": (11,)}),
    "cnn": (CNNModel, {"cnn_cfg": CNN}, GROUPS),
    "lstm": (RNNModel, {"rnn_type": "lstm", "rnn_hidden_dim": 10, "rnn_num_layers": 2}, {"policy": (11,)}),
    "gru": (RNNModel, {"rnn_type": "gru", "rnn_hidden_dim": 10, "rnn_num_layers": 1}, {"policy": (11,)}),
}
"""Class, arguments and observation groups of each kind."""


def make_model(kind: str, *, seed: int = 0, normalizer: bool = True, **changes: Any) -> tuple[MLPModel, dict[str, Any]]:
    """Return a model of rsl_rl with a normaliser that has seen data, and its section of ``agent.yaml``."""
    cls, arguments, shapes = KINDS[kind]
    settings = {
        "hidden_dims": [16, 8],
        "activation": "elu",
        "obs_normalization": normalizer,
        "distribution_cfg": GAUSSIAN,
        **arguments,
        **changes,
    }
    obs = TensorDict({name: torch.zeros(1, *shape) for name, shape in shapes.items()}, batch_size=[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(obs, {"actor": list(shapes)}, "actor", 3, **settings)
        if normalizer:
            model.train()
            width = model.obs_normalizer._mean.shape[-1]
            model.obs_normalizer.update(3.0 * torch.randn(64, width) + 1.5)
    return model.eval(), {"class_name": cls.__name__, **settings}


def write_run(folder: Path, entries: dict[str, Any], agent: dict[str, Any]) -> Path:
    """Write a checkpoint with its run's ``agent.yaml``; return the checkpoint's path."""
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "agent.yaml").write_text(yaml.safe_dump(agent), encoding="utf-8")
    torch.save({"optimizer_state_dict": {}, "iter": 7, "infos": None, **entries}, folder / "model_7.pt")
    return folder / "model_7.pt"


def make_policy(folder: Path, kind: str, version: int = 5, **changes: Any) -> MadePolicy:
    """Write a policy as version 5, 3 or 2 of rsl_rl does."""
    model, section = make_model(kind, **changes)
    shapes = KINDS[kind][2]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if version == 5:
        critic = {"mlp.0.weight": torch.zeros(8, 5), "mlp.0.bias": torch.zeros(8)}
        entries = {"actor_state_dict": state, "critic_state_dict": critic}
        agent = {"obs_groups": {"actor": list(shapes), "critic": ["critic"]}, "actor": section}
        return MadePolicy(write_run(folder, entries, agent), model, shapes)
    renamed = {
        "mlp.": "actor.",
        "rnn.": "memory_a.",
        "cnns.": "actor_cnns.",
        "obs_normalizer.": "actor_obs_normalizer.",
    }
    joint = {}
    for name, tensor in state.items():
        old = next((new + name[len(ours) :] for ours, new in renamed.items() if name.startswith(ours)), "std")
        joint[old] = tensor
    entries = {"model_state_dict": {**joint, "critic.0.weight": torch.zeros(8, 5), "critic.0.bias": torch.zeros(8)}}
    policy = {
        "class_name": {"mlp": "ActorCritic", "cnn": "ActorCriticCNN"}.get(kind, "ActorCriticRecurrent"),
        "actor_hidden_dims": section["hidden_dims"],
        "activation": section["activation"],
        **{key: section[key] for key in ("rnn_type", "rnn_hidden_dim", "rnn_num_layers") if key in section},
    }
    if version == 3:
        policy |= {"actor_obs_normalization": section["obs_normalization"]}
        policy |= {"actor_cnn_cfg": section["cnn_cfg"]} if kind == "cnn" else {}
        agent = {"policy": policy, "obs_groups": {"policy": list(shapes), "critic": ["critic"]}}
        return MadePolicy(write_run(folder, entries, agent), model, shapes)
    tensors = entries["model_state_dict"]
    normalizer = {
        name.removeprefix("actor_obs_normalizer."): tensors.pop(name) for name in list(tensors) if "_obs_" in name
    }
    if normalizer:
        entries["obs_norm_state_dict"] = normalizer
    agent = {"policy": policy, "empirical_normalization": bool(normalizer)}
    return MadePolicy(write_run(folder, entries, agent), model, shapes)


def shape_hints(kind: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return what a user must say of the observation groups' shapes."""
    return tuple(GROUPS.items()) if kind == "cnn" else ()
