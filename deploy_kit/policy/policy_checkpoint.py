"""Checkpoints of any policy, in and out: rsl_rl's models of all versions, safetensors, networks of the user's own.

A head lies beside what rsl_rl loads, in an entry of its own, so that the file trains on as it was.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.files import copy_folder, replace_file
from deploy_kit.policy import archive, safetensors_file
from deploy_kit.policy.calibration import RECORD_KEY, GateCalibration, parse_record, policy_record_text
from deploy_kit.policy.checkpoint import TENSORS_KEY, Checkpoint, load_checkpoint
from deploy_kit.policy.extensions import NetworkSource, find_builder
from deploy_kit.policy.fingerprint import tensors_sha256
from deploy_kit.policy.network_hints import NO_HINTS, NetworkHints
from deploy_kit.policy.policy_layout import (
    PolicyFormat,
    PolicyLayout,
    detect_layout,
    holds_safetensors,
    locate_policy,
)
from deploy_kit.policy.policy_settings import ModelSettings, checked_record, resolve_settings
from deploy_kit.policy.protocol import ObservationGroup, PolicyNetwork, PolicySpec
from deploy_kit.policy.rsl_rl_policy import RslRlPolicy, build_model, feature_layer_of, flies, state_tensors
from deploy_kit.policy.run.params import PARAMS_FOLDER, RunParams, load_run_params

HEAD_KEY = "deploy_kit_head"
"""Entry of a torch file that holds the head's ``weight`` and ``bias``; in safetensors they are ``head.*``."""


@dataclass(frozen=True)
class PolicyCheckpoint:
    """A checkpoint of any policy as read.

    Attributes:
        path: the file.
        sha256: hash of the file.
        format: how it is laid out.
        network: the policy in eval mode, on the CPU, without gradients; its head is part of it.
        iteration: training iteration, None if the file has none.
        params: the run's parameters, as far as they lie beside the file.
        calibration: threshold and training record of the head, None unless deploy-kit trained it.
        entries: everything as read, for writing back.
    """

    path: Path
    sha256: str
    format: PolicyFormat
    network: PolicyNetwork
    iteration: int | None
    params: RunParams
    calibration: GateCalibration | None
    entries: Mapping[str, Any] = field(repr=False)


def load_policy(path: Path, hints: NetworkHints = NO_HINTS) -> Checkpoint | PolicyCheckpoint:
    """Read a checkpoint of any policy without executing anything in it.

    Args:
        path: the checkpoint file.
        hints: what neither file nor run say.

    Returns:
        A `Checkpoint` for a `VisionActorCritic`, a `PolicyCheckpoint` for everything else.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, holds an unknown network, or contradicts its run.
        OptionError: a hint is missing, unknown, or contradicts what the run says.
        MissingDependencyError: rsl_rl is not installed.
    """
    other = load_other_policy(path, hints)
    return load_checkpoint(path, hints) if other is None else other


def load_other_policy(path: Path, hints: NetworkHints = NO_HINTS) -> PolicyCheckpoint | None:
    """Read a checkpoint of any policy but `VisionActorCritic`; None for one of those, see `load_policy`.

    Args:
        path: the checkpoint file.
        hints: what neither file nor run say.
    """
    data = archive.read_bytes(path)
    entries: Mapping[str, Any]
    if archive.is_torch_archive(data):
        entries = archive.read_torch_archive(data, path)
        stored = entries.get(RECORD_KEY)
    elif safetensors_file.is_safetensors(data):
        entries = safetensors_file.read_safetensors(data, path)
        stored = entries["metadata"].get(RECORD_KEY)
    else:
        raise CheckpointError(f"{path} is no checkpoint that deploy-kit reads: {archive.describe_foreign(data)}")
    params = load_run_params(path, hints.params)
    builder = find_builder(NetworkSource(path, entries, params, hints))
    if builder is None and _is_vision(entries):
        for option, given in (("--obs-shape", hints.observation_shapes), ("--feature-layer", hints.feature_layer)):
            if given:
                raise OptionError(f"{option} has no effect on VisionActorCritic ({path}); leave it out")
        return None
    record = parse_record(stored, path)
    layout = None
    if builder is not None:
        network, form = builder.build(NetworkSource(path, entries, params, hints)), PolicyFormat.EXTENSION
    else:
        layout = detect_layout(entries, path)
        recorded = checked_record(record.get("policy"), path)
        network, form = _rsl_rl_policy(entries, layout, params, recorded, hints, path), layout.format
    network.eval().requires_grad_(False)
    if HEAD_KEY in entries:
        _require_feature_layer(record, network.spec, path)
    network.head = _stored_head(entries, network.spec.feature_size, path)
    calibration = record.get("calibration")
    iteration = entries.get("iter", record.get("iteration"))
    return PolicyCheckpoint(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        format=form,
        network=network,
        iteration=iteration if isinstance(iteration, int) else None,
        params=params,
        calibration=None if calibration is None or network.head is None else GateCalibration.from_json(calibration),
        entries=entries,
    )


