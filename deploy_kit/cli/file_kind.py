"""Tells what a file or folder is, from its content before its name. Nothing of it is executed or unpacked."""

import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy_kit.errors import InputError


class FileKind(StrEnum):
    """Files and folders that deploy-kit writes or reads."""

    BUNDLE = "bundle"
    FINETUNING = "finetuning"
    RUN = "run"
    CHECKPOINT = "checkpoint"
    FEATURE_FILE = "feature file"
    ONNX = "ONNX graph"
    TORCHSCRIPT = "TorchScript module"
    ARRAYS = "arrays"
    CONTRACT = "contract"
    MANIFEST = "manifest"
    REPORT = "report"
    METRICS = "metrics"
    FLIGHT = "flight"
    FLIGHT_LOG = "flight log"
    VEHICLE = "vehicle"


_KEYS: tuple[tuple[FileKind, frozenset[str]], ...] = (
    (FileKind.MANIFEST, frozenset({"manifest_version"})),
    (FileKind.REPORT, frozenset({"checks", "verdicts"})),
    (FileKind.CONTRACT, frozenset({"inputs", "outputs", "provenance"})),
    (FileKind.METRICS, frozenset({"epochs", "best_epoch"})),
    (FileKind.FLIGHT, frozenset({"flights"})),
)
"""Keys that tell JSON files apart."""

_KNOWN = (
    "inspect knows checkpoints, feature files (.h5), vehicle files, the JSON file of fly, flight logs, each file of "
    "a bundle "
    "(policy.onnx, policy.pt, contract.json, golden.npz, manifest.json, report.json), finetune's metrics.json, and "
    "bundle, run and finetune folders"
)


def kind_of(path: Path) -> FileKind:
    """Return what a file or folder is.

    Raises:
        InputError: it does not exist, cannot be read, or is nothing known.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; {_KNOWN}")
    kind = _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)
    if kind is None:
        raise InputError(f"{path} is {'a folder of' if path.is_dir() else 'a file of'} an unknown kind; {_KNOWN}")
    return kind


def _kind_of_folder(folder: Path) -> FileKind | None:
    from deploy_kit.policy.run.directory import checkpoints_in

    if (folder / "manifest.json").is_file():
        return FileKind.BUNDLE
    training, finetuned = checkpoints_in(folder)
    if training:
        return FileKind.RUN
    return FileKind.FINETUNING if finetuned else None


def _kind_of_file(path: Path) -> FileKind | None:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x89HDF\r\n\x1a\n") or path.suffix == ".h5":
        return FileKind.FEATURE_FILE
    if head.startswith(b"DKFLIGHT") or path.suffix == ".dklog":
        return FileKind.FLIGHT_LOG
    if head.startswith(b"PK"):
        return _kind_of_archive(path)
    if path.suffix == ".onnx":
        return FileKind.ONNX
    if path.suffix in (".yaml", ".yml"):
        return FileKind.VEHICLE
    # A pickle, or a safetensors file: eight bytes of length, then JSON. The suffixes, so that a damaged one is named.
    if head[:1] == b"\x80" or head[8:9] == b"{" or path.suffix in (".pt", ".pth", ".safetensors"):
        return FileKind.CHECKPOINT
    if head.lstrip()[:1] == b"{" or path.suffix == ".json":
        return _kind_of_json(path)
    return None


def _kind_of_archive(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        names = []  # whoever reads it says what is wrong
    if any("/code/" in name for name in names):
        return FileKind.TORCHSCRIPT
    if path.suffix == ".npz" or (names and all(name.endswith(".npy") for name in names)):
        return FileKind.ARRAYS
    return FileKind.CHECKPOINT


def _kind_of_json(path: Path) -> FileKind | None:
    from deploy_kit.files import read_json_object
    from deploy_kit.policy.run.vehicle import KEYS

    data: dict[str, Any] = read_json_object(path)
    for kind, keys in _KEYS:
        if keys <= set(data):
            return kind
    return FileKind.VEHICLE if set(KEYS) & set(data) else None
