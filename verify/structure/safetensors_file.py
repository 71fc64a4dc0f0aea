"""The safetensors file as data: every stored tensor and the record beside them, against the checkpoint."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.calibration import RECORD_KEY, policy_record_text, record_text
from deploy_kit.policy.checkpoint import TENSORS_KEY, Checkpoint
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, record_of, shipped_tensors
from deploy_kit.policy.safetensors_file import read_safetensors
from deploy_kit.policy.state_layout import CheckpointFormat, place_of
from deploy_kit.text import one_line
from deploy_kit.verify.report import FactCheck


def tensors_check(data: bytes, checkpoint: Checkpoint) -> FactCheck:
    """Return the comparison of all that a safetensors file holds with the checkpoint, bit by bit.

    Args:
        data: the file's bytes.
        checkpoint: the truth; its critic and calibration are compared too.
    """
    state = checkpoint.network.state_dict()
    expected = {place_of(key, CheckpointFormat.SAFETENSORS).name: tensor for key, tensor in state.items()}
    record = json.loads(record_text(checkpoint.network.config, checkpoint.calibration, checkpoint.iteration))
    return _compared(data, expected, record)


def _compared(data: bytes, expected: dict[str, Tensor], record: dict[str, object]) -> FactCheck:
    name, compared = "safetensors/tensors", "every stored tensor and the record, bit by bit"
    try:
        stored = read_safetensors(data, Path("policy.safetensors"))
    except CheckpointError as error:
        return FactCheck(name, compared, 1, (one_line(error),))
    problems = (*compare_tensors(stored["tensors"], expected), *compare_record(stored["metadata"], record))
    return FactCheck(name, compared, len(expected) + len(record), problems)


def compare_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[str]:
    """Yield how stored tensors differ from those that are expected."""
    yield from (f"{name} is missing" for name in sorted(expected.keys() - found.keys()))
    yield from (f"{name} is not in the checkpoint" for name in sorted(found.keys() - expected.keys()))
    for name in sorted(expected.keys() & found.keys()):
        ours, theirs = expected[name], found[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            yield f"{name} is {theirs.dtype} {tuple(theirs.shape)}, expected {ours.dtype} {tuple(ours.shape)}"
        elif (differs := _bits(ours) != _bits(theirs)).any():
            largest = float((ours.double() - theirs.double()).abs().nan_to_num(math.inf).max())
            yield f"{name} differs in {int(differs.any(dim=1).sum())} of {ours.numel()} values, by up to {largest:.3g}"


def _bits(tensor: Tensor) -> Tensor:
    """Return each value's bytes, (values, bytes): 0 and -0 are equal numbers, and one NaN does not equal itself."""
    return tensor.detach().cpu().contiguous().reshape(-1, 1).view(torch.uint8)


def compare_record(metadata: dict[str, str], expected: dict[str, object]) -> Iterator[str]:
    """Yield how a file's record differs from the one that is expected."""
    yield from (
        f"the metadata {name!r} is not on the list" for name in sorted(metadata.keys() - {RECORD_KEY, TENSORS_KEY})
    )
    try:
        found = json.loads(metadata.get(RECORD_KEY, "null"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        yield f"the metadata {RECORD_KEY!r} is missing, or no record"
        return
    for key in sorted(expected | found):
        if found.get(key) != expected.get(key):
            yield f"the record's {key} is {str(found.get(key))[:80]}, expected {str(expected.get(key))[:80]}"


def policy_tensors_check(data: bytes, checkpoint: PolicyCheckpoint) -> FactCheck:
    """Return the comparison of all that the safetensors file of any policy holds with the checkpoint, bit by bit.

    Args:
        data: the file's bytes.
        checkpoint: the truth; its head and calibration are compared too.
    """
    network = checkpoint.network
    expected = shipped_tensors(network)
    text = policy_record_text(record_of(network.spec, own_names=True), checkpoint.calibration, checkpoint.iteration)
    return _compared(data, expected, json.loads(text))
