"""Checkpoints in and out, written back in the format they were read in: rsl_rl 2.x, 3.x and 5.x, safetensors."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.files import copy_folder, replace_file
from deploy_kit.policy import archive, safetensors_file
from deploy_kit.policy.calibration import RECORD_KEY, GateCalibration, GateDetector, parse_record, record_text
from deploy_kit.policy.fingerprint import tensors_sha256
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.network_hints import (
    NO_HINTS,
    NetworkHints,
    require_promised_normalizer,
    resolve_network_parameters,
)
from deploy_kit.policy.run.params import PARAMS_FOLDER, RunParams, load_run_params
from deploy_kit.policy.state_layout import (
    CheckpointFormat,
    build_network,
    detect_torch_format,
    infer_config,
    locate_tensors,
    place_of,
    require_vision_network,
)

__all__ = [
    "Checkpoint",
    "CheckpointFormat",
    "GateCalibration",
    "GateDetector",
    "load_checkpoint",
    "save_checkpoint",
    "save_safetensors",
]


TENSORS_KEY = "deploy_kit_tensors_sha256"
"""Metadata with the hash of the network's tensors in safetensors files that deploy-kit wrote.

Archives of ``torch.save`` have a checksum for each record already.
"""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: the file.
        sha256: hash of the file.
        format: how it is laid out.
        network: the policy in eval mode, on the CPU, without gradients.
        iteration: training iteration, None if the file has none.
        params: the run's parameters, as far as they lie beside the file, and the vehicle recorded in it.
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


def load_checkpoint(path: Path, hints: NetworkHints = NO_HINTS) -> Checkpoint:
    """Read a checkpoint of a `VisionActorCritic` without executing anything in it; `load_policy` reads any network.

    Sizes come from the weights. Activation and image shape come from the record in the file, from ``params/agent.yaml``
    beside it, or from the hints; where several say something, they must agree.

    Args:
        path: the checkpoint file.
        hints: what neither file nor run say.

    Raises:
        CheckpointError: if the file cannot be read, is unsafe, holds another network, or its tensors do not fit.
        OptionError: if a hint is missing, unknown, or contradicts what the run says.
    """
    data = archive.read_bytes(path)
    entries: Mapping[str, Any]
    if archive.is_torch_archive(data):
        entries = archive.read_torch_archive(data, path)
        checkpoint_format = detect_torch_format(entries, path)
        stored_record = entries.get(RECORD_KEY)
    elif safetensors_file.is_safetensors(data):
        entries = safetensors_file.read_safetensors(data, path)
        checkpoint_format = CheckpointFormat.SAFETENSORS
        stored_record = entries["metadata"].get(RECORD_KEY)
    else:
        raise CheckpointError(f"{path} is no checkpoint that deploy-kit reads: {archive.describe_foreign(data)}")
    record = parse_record(stored_record, path)
    params = replace(load_run_params(path, hints.params), recorded_vehicle=record.get("vehicle"))
    located = locate_tensors(entries, checkpoint_format, path)
    tensors = {name: entries[place.section][place.name] for name, place in located.items()}
    # Files with a record are deploy-kit's own, and have both.
    metadata = entries["metadata"] if checkpoint_format is CheckpointFormat.SAFETENSORS else {}
    hashed = RECORD_KEY in metadata or TENSORS_KEY in metadata
    if hashed and metadata.get(TENSORS_KEY) != tensors_sha256(tensors):
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those that deploy-kit wrote ({TENSORS_KEY}); fetch it again"
        )
    require_vision_network(tensors, path, located)
    known = resolve_network_parameters(hints, params, record, path)
    config = infer_config(
        tensors,
        activation=known.activation,
        image_shape=known.image_shape,
        normalizer_eps=known.normalizer_eps,
        path=path,
    )
    require_promised_normalizer(config, params, path)
    if hints.normalizer_eps is not None and config.normalizer_eps is None:
        raise OptionError(f"--normalizer-eps has no effect: {path} holds no observation normaliser; leave it out")
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

    Tensors that differ from the source's are replaced, in the source's dtype; every other entry is written as it was
    read. The calibration is added as one entry, ``deploy_kit``. Without one, the source's stays if the gate head is
    unchanged. The source's recorded vehicle stays. The run's ``params/`` folder is copied beside the file.

    Args:
        path: target file, replaced atomically.
        source: the checkpoint the network was loaded from.
        network: network of the source's shape; it may have gained a gate head.
        calibration: calibration of the network's gate head.

    Raises:
        CheckpointError: if the network's shape is not the source's, a tensor is not finite, or another run's
            ``params/`` lies beside the target.
        InputError: if the target cannot be written.
    """
    entries, head_changed = _updated_entries(source, network)
    if calibration is None and not head_changed:
        calibration = source.calibration
    # A safetensors file has no run beside it to tell activation and image shape, so its record is always written.
    vehicle = source.params.recorded_vehicle
    needs_record = calibration is not None or vehicle is not None or source.format is CheckpointFormat.SAFETENSORS
    holder = dict(entries["metadata"]) if source.format is CheckpointFormat.SAFETENSORS else entries
    holder.pop(RECORD_KEY, None)
    if needs_record:
        holder[RECORD_KEY] = record_text(network.config, calibration, source.iteration, vehicle)
    if source.params.directory is not None:
        copy_folder(source.params.directory, path.parent / PARAMS_FOLDER)
    if source.format is CheckpointFormat.SAFETENSORS:
        holder[TENSORS_KEY] = _stored_sha256(entries, path)
        data = safetensors_file.safetensors_bytes(entries["tensors"], holder)
    else:
        data = archive.torch_archive_bytes(entries)
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def save_safetensors(
    path: Path, network: VisionActorCritic, iteration: int | None = None, calibration: GateCalibration | None = None
) -> None:
    """Write a network as a safetensors checkpoint that `load_checkpoint` reads without further options.

    Tensor names are those of an rsl_rl state dict; activation, image shape and epsilon stand in the metadata.

    Args:
        path: target file, replaced atomically.
        network: the policy.
        iteration: training iteration.
        calibration: calibration of the network's gate head.

    Raises:
        InputError: if the target cannot be written.
    """
    tensors = {
        place_of(name, CheckpointFormat.SAFETENSORS).name: tensor for name, tensor in network.state_dict().items()
    }
    metadata = {RECORD_KEY: record_text(network.config, calibration, iteration)}
    metadata[TENSORS_KEY] = _stored_sha256({"tensors": tensors, "metadata": {}}, path)
    data = safetensors_file.safetensors_bytes(tensors, metadata)
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def _stored_sha256(entries: Mapping[str, Any], path: Path) -> str:
    located = locate_tensors(entries, CheckpointFormat.SAFETENSORS, path)
    return tensors_sha256({name: entries[place.section][place.name] for name, place in located.items()})


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