def _is_vision(entries: Mapping[str, Any]) -> bool:
    sections = ("model_state_dict", "actor_state_dict", "tensors")
    tensors = [entries[section] for section in sections if isinstance(entries.get(section), Mapping)]
    return any(str(name).startswith("stem.") for section in tensors for name in section)


def _rsl_rl_policy(
    entries: Mapping[str, Any],
    layout: PolicyLayout,
    params: RunParams,
    recorded: Mapping[str, Any],
    hints: NetworkHints,
    path: Path,
) -> RslRlPolicy:
    located = locate_policy(entries, layout, path)
    tensors = {name: entries[section][stored] for name, (section, stored) in located.items()}
    names = {name: stored for name, (_, stored) in located.items()}
    if layout.format is PolicyFormat.SAFETENSORS:
        _check_tensors_hash(entries, path)
    found = resolve_settings(tensors, names, layout, params, recorded, hints, path)
    model = build_model(found.settings, found.groups)
    _load(model, tensors, names, layout, found, path)
    prefix = layout.mlp
    layer, size = feature_layer_of(model, prefix, hints.feature_layer or recorded.get("feature_layer"))
    rnn = {
        key: found.settings[key] for key in ("rnn_type", "rnn_num_layers", "rnn_hidden_dim") if key in found.settings
    }
    spec = PolicySpec(
        kind=found.settings["class_name"],
        groups=tuple(ObservationGroup(name, shape) for name, shape in found.groups.items()),
        num_actions=found.settings["output_dim"],
        feature_size=size,
        feature_layer=layer,
        state=state_tensors(*rnn.values()) if rnn else (),
        normalizer_eps=found.normalizer_eps,
        settings=found.settings,
    )
    return RslRlPolicy(model, spec, prefix, names)


def _load(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    layout: PolicyLayout,
    found: ModelSettings,
    path: Path,
) -> None:
    """Load the weights strictly; what does not take part in the action may be missing."""
    expected = model.state_dict()
    for name, template in expected.items():
        if name not in tensors:
            if not flies(name):
                continue
            raise CheckpointError(
                f"{path}: {layout.section} lacks {name} of shape {tuple(template.shape)}, by the names of rsl_rl 5"
            )
        if tensors[name].shape != template.shape:
            raise CheckpointError(
                f"{path}: {names[name]} should have shape {tuple(template.shape)}, found {tuple(tensors[name].shape)}; "
                "params/agent.yaml, or a --obs-shape, is another network's: give this run's own"
            )
        bad = ~torch.isfinite(tensors[name])
        if name == "obs_normalizer._std":
            bad |= tensors[name] < 0
        if bad.any():
            index = tuple(int(i) for i in bad.nonzero()[0])
            raise CheckpointError(
                f"{path}: tensor {names[name]} holds {tensors[name][index].item()} at index {index}; the training run "
                "has diverged or the file is damaged"
            )
    if unexpected := [names[name] for name in tensors if name not in expected]:
        more = f" (nor are {len(unexpected) - 1} more)" if len(unexpected) > 1 else ""
        raise CheckpointError(
            f"{path}: tensor {unexpected[0]} is no part of rsl_rl's {found.settings['class_name']}{more}; give this "
            "run's own --params"
        )
    weights = {name: tensor.detach().to(expected[name].dtype, copy=True) for name, tensor in tensors.items()}
    # What takes no part in the action, and is not in the file, is never read.
    absent = {name: torch.zeros_like(t, device="cpu") for name, t in expected.items() if name not in tensors}
    model.load_state_dict({**absent, **weights}, strict=True, assign=True)
    if found.normalizer_eps is not None:
        normalizer: Any = model.get_submodule("obs_normalizer")
        normalizer.eps = found.normalizer_eps


def _stored_head(entries: Mapping[str, Any], size: int, path: Path) -> nn.Linear | None:
    if holds_safetensors(entries):
        stored = {name[5:]: tensor for name, tensor in entries["tensors"].items() if name.startswith("head.")}
    else:
        stored = entries.get(HEAD_KEY, {})
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path}: its entry {HEAD_KEY} is no state dict; take the file as it was before")
    if not stored:
        return None
    shapes = {"weight": (1, size), "bias": (1,)}
    found = {name: tuple(tensor.shape) for name, tensor in stored.items() if isinstance(tensor, Tensor)}
    if (
        found != shapes
        or set(stored) != set(shapes)
        or not all(torch.isfinite(tensor).all() for tensor in stored.values())
    ):
        raise CheckpointError(f"{path}: its head should have finite tensors of shapes {shapes}, found {found}")
    with torch.device("meta"):
        head = nn.Linear(size, 1)
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in stored.items()}
    head.load_state_dict(weights, assign=True)
    return head.eval().requires_grad_(False)


