"""Checkpoint files of every supported format, written as the trainers write them."""

import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from deploy_kit.policy.checkpoint import GateCalibration, GateDetector
from deploy_kit.policy.network import VisionActorCritic

CALIBRATION = GateCalibration(
    detector=GateDetector(0.1 + 0.2, -1.7, 10, 5),
    rule="best F1 on validation episodes",
    base_rate=0.021,
    label_rule="within 0.35 m of the gate's centre after the step",
    label_distance_m=0.35,
    label_offset_steps=1,
    policy_period_s=0.03,
    clip_actions=None,
    dataset_sha256="d" * 64,
    metrics={"auroc": 0.97},
    tool_version="0.1.0",
    training={"epochs": 5},
)
"""What finetuning records of a gate head."""


def write_racing_run(folder: Path, network: VisionActorCritic) -> Path:
    """Write a run of the racing task as rsl_rl 2.x leaves it, without ``env.yaml``; return the checkpoint's path."""
    entries = {
        "model_state_dict": {**network.state_dict(), "std": torch.ones(4)},
        "optimizer_state_dict": {},
        "iter": 7,
        "infos": None,
    }
    rows, columns = network.config.layout.image_shape
    agent = f"policy:\n  activation: lrelu\n  img_res: !!python/tuple\n  - {rows}\n  - {columns}\n"
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "agent.yaml").write_text(agent, encoding="utf-8")
    torch.save(entries, folder / "model_7.pt")
    return folder / "model_7.pt"


def normalizer_state(network: VisionActorCritic) -> dict[str, torch.Tensor]:
    mean, std = network.normalizer.mean, network.normalizer.std
    return {"_mean": mean.clone(), "_var": std**2, "_std": std.clone(), "count": torch.tensor(1000)}


def optimizer_state(parameters: list[torch.Tensor], untouched: int = 0) -> dict[str, object]:
    leaves = [p.detach().clone().float().requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam(leaves, lr=1e-3)
    trained = leaves[: len(leaves) - untouched]
    sum((leaf**2).sum() for leaf in trained).backward()
    optimizer.step()
    return optimizer.state_dict()


def joint_entries(
    network: VisionActorCritic, generation: int = 3, dtype: torch.dtype = torch.float32
) -> dict[str, object]:
    """Entries as rsl_rl 2.x or 3.x saves them; the gate head is registered last and has no gradient, as in PPO."""
    model = OrderedDict(std=torch.full((network.config.num_actions,), 0.3))
    for name, tensor in network.state_dict().items():
        if not name.startswith("normalizer."):
            model[name] = tensor.clone().to(dtype) if tensor.is_floating_point() else tensor.clone()
    model._metadata = OrderedDict({"": {"version": 1}, "stem": {"version": 1}})
    buffers = dict(network.named_buffers())
    heads = [name for name in model if name.startswith("aux_decoder.")]
    parameters = [tensor for name, tensor in model.items() if name not in buffers]
    entries = {
        "model_state_dict": model,
        "optimizer_state_dict": optimizer_state(parameters, len(heads)),
        "iter": 123,
        "infos": {"note": "kept", "steps": [1, 2.5, None]},
    }
    if network.normalizer is not None and generation == 2:
        entries["obs_norm_state_dict"] = normalizer_state(network)
        entries["privileged_obs_norm_state_dict"] = normalizer_state(network)
    elif network.normalizer is not None:
        for name, tensor in normalizer_state(network).items():
            model[f"actor_obs_normalizer.{name}"] = tensor
            model[f"critic_obs_normalizer.{name}"] = tensor + 1
    return entries


def split_entries(network: VisionActorCritic) -> dict[str, object]:
    """Entries as rsl_rl 5.x saves them, the stem held by the actor alone."""
    actor: OrderedDict[str, torch.Tensor] = OrderedDict()
    critic: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in network.state_dict().items():
        if name.startswith("critic."):
            critic["mlp." + name.removeprefix("critic.")] = tensor.clone()
        elif not name.startswith("normalizer."):
            actor[name.replace("actor.", "mlp.", 1) if name.startswith("actor.") else name] = tensor.clone()
    actor["distribution.std_param"] = torch.full((network.config.num_actions,), 0.3)
    if network.normalizer is not None:
        for name, tensor in normalizer_state(network).items():
            actor[f"obs_normalizer.{name}"] = tensor
            critic[f"obs_normalizer.{name}"] = tensor + 1
    return {
        "actor_state_dict": actor,
        "critic_state_dict": critic,
        "optimizer_state_dict": optimizer_state([p for p in actor.values() if p.is_floating_point()]),
        "iter": 77,
        "infos": None,
    }


AGENT_YAML = """\
empirical_normalization: false
policy:
  class_name: VisionActorCritic
  activation: {activation}
  img_res: !!python/tuple
  - {rows}
  - {columns}
experiment_name: tiny
"""


def write_run(
    folder: Path,
    entries: dict[str, object],
    network: VisionActorCritic,
    name: str = "model_123.pt",
    agent: str | None = None,
) -> Path:
    """Write a run folder with the checkpoint and its params."""
    (folder / "params").mkdir(parents=True, exist_ok=True)
    rows, columns = network.config.layout.image_shape
    text = agent or AGENT_YAML.format(activation=network.config.activation, rows=rows, columns=columns)
    (folder / "params" / "agent.yaml").write_text(text)
    (folder / "params" / "env.yaml").write_text("decimation: 3\nids: !!python/object/apply:builtins.slice\n- null\n")
    torch.save(entries, folder / name)
    return folder / name


def rewrite_zip(source: Path, target: Path, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Copy a zip file with some records' contents replaced, by the end of their name."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            data = old.read(record)
            for ending, replacement in change.items():
                if record.filename.endswith(ending):
                    data = replacement
            new.writestr(record.filename, data)
    return target


def equal_values(a: object, b: object) -> bool:
    """Compare nested containers bit for bit, types and dtypes included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        same_metadata = getattr(a, "_metadata", None) == getattr(b, "_metadata", None)
        return same_metadata and list(a) == list(b) and all(equal_values(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal_values, a, b))
    return a == b
