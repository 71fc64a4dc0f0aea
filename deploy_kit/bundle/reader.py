"""Read a bundle: manifest, contract, golden samples, with everything checked before it is used. Needs no torch."""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.golden_arrays import read_arrays
from deploy_kit.bundle.schema import schema_problem
from deploy_kit.errors import BundleError
from deploy_kit.files import file_sha256
from deploy_kit.strict_json import strict_json

ONNX_NAME = "policy.onnx"
TORCHSCRIPT_NAME = "policy.pt"
SAFETENSORS_NAME = "policy.safetensors"
CONTRACT_NAME = "contract.json"
GOLDEN_NAME = "golden.npz"
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = f"{MANIFEST_NAME}.sig"
"""The manifest's Ed25519 signature, 64 bytes as ``openssl pkeyutl -sign -rawin`` writes them."""

OPENSSF_NAME = "model.sig"
"""OpenSSF's signature, a Sigstore bundle as JSON."""

BESIDE = (MANIFEST_NAME, SIGNATURE_NAME, OPENSSF_NAME)
"""Files of a bundle's folder that no manifest lists; reports (`is_report`) lie there too."""

BUNDLE_FILES = (ONNX_NAME, TORCHSCRIPT_NAME, SAFETENSORS_NAME, CONTRACT_NAME, GOLDEN_NAME)
"""Files that every bundle holds and its manifest lists."""

CPP_NAME = "policy.hpp"
HEADERS = {"cpp": CPP_NAME, "cpp-fp16": "policy.fp16.hpp", "cpp-int8": "policy.int8.hpp"}
"""C++ headers by the format that export is asked for; the name says in which form large matrices are stored."""

HEADER_PROFILES = {"cpp-fp16": "fp16", "cpp-int8": "int8"}
"""Profile by which a header with narrow weights is judged against the checkpoint."""

STORED = "-stored"
"""Ending of the name under which such a header is held against its own weights, within the limits of float32."""

LEAPP_NAME = "leapp.yaml"
FP16_NAME, INT8_NAME = "policy.fp16.onnx", "policy.int8.onnx"

OPTIONAL_FILES = (*HEADERS.values(), LEAPP_NAME, FP16_NAME, INT8_NAME)
"""Files that a bundle holds where export was asked for them; its manifest then lists them too."""

_REPORT = re.compile(r"report(-[A-Za-z0-9_-]+)?\.(json|html|xml|md)", re.ASCII)

MANIFEST_VERSION = 1
MAX_JSON_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30

_GATE_ARRAYS = ("gate_logit", "gate_terms")


@dataclass(frozen=True)
class GoldenSamples:
    """Observations with the outputs that PyTorch gave for them.

    Attributes:
        observation: (K, 6928) float32, flat, as the policy takes it.
        action: (K, 4) float32, the network's unbounded action, whatever the graph puts out.
        command: (K, 4) float32, the vehicle's command of it: collective thrust over mass, m/s², and body rates, rad/s.
        gate_logit: (K, 1) float32, None if the bundle has no gate output.
        gate_terms: (K, 1) float32, summed sizes of the terms that each logit is the sum of; None likewise.
        features: (K, 192) float32.
        reason: (K,) strings, why each sample was kept.
        source: "recorded" or "synthetic".
    """

    observation: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    command: npt.NDArray[np.float32]
    gate_logit: npt.NDArray[np.float32] | None
    gate_terms: npt.NDArray[np.float32] | None
    features: npt.NDArray[np.float32]
    reason: npt.NDArray[np.str_]
    source: str

    def __len__(self) -> int:
        return len(self.observation)


@dataclass(frozen=True)
class BundleFolder:
    """A bundle's files, which have the sizes and hashes that its manifest names.

    Attributes:
        path: the folder.
        files: sha256 of each file that the manifest lists.
    """

    path: Path
    files: dict[str, str]

    @property
    def onnx_path(self) -> Path:
        """The ONNX graph."""
        return self.path / ONNX_NAME

    @property
    def torchscript_path(self) -> Path:
        """The TorchScript module."""
        return self.path / TORCHSCRIPT_NAME

    @property
    def safetensors_path(self) -> Path:
        """The weights."""
        return self.path / SAFETENSORS_NAME

    def read(self, name: str) -> bytes:
        """Return a file's bytes, which are those that the manifest lists.

        Raises:
            BundleError: the file cannot be read, or has changed since the bundle was opened.
        """
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path / name}: cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise BundleError(f"{self.path / name}: has changed since the bundle was opened; copy the bundle again")
        return data


@dataclass(frozen=True)
class Bundle(BundleFolder):
    """A bundle of a `VisionActorCritic`.

    Attributes:
        contract: the contract of `contract.json`.
    """

    contract: Contract

    @cached_property
    def golden(self) -> GoldenSamples:
        """The golden samples.

        Raises:
            BundleError: they do not fit the contract.
        """
        return read_golden(self.path / GOLDEN_NAME, self.contract)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check its manifest and contract.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: no bundle, a file is missing, altered, a link or outside, or the contract cannot be read.
    """
    files = check_files(path)
    text = read_json_text(path / CONTRACT_NAME)
    contract = Contract.from_json(text, str(path / CONTRACT_NAME))
    if (problem := schema_problem(json.loads(text))) is not None:
        raise BundleError(f"{path / CONTRACT_NAME}: {problem}; export the bundle again")
    return Bundle(path, files, contract)


def check_files(path: Path) -> dict[str, str]:
    """Check that a bundle's files are those that its manifest lists, and return the sha256 of each.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: no bundle, or a file is missing, altered, unreadable, a link or outside.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle folder; give the folder that `deploy-kit export` wrote")
    try:
        manifest = _read_manifest(path / MANIFEST_NAME)
        for name, entry in manifest.items():
            _check_file(path, name, entry)
    except OSError as error:
        raise BundleError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    return {name: entry["sha256"] for name, entry in manifest.items()}


