"""Checkpoints in and out: rsl_rl 2.x, 3.x and 5.x files and safetensors, written back in the format they were read in."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy import archive, safetensors_file
from deploy_kit.policy.files import copy_folder, replace_file
from deploy_kit.policy.network import ACTIVATIONS, NetworkConfig, VisionActorCritic
from deploy_kit.policy.params import PARAMS_FOLDER, RunParams, load_run_params
from deploy_kit.policy.state_layout import (
    CheckpointFormat,
    build_network,
    detect_torch_format,
    infer_config,
    locate_tensors,
    place_of,
)

__all__ = [
    "Checkpoint",
    "CheckpointFormat",
    "GateCalibration",
    "load_checkpoint",
    "save_checkpoint",
    "save_safetensors",
]

DEFAULT_NORMALIZER_EPS = 1e-2
"""Epsilon of rsl_rl's EmpiricalNormalization; checkpoints do not store it."""

RECORD_KEY = "deploy_kit"
"""The one entry that deploy-kit adds to a checkpoint: JSON text."""

_RECORD_SCHEMA = 1


@dataclass(frozen=True)
class GateCalibration:
    """How the gate head was trained and how its threshold was chosen.

    Attributes:
        threshold_logit: logit at and above which the step counts as a gate pass.
        rule: how the threshold was chosen, for example "best F1 on validation episodes".
        base_rate: share of positive steps in the rows the threshold was chosen on.
        label_rule: what a positive label means.
        label_offset_steps: steps from the observation to its label.
        dataset_sha256: hash of the feature file.
        metrics: named figures on held-out rows.
        tool_version: version of deploy-kit.
        training: epochs, learning rate, perturbation and the like.
    """

    threshold_logit: float
    rule: str
    base_rate: float
    label_rule: str
    label_offset_steps: int
    dataset_sha256: str
    metrics: dict[str, float]
    tool_version: str
    training: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {"threshold_logit": self.threshold_logit, "base_rate": self.base_rate, **self.metrics}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise CheckpointError(f"gate calibration: {name} is {value!r}, not a finite number")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build from `to_json`'s values.

        Raises:
            CheckpointError: if fields are missing, unknown or of the wrong kind.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise CheckpointError(f"gate calibration should have the fields {sorted(names)}, found {found}")
        if not isinstance(data["metrics"], dict) or not isinstance(data["training"], dict):
            raise CheckpointError("gate calibration: metrics and training should be mappings")
        return cls(**data)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: the file.
        sha256: hash of the file.
        format: how it is laid out.
        network: the policy in eval mode, on the CPU, without gradients.
        iteration: training iteration, None if the file has none.
        params: the run's parameters, as far as they lie beside the file.
        calibration: gate threshold and training record, None unless deploy-kit trained the head.
        entries: everything as read, for writing back. For safetensors: ``tensors`` and ``metadata``.
    """

    path: Path
    sha256: str
    format: CheckpointFormat
    network: VisionActorCritic
    iteration: int | None
    params: RunParams
    calibration: GateCalibration | None
    entries: Mapping[str, Any] = field(repr=False)


def load_checkpoint(
    path: Path,
    *,
    activation: str | None = None,
    image_shape: tuple[int, int] | None = None,
    normalizer_eps: float | None = None,
) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Sizes come from the weights. Activation and image shape come from the record in the file, from ``params/agent.yaml`` beside it, or
    from the arguments; where several say something, they must agree.

    Args:
        path: the checkpoint file.
        activation: activation name as rsl_rl spells it.
        image_shape: (rows, columns) of the depth image.
        normalizer_eps: epsilon of a stored observation normaliser; rsl_rl's 1e-2 if not given.

    Raises:
        CheckpointError: if the file cannot be read, is unsafe, holds another network, or its tensors do not fit.
        OptionError: if an argument is missing, unknown, or contradicts what the run says.
    """
    data = archive.read_bytes(path)
    entries: Mapping[str, Any]
    if archive.is_torch_archive(data):
        entries = archive.read_torch_archive(data, path)
        checkpoint_format = detect_torch_format(entries, path)
        record_text = entries.get(RECORD_KEY)
    elif safetensors_file.is_safetensors(data):
        entries = safetensors_file.read_safetensors(data, path)
        checkpoint_format = CheckpointFormat.SAFETENSORS
        record_text = entries["metadata"].get(RECORD_KEY)
    else:
        raise CheckpointError(f"{path} is no checkpoint that deploy-kit reads: {archive.describe_foreign(data)}")
    record = _parse_record(record_text, path)
    params = load_run_params(path)
    located = locate_tensors(entries, checkpoint_format, path)
    tensors = {name: entries[place.section][place.name] for name, place in located.items()}
    config = infer_config(
        tensors,
        activation=_resolve_activation(activation, params, record, path),
        image_shape=_resolve_image_shape(image_shape, params, record, path),
        normalizer_eps=_resolve_eps(normalizer_eps, record),
        path=path,
    )
    _require_promised_normalizer(config, params, path)
    network = build_network(config, tensors, path)
    calibration = None if record.get("calibration") is None else GateCalibration.from_json(record["calibration"])
    iteration = entries.get("iter", record.get("iteration"))
    return Checkpoint(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        format=checkpoint_format,
        network=network,
        iteration=iteration if isinstance(iteration, int) else None,
        params=params,
        calibration=calibration,
        entries=entries,
    )


