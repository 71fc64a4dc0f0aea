"""Says what a bundle and each of its files hold, as plain JSON values for ``deploy-kit inspect``.

Nothing is executed, and no array, weight or archive member is read that is larger than the file itself.
"""

import json
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY
from deploy_kit.bundle.policy_reader import is_policy_bundle, open_policy_bundle, read_any_contract
from deploy_kit.bundle.reader import MAX_FILE_BYTES, MAX_JSON_BYTES, open_bundle
from deploy_kit.errors import BundleError
from deploy_kit.files import UNREADABLE_NPZ, file_sha256, read_json_object
from deploy_kit.text import one_line

MAX_MEMBERS = 100_000
"""Most members of an archive that are listed."""

_MAX_TEXT_BYTES = 1 << 20
"""Largest array of strings that is read."""


def describe_bundle(folder: Path) -> dict[str, Any]:
    """Return a bundle's files, golden samples and contract, after checking sizes and hashes.

    Raises:
        BundleError: it is not whole.
    """
    if is_policy_bundle(folder):
        return _describe_policy_bundle(folder)
    bundle = open_bundle(folder)
    golden = bundle.golden
    return {
        "path": str(folder),
        "files": bundle.files,
        "golden_samples": {"count": len(golden), "source": golden.source},
        "contract": json.loads(bundle.contract.to_json()),
    }


def _describe_policy_bundle(folder: Path) -> dict[str, Any]:
    bundle = open_policy_bundle(folder)
    steps, episodes = bundle.golden.reset.shape
    return {
        "path": str(folder),
        "files": bundle.files,
        "golden_sequences": {"steps": steps, "sequences": episodes, "source": bundle.golden.source},
        "contract": json.loads(bundle.contract.to_json()),
    }


def describe_manifest(path: Path) -> dict[str, Any]:
    """Return what a manifest lists, and for each file whether the one beside it is the one listed."""
    data = read_json_object(path)
    files = data.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{path}: no table of files; export the bundle again")
    return {
        **_file(path),
        "manifest_version": data.get("manifest_version"),
        "files": {str(name): _listed(path.parent, str(name), entry) for name, entry in files.items()},
    }


def _listed(folder: Path, name: str, entry: Any) -> dict[str, Any]:
    claimed = entry if isinstance(entry, dict) else {}
    described = {"sha256": claimed.get("sha256"), "size": claimed.get("size")}
    path = folder / name
    if Path(name).name != name or name in ("", ".", ".."):
        state = "refused: not a plain file name"
    elif path.is_symlink() or not path.is_file():
        state = "missing"
    elif path.stat().st_size != claimed.get("size") or file_sha256(path) != claimed.get("sha256"):
        state = "altered"
    else:
        state = "as listed"
    return {**described, "state": state}


def describe_contract(path: Path) -> dict[str, Any]:
    """Return a contract, read and checked as a bundle's is.

    Raises:
        BundleError: it is no contract, or not of this schema.
    """
    _require_size(path, MAX_JSON_BYTES)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not UTF-8 text; export the bundle again") from error
    return {**_file(path), "contract": json.loads(read_any_contract(text, str(path)).to_json())}


def describe_onnx(path: Path) -> dict[str, Any]:
    """Return an ONNX file's interface, operators and weights; data outside the file is not read.

    Raises:
        BundleError: it is no ONNX file, or too large.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # carries no types

    _require_size(path, MAX_FILE_BYTES)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise BundleError(f"{path} is not a readable ONNX file ({one_line(error)}): export it again") from error
    if not model.graph.node:
        raise BundleError(f"{path} is not an ONNX file with a graph: export it again")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = metadata.get(CONTRACT_METADATA_KEY)
    weights = model.graph.initializer
    return {
        **_file(path),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_tensor(value, onnx) for value in model.graph.input],
        "outputs": [_tensor(value, onnx) for value in model.graph.output],
        "operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        "weights": {
            "tensors": len(weights),
            "parameters": sum(math.prod(tensor.dims) for tensor in weights),
            "outside_the_file": sum(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in weights),
        },
        "metadata": sorted(metadata),
        "contract": None if contract is None else _embedded(contract, path),
    }


def _embedded(text: str, path: Path) -> Any:
    try:
        return json.loads(read_any_contract(text, f"{path}, its contract").to_json())
    except BundleError as error:
        return f"cannot be read: {error}"


def _tensor(value: Any, onnx: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [dimension.dim_param or dimension.dim_value for dimension in kind.shape.dim]
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, ValueError, TypeError):
        dtype = f"unknown ({kind.elem_type})"
    return {"name": value.name, "dtype": dtype, "shape": shape}


def describe_torchscript(path: Path) -> dict[str, Any]:
    """Return the table of contents of a TorchScript archive. Loading it would execute code, so it is not loaded.

    Raises:
        BundleError: it is no readable archive.
    """
    members = _members(path)
    code = [name for name in members if "/code/" in name]
    return {
        **_file(path),
        "read": "the table of contents alone; nothing was loaded or executed",
        "members": len(members),
        "bytes_inside": sum(members.values()),
        "code": {name.partition("/code/")[2]: members[name] for name in code if name.endswith(".py")},
        "tensors": sum("/constants/" in name or "/data/" in name for name in members),
    }


def describe_arrays(path: Path) -> dict[str, Any]:
    """Return types and shapes of the arrays in an npz file, from their headers, and the source of golden samples.

    Raises:
        BundleError: it is no readable npz file of plain arrays.
    """
    arrays: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    _members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    shape, dtype = _npy_header(file)
                    key = name.removesuffix(".npy")
                    arrays[key] = {"dtype": str(dtype), "shape": list(shape)}
                    if key in ("source", "reason") and dtype.kind == "U" and _bytes(shape, dtype) <= _MAX_TEXT_BYTES:
                        values = np.frombuffer(file.read(_bytes(shape, dtype)), dtype)
                        texts[key] = Counter(map(str, values))
    except UNREADABLE_NPZ as error:
        raise BundleError(f"{path} is not a readable npz file ({one_line(error)}): write it again") from error
    described: dict[str, Any] = {**_file(path), "arrays": arrays}
    if "observation" in arrays and "action" in arrays:
        described["samples"] = arrays["observation"]["shape"][0] if arrays["observation"]["shape"] else 0
        described |= {"source": ", ".join(texts.get("source", {})), "reasons": dict(texts.get("reason", {}))}
    return described


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"array format {version}")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _members(path: Path) -> dict[str, int]:
    """Return names and sizes of an archive's members from its table of contents."""
    _require_size(path, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename: entry.file_size for entry in archive.infolist()}
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is not a readable archive ({one_line(error)}): write it again") from error
    if len(members) > MAX_MEMBERS:
        raise BundleError(f"{path} has {len(members)} members; archives up to {MAX_MEMBERS} are listed")
    return members


def _file(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": file_sha256(path), "size": path.stat().st_size}


def _require_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise BundleError(f"{path} has {size} bytes; up to {most} are read")