def is_report(name: str) -> bool:
    """Return whether a file beside a bundle's has a name that verify gives a report: report.json, report-NAME.html."""
    return _REPORT.fullmatch(name) is not None


def manifest_text(folder: Path) -> str:
    """Return the manifest of a folder that holds all `BUNDLE_FILES`, and maybe some of `OPTIONAL_FILES`."""
    names = (*BUNDLE_FILES, *(name for name in OPTIONAL_FILES if (folder / name).exists()))
    files = {name: {"sha256": file_sha256(folder / name), "size": (folder / name).stat().st_size} for name in names}
    return json.dumps({"manifest_version": MANIFEST_VERSION, "files": files}, indent=2) + "\n"


def read_json_text(path: Path) -> str:
    """Return the text of a JSON file of a bundle.

    Raises:
        BundleError: it is missing, unreadable, too large or no UTF-8 text.
    """
    try:
        if not path.is_file():
            raise BundleError(f"{path}: missing; export the bundle again")
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise BundleError(
                f"{path}: {size} bytes, at most {MAX_JSON_BYTES} are read; this is no bundle of deploy-kit"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not UTF-8 text; export the bundle again") from error


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    if path.is_symlink():
        raise BundleError(f"{path}: a link; copy the whole bundle again")
    text = read_json_text(path)
    try:
        data = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); export the bundle again") from error
    if not isinstance(data, dict) or data.get("manifest_version") != MANIFEST_VERSION:
        found = data.get("manifest_version") if isinstance(data, dict) else None
        raise BundleError(
            f"{path}: manifest version {found!r}, this deploy-kit reads {MANIFEST_VERSION}; export the bundle again"
        )
    files = data.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{path}: no table of files; export the bundle again")
    if missing := [name for name in BUNDLE_FILES if name not in files]:
        raise BundleError(f"{path}: {missing[0]} is not listed; export the bundle again")
    for name, entry in files.items():
        valid = isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and type(entry.get("size")) is int
        if not valid:
            raise BundleError(f"{path}: the entry of {name!r} lacks sha256 or size; export the bundle again")
    return files


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    if PurePosixPath(name).name != name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        raise BundleError(f"{folder / MANIFEST_NAME}: {name!r} is not a plain file name; refuse this bundle")
    if is_report(name) or name in BESIDE:
        raise BundleError(
            f"{folder / MANIFEST_NAME}: it lists {name}, which lies beside a bundle and is none of its files, so that "
            "verifying or signing would alter the bundle; export the bundle again"
        )
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: the manifest lists it, but it is no regular file; copy the whole bundle again")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise BundleError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read; this is no bundle of deploy-kit")
    if size != entry["size"]:
        raise BundleError(
            f"{path}: {size} bytes, the manifest says {entry['size']}; it was altered or cut, copy the bundle again"
        )
    if (digest := file_sha256(path)) != entry["sha256"]:
        raise BundleError(
            f"{path}: sha256 {digest[:12]}…, the manifest says {entry['sha256'][:12]}…; it was altered, "
            "copy or export the bundle again"
        )


def read_golden(path: Path, contract: Contract) -> GoldenSamples:
    """Read golden samples.

    Args:
        path: the npz file.
        contract: gives the expected sizes.

    Raises:
        BundleError: not an npz file of plain arrays, or shapes, types or values do not fit.
    """
    return _golden_from_arrays(path, contract, read_arrays(path))


def _golden_from_arrays(path: Path, contract: Contract, arrays: dict[str, npt.NDArray[Any]]) -> GoldenSamples:
    expected = {
        "observation": contract.observation.size,
        "action": contract.network.num_actions,
        "command": contract.network.num_actions,
        "features": contract.network.feature_size,
    }
    if contract.gate is not None:
        expected |= dict.fromkeys(_GATE_ARRAYS, 1)
    if missing := sorted({*expected, "reason", "source"} - set(arrays)):
        raise BundleError(f"{path}: the array {missing[0]!r} is missing; export the bundle again")
    count = len(arrays["observation"]) if arrays["observation"].ndim else 0
    if count == 0:
        raise BundleError(f"{path}: no samples; export the bundle again")
    for name, width in expected.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != (count, width):
            raise BundleError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected float32 {(count, width)}; "
                "export the bundle again"
            )
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise BundleError(f"{path}: {name} holds a value that is not finite in sample {row}; export again")
    if unknown := sorted(set(arrays) - {*expected, "reason", "source", *_GATE_ARRAYS}):
        raise BundleError(f"{path}: the array {unknown[0]!r} is not on the list; export the bundle again")
    reason, source = arrays["reason"], arrays["source"]
    if reason.dtype.kind != "U" or reason.shape != (count,) or source.dtype.kind != "U" or math.prod(source.shape) != 1:
        raise BundleError(f"{path}: reason and source must be strings, one a sample and one in all; export again")
    try:
        "".join((*reason, *source.ravel())).encode()
    except UnicodeEncodeError as error:
        raise BundleError(f"{path}: a reason or the source is no text; export the bundle again") from error
    return GoldenSamples(
        observation=arrays["observation"],
        action=arrays["action"],
        command=arrays["command"],
        gate_logit=arrays.get("gate_logit"),
        gate_terms=arrays.get("gate_terms"),
        features=arrays["features"],
        reason=reason,
        source=str(source),
    )