def save_checkpoint(
    path: Path, source: Checkpoint, network: VisionActorCritic, calibration: GateCalibration | None = None
) -> None:
    """Write a network in the format of the checkpoint it comes from.

    Tensors that differ from the source's are replaced, in the source's dtype; every other entry is written as it was read. The
    calibration is added as one entry, ``deploy_kit``. Without one, the source's calibration stays if the gate head is unchanged. The run's
    ``params/`` folder is copied beside the file.

    Args:
        path: target file, replaced atomically.
        source: the checkpoint the network was loaded from.
        network: of the source's shape; it may have gained a gate head.
        calibration: of the network's gate head.

    Raises:
        CheckpointError: if the network's shape is not the source's, a tensor is not finite, the target cannot be written, or another
            run's ``params/`` lies beside it.
    """
    entries, head_changed = _updated_entries(source, network)
    if calibration is None and not head_changed:
        calibration = source.calibration
    record_text = None if calibration is None else _record_text(network.config, calibration, source.iteration)
    folder = source.params.directory
    if folder is not None:
        copy_folder(folder, path.parent / PARAMS_FOLDER)
    if source.format is CheckpointFormat.SAFETENSORS:
        metadata = {key: value for key, value in entries["metadata"].items()}
        config_text = record_text or _record_text(network.config, None, source.iteration)
        metadata[RECORD_KEY] = config_text
        replace_file(
            path, lambda temporary: safetensors_file.write_safetensors(temporary, entries["tensors"], metadata)
        )
        return
    entries.pop(RECORD_KEY, None)
    if record_text is not None:
        entries[RECORD_KEY] = record_text
    replace_file(path, lambda temporary: torch.save(entries, temporary))


def save_safetensors(
    path: Path, network: VisionActorCritic, iteration: int | None = None, calibration: GateCalibration | None = None
) -> None:
    """Write a network as a safetensors checkpoint that `load_checkpoint` reads without further options.

    Tensor names are those of an rsl_rl state dict; activation, image shape and epsilon stand in the metadata.

    Args:
        path: target file, replaced atomically.
        network: the policy.
        iteration: training iteration.
        calibration: of the network's gate head.

    Raises:
        CheckpointError: if the target cannot be written.
    """
    tensors = {
        place_of(name, CheckpointFormat.SAFETENSORS).name: tensor for name, tensor in network.state_dict().items()
    }
    metadata = {RECORD_KEY: _record_text(network.config, calibration, iteration)}
    replace_file(path, lambda temporary: safetensors_file.write_safetensors(temporary, tensors, metadata))


def _updated_entries(source: Checkpoint, network: VisionActorCritic) -> tuple[dict[str, Any], bool]:
    """Return the source's entries with the network's changed tensors in place, and whether the gate head changed."""
    entries = dict(source.entries)
    located = locate_tensors(entries, source.format, source.path)
    tensors = network.state_dict()
    if missing := [name for name in located if name not in tensors]:
        raise CheckpointError(
            f"the network to save has no {missing[0]}, which {source.path} holds: save the network that was loaded"
        )
    copied: set[str] = set()
    head_changed = False
    for name, tensor in tensors.items():
        place = located.get(name)
        stored = None if place is None else entries[place.section][place.name]
        if (
            stored is not None
            and stored.shape == tensor.shape
            and torch.equal(stored.to(tensor.dtype), tensor.detach().cpu())
        ):
            continue
        _require_replaceable(name, tensor, stored, source.path)
        head_changed |= name.startswith("aux_decoder.")
        place = place or place_of(name, source.format)
        if place.section not in copied:
            entries[place.section] = copy.copy(entries[place.section])
            copied.add(place.section)
        dtype = tensor.dtype if stored is None else stored.dtype
        entries[place.section][place.name] = tensor.detach().cpu().to(dtype, copy=True)
    return entries, head_changed


