"""Read what the runner needs of a bundle: manifest, contract, graph, golden samples."""

import hashlib
import io
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .contract import FloatArray, OnboardContract, parse_contract
from .faults import Fault, OnboardFault
from .signature import require_signed
from .strict_json import strict_json
from .verification import MODELS, Verification, read_verification

MANIFEST_VERSION = 1

_NEEDED = ("contract.json", "golden.npz")
_MAX_BYTES = 1 << 30
_MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class OnboardBundle:
    """A bundle in memory: the bytes that were hashed are the bytes that run.

    Attributes:
        contract: what the runner acts on.
        model: the ONNX file; empty where the engine needs none and it was not copied.
        header: the C++ header; None without one.
        golden: arrays of the golden samples.
        sha256: of each file that the manifest lists, by name.
        verification: what the report beside the bundle says of these very files.
    """

    contract: OnboardContract
    model: bytes
    header: bytes | None
    golden: dict[str, FloatArray]
    sha256: dict[str, str]
    verification: Verification


def load_bundle(path: Path, trust: Path | None = None, engine: str = "onnxruntime") -> OnboardBundle:
    """Read a bundle's folder; a path to the ONNX file inside one means the folder.

    Files that the manifest lists and the drone does not need may be left out; those that are there must be whole.

    Args:
        path: the folder, or the ONNX file inside.
        trust: public key whose signature the manifest must bear; None takes any bundle.
        engine: what is to run, of `ENGINES`.

    Raises:
        OnboardFault: a needed file is missing, a file was altered, the contract is of another version, or the bundle is
            not signed as it must be.
    """
    content, hashes, verification = read_files(path, trust, engine)
    contract = parse_contract(content["contract.json"].decode("utf-8", "replace"))
    golden = _read_golden(content["golden.npz"], contract)
    native = engine.startswith("cpp")
    model = content.get("policy.onnx" if native else MODELS[engine], b"")
    header = content.get(MODELS[engine] if native else "policy.hpp")
    return OnboardBundle(contract, model, header, golden, hashes, verification)


class BundleFiles(NamedTuple):
    """The files of a bundle that the runner needs, in memory.

    Attributes:
        content: bytes of each file by name.
        sha256: of each file that the manifest lists, by name.
        verification: what the report beside the bundle says of these very files.
    """

    content: dict[str, bytes]
    sha256: dict[str, str]
    verification: Verification


def read_files(path: Path, trust: Path | None = None, engine: str = "onnxruntime") -> BundleFiles:
    """Read the files of a bundle's folder; a path to the ONNX file inside one means the folder.

    Args:
        path: the folder, or the ONNX file inside.
        trust: public key whose signature the manifest must bear; None takes any bundle.
        engine: what is to run, of `ENGINES`.

    Raises:
        OnboardFault: a needed file is missing, one was altered, or the bundle is not signed as it must be.
    """
    folder = path.parent if path.suffix == ".onnx" else path
    try:
        return _read_files(folder, trust, engine)
    except OSError as error:
        raise OnboardFault(
            Fault.BUNDLE_INCOMPLETE, f"{error.filename or folder} cannot be read: {error.strerror or error}"
        ) from error


def _read_files(folder: Path, trust: Path | None, engine: str) -> BundleFiles:
    needed, model = (*_NEEDED, MODELS[engine]), MODELS[engine]
    listed, manifest = _read_manifest(folder / "manifest.json")
    if trust is not None:
        require_signed(folder, manifest, listed, trust)
    content: dict[str, bytes] = {}
    if engine != "onnxruntime" and model not in listed:
        kind = engine.removeprefix("onnxruntime-")
        option = "--format" if kind == engine else "--variant"
        raise OnboardFault(
            Fault.BUNDLE_INCOMPLETE,
            f"{folder} has no {model}: export it with {option} {kind}; policies other than the racing one have none, "
            "and fly on onnxruntime",
        )
    for name in sorted({*listed, *needed}):
        if Path(name).name != name or name not in listed:
            raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{folder}: {name!r} is not listed as it should be")
        file = folder / name
        if not file.is_file():
            if name in needed:
                raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{file} is missing: copy the bundle again")
            continue
        content[name] = _read_checked(file, listed[name])
    hashes = {name: str(entry["sha256"]) for name, entry in listed.items()}
    verification = read_verification(folder, hashlib.sha256(manifest).hexdigest())
    return BundleFiles(content, hashes, verification)


def _read_manifest(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return what a manifest lists, and its bytes."""
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES):
            raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} is no manifest: copy the bundle again")
        text = path.read_bytes()
        data = strict_json(text.decode("utf-8"))
    except OSError as error:
        raise OnboardFault(Fault.BUNDLE_INCOMPLETE, f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} is not JSON: copy the bundle again") from error
    files = data.get("files") if isinstance(data, dict) and data.get("manifest_version") == MANIFEST_VERSION else None
    if not isinstance(files, dict):
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} is no manifest of version {MANIFEST_VERSION}")
    return files, text


def _read_checked(path: Path, entry: Any) -> bytes:
    expected = entry if isinstance(entry, dict) else {}
    size = path.stat().st_size
    if size > _MAX_BYTES or size != expected.get("size"):
        raise OnboardFault(
            Fault.BUNDLE_ALTERED, f"{path} has {size} bytes, the manifest says {expected.get('size')}: copy it again"
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"{path} has another sha256 than the manifest says: copy it again")
    return data


UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    # An archive that is encrypted or compressed by an unknown method, a torn header, a size beyond the memory.
    *(RuntimeError, struct.error, TypeError, MemoryError, SyntaxError, tokenize.TokenError),
)


def _read_golden(data: bytes, contract: OnboardContract) -> dict[str, FloatArray]:
    rows, columns = contract.image_shape
    actions = len(contract.scale)
    widths = {"observation": len(contract.state_low) + rows * columns, "action": actions, "command": actions}
    if contract.gate_probability is not None:
        widths |= {"gate_logit": 1, "gate_terms": 1}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if len(set(archive.files)) != len(archive.files):
                raise ValueError("an array is there twice")
            golden = {name: archive[name] for name in widths}
    except UNREADABLE as error:
        raise OnboardFault(
            Fault.BUNDLE_ALTERED, f"golden.npz cannot be read ({error}): copy it again, or export the bundle anew"
        ) from error
    count = len(golden["observation"])
    for name, width in widths.items():
        if golden[name].shape != (count, width) or golden[name].dtype != np.float32 or count == 0:
            raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz: {name} has shape {golden[name].shape}")
    return golden