def _require_feature_layer(record: Mapping[str, Any], spec: PolicySpec, path: Path) -> None:
    trained = (record.get("policy") or {}).get("feature_layer")
    if trained is not None and trained != spec.feature_layer:
        raise OptionError(
            f"--feature-layer {spec.feature_layer}: the head in {path} reads what {trained} reads; leave the option out"
        )


def save_policy(
    path: Path, source: PolicyCheckpoint, head: nn.Linear | None, calibration: GateCalibration | None = None
) -> None:
    """Write a checkpoint with a head, in the format that it was read in; all that rsl_rl loads stays as it was.

    Args:
        path: target file, replaced atomically; the run's ``params/`` is copied beside it.
        source: the checkpoint that was loaded.
        head: reads the features; None leaves the source's.
        calibration: of the head; without one, the source's stays if the head is unchanged.

    Raises:
        CheckpointError: the head does not fit or is not finite, or another run's ``params/`` lies beside the target.
        InputError: the target cannot be written.
    """
    spec, entries = source.network.spec, dict(source.entries)
    old = source.network.head
    head = old if head is None else head
    if head is not None and (head.in_features != spec.feature_size or head.out_features != 1):
        raise CheckpointError(f"a head of {head.in_features} inputs does not fit {spec.feature_size} features")
    stored = {} if head is None else {name: t.detach().cpu().clone() for name, t in head.state_dict().items()}
    if not all(torch.isfinite(tensor).all() for tensor in stored.values()):
        raise CheckpointError("the head is not finite: the training has diverged, nothing was saved")
    unchanged = old is not None and stored and all(torch.equal(stored[name], t) for name, t in old.state_dict().items())
    if calibration is None and (unchanged or not stored):
        calibration = source.calibration
    text = policy_record_text(record_of(spec), calibration, source.iteration)
    if source.params.directory is not None:
        copy_folder(source.params.directory, path.parent / PARAMS_FOLDER)
    if holds_safetensors(entries):
        tensors = {**entries["tensors"], **{f"head.{name}": tensor for name, tensor in stored.items()}}
        metadata = {**entries["metadata"], RECORD_KEY: text, TENSORS_KEY: tensors_sha256(tensors)}
        data = safetensors_file.safetensors_bytes(tensors, metadata)
    else:
        entries[RECORD_KEY] = text
        if stored:
            entries[HEAD_KEY] = stored
        data = archive.torch_archive_bytes(entries)
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def save_policy_safetensors(
    path: Path, network: PolicyNetwork, iteration: int | None = None, calibration: GateCalibration | None = None
) -> None:
    """Write the tensors that fly as safetensors, with all that builds the network again in the metadata.

    A file of rsl_rl's models is read by `load_policy` without further options; one of the user's own by its builder.

    Args:
        path: target file, replaced atomically.
        network: the policy.
        iteration: training iteration.
        calibration: calibration of the head.

    Raises:
        InputError: the target cannot be written.
    """
    tensors = shipped_tensors(network)
    metadata = {RECORD_KEY: policy_record_text(record_of(network.spec, own_names=True), calibration, iteration)}
    metadata[TENSORS_KEY] = tensors_sha256(tensors)
    data = safetensors_file.safetensors_bytes(tensors, metadata)
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def shipped_tensors(network: PolicyNetwork) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name: those that fly by rsl_rl 5's names, and ``head.*``."""
    tensors = dict(network.policy_tensors())
    if isinstance(network, RslRlPolicy):
        own = {theirs: ours for ours, theirs in network.names.items()}
        tensors = {own[name]: tensor for name, tensor in tensors.items()}
    if network.head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def record_of(spec: PolicySpec, *, own_names: bool = False) -> dict[str, Any]:
    """Return what a file records of a policy, as JSON values.

    Args:
        spec: sizes and names.
        own_names: name layers as rsl_rl 5's models do, as safetensors files have them.
    """
    layer = spec.feature_layer
    return {
        "kind": spec.kind,
        "settings": json.loads(json.dumps(dict(spec.settings))),
        "groups": [[group.name, list(group.shape)] for group in spec.groups],
        "normalizer_eps": spec.normalizer_eps,
        "feature_layer": f"mlp.{layer.rpartition('.')[2]}" if own_names and spec.settings else layer,
    }


def _check_tensors_hash(entries: Mapping[str, Any], path: Path) -> None:
    stored = entries["metadata"].get(TENSORS_KEY)
    if stored is not None and stored != tensors_sha256(entries["tensors"]):
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those that deploy-kit wrote ({TENSORS_KEY}); fetch it again"
        )