def _require_replaceable(name: str, tensor: Tensor, stored: Tensor | None, path: Path) -> None:
    if stored is None and not name.startswith("aux_decoder."):
        raise CheckpointError(
            f"{path} has no tensor {name}: only a gate head (aux_decoder) can be added to a checkpoint"
        )
    if stored is not None and stored.shape != tensor.shape:
        raise CheckpointError(f"tensor {name} has shape {tuple(tensor.shape)}, in {path} it has {tuple(stored.shape)}")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"tensor {name} is not finite: the training has diverged, nothing was saved")


def _record_text(config: NetworkConfig, calibration: GateCalibration | None, iteration: int | None) -> str:
    record: dict[str, Any] = {
        "schema": _RECORD_SCHEMA,
        "activation": config.activation,
        "image_shape": list(config.layout.image_shape),
        "normalizer_eps": config.normalizer_eps,
        "iteration": iteration,
        "calibration": None if calibration is None else calibration.to_json(),
    }
    return json.dumps(record, sort_keys=True, allow_nan=False)


def _parse_record(text: Any, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        record = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} is not JSON text; take the checkpoint as it was before finetuning"
        ) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != _RECORD_SCHEMA:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} has schema {schema!r}, this version reads {_RECORD_SCHEMA}: update deploy-kit"
        )
    return dict(record)


def _agree(what: str, candidates: list[tuple[str, Any]], path: Path) -> Any:
    """Return the value that all sources which have one agree on, None if none has."""
    known = [(source, value) for source, value in candidates if value is not None]
    for source, value in known[1:]:
        if value != known[0][1]:
            raise OptionError(
                f"{what} of {path}: {known[0][0]} says {known[0][1]}, but {source} says {value}; leave out the wrong one"
            )
    return known[0][1] if known else None


def _resolve_activation(option: str | None, params: RunParams, record: dict[str, Any], path: Path) -> str:
    candidates = [
        ("--activation", option),
        ("the file", record.get("activation")),
        *(
            (f"params/agent.yaml ({group}.activation)", params.lookup("agent", group, "activation"))
            for group in ("policy", "actor", "critic")
        ),
    ]
    names = ", ".join(sorted(ACTIVATIONS))
    for source, value in candidates:
        if value is not None and (not isinstance(value, str) or value not in ACTIVATIONS):
            raise OptionError(f"activation {value!r} of {path}, from {source}, is not supported; known are {names}")
    activation = _agree("activation", candidates, path)
    if activation is None:
        raise OptionError(
            f"{path} does not say its activation and there is no params/agent.yaml beside it: give --activation ({names})"
        )
    return str(activation)


def _resolve_image_shape(
    option: tuple[int, int] | None, params: RunParams, record: dict[str, Any], path: Path
) -> tuple[int, int]:
    sources = [("--image-shape", option), ("the file", record.get("image_shape"))]
    for group in ("policy", "actor"):
        for key in ("img_res", "image_shape"):
            sources.append((f"params/agent.yaml ({group}.{key})", params.lookup("agent", group, key)))
    candidates = [(source, None if value is None else _image_shape(value, source, path)) for source, value in sources]
    shape: tuple[int, int] | None = _agree("image shape", candidates, path)
    if shape is None:
        raise OptionError(
            f"{path} does not say its image shape and there is no params/agent.yaml beside it: give --image-shape ROWS COLUMNS"
        )
    return shape


def _image_shape(value: Any, source: str, path: Path) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        rows, columns = value
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value):
            return rows, columns
    raise OptionError(
        f"image shape {value!r} of {path}, from {source}, is not two positive whole numbers (rows, columns)"
    )


def _resolve_eps(option: float | None, record: dict[str, Any]) -> float:
    """Let the option win: the recorded epsilon is an assumption too, since training never stores it."""
    eps = option if option is not None else record.get("normalizer_eps")
    if eps is None:
        return DEFAULT_NORMALIZER_EPS
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps) or eps < 0:
        raise OptionError(f"--normalizer-eps {eps!r} is not a finite number of at least 0")
    return float(eps)


def _require_promised_normalizer(config: NetworkConfig, params: RunParams, path: Path) -> None:
    switches = (("empirical_normalization",), ("policy", "actor_obs_normalization"), ("actor", "obs_normalization"))
    for keys in switches:
        if config.normalizer_eps is None and params.lookup("agent", *keys) is True:
            raise CheckpointError(
                f"{path} holds no observation normaliser, but its params/agent.yaml trained with one ({'.'.join(keys)}): "
                "the policy would fly on unnormalised observations; give the complete checkpoint"
            )
