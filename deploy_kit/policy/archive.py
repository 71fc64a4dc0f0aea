"""Reads ``torch.save`` files as plain data, and refuses everything else before memory is taken or code is run."""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deploy_kit.errors import CheckpointError
from deploy_kit.text import printable

MAX_FILE_BYTES = 2 * 2**30
"""Largest checkpoint that is read. The reference checkpoint has 4.2 MB."""

MAX_ENTRIES = 100_000
"""Most records in an archive, and most values in its table of contents."""

_RESAVE = "load it where you trust it and save its state dicts again with torch.save"

# Narrower than torch's own list for weights_only, which lets a file ask for a bytearray or tensor of any size.
_ALLOWED_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "collections defaultdict",
        "builtins dict",
        "builtins set",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch.storage UntypedStorage",
    }
    | {
        f"torch {name}Storage"
        for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    }
    | {
        f"torch {name}"
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    }
)


# What zipfile, pickletools and torch raise on bytes that their formats do not allow.
_PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def read_bytes(path: Path) -> bytes:
    """Return a checkpoint file's bytes.

    Raises:
        CheckpointError: if it is missing, not a file, empty, unreadable or larger than `MAX_FILE_BYTES`.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file inside it")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} has {size} bytes; checkpoints up to {MAX_FILE_BYTES} bytes are read")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: check the path of the checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise CheckpointError(f"{path} is empty: the checkpoint was not written completely")
    return data


def is_torch_archive(data: bytes) -> bool:
    """Return whether bytes begin like a ``torch.save`` zip archive."""
    return data.startswith(b"PK\x03\x04")


def describe_foreign(data: bytes) -> str:
    """Say what bytes that are no checkpoint look like, for an error message."""
    if data.startswith(b"\x89HDF"):
        return "it is an HDF5 file"
    if data.startswith(b"\x80"):
        return f"it is a bare pickle, as torch before 1.6 wrote it, and is not opened for safety: {_RESAVE}"
    if data.startswith(b"PK"):
        return "it is a zip file without records"
    return f"it begins with {data[:8]!r}"


def read_torch_archive(data: bytes, path: Path) -> dict[str, Any]:
    """Read the dictionary in a ``torch.save`` archive, tensors on the CPU.

    Args:
        data: the file's bytes.
        path: where they come from, for messages.

    Raises:
        CheckpointError: if the archive is truncated, larger inside than outside, a TorchScript module, refers to any
            function or class beyond tensors and plain containers, or does not hold a dictionary.
    """
    parts, table = _read_parts(data, path)
    _check_globals(parts[table], path)
    try:
        content = torch.load(_stored_anew(parts), map_location="cpu", weights_only=True)
    except (*_PARSE_ERRORS, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is damaged: torch cannot read it ({_first_line(error)}); fetch or save it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the dictionary that a training run saves: "
            "save the whole checkpoint"
        )
    _check_values(content, path)
    return content


def torch_archive_bytes(content: dict[str, Any]) -> bytes:
    """Return what `torch.save` writes; a full disk is then an ordinary error of the file system."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _first_line(error: Exception) -> str:
    # torch goes on with advice to read the file without its safeguard.
    line = str(error).split("\n", 1)[0].split(". ", 1)[0][:200]
    return printable(line) or type(error).__name__


def _read_parts(data: bytes, path: Path) -> tuple[dict[str, bytes], str]:
    """Return the archive's records by name, and which one is the pickled table of contents, after checking sizes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            if len(records) > MAX_ENTRIES:
                raise CheckpointError(f"{path} has {len(records)} records; archives up to {MAX_ENTRIES} are read")
            names = [record.filename for record in records]
            if any("/code/" in name for name in names):
                raise CheckpointError(f"{path} is a TorchScript module: give the training checkpoint it was made from")
            if len(set(names)) != len(names):
                raise CheckpointError(f"{path} has two records of one name, which torch.save never writes")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise CheckpointError(f"{path} has compressed records, which torch.save never writes: it is not opened")
            if sum(record.file_size for record in records) > len(data):
                raise CheckpointError(f"{path} claims more bytes inside than the file has: it is not opened")
            tables = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(tables) != 1:
                raise CheckpointError(
                    f"{path} is a zip file, but torch.save did not write it: it has no single data.pkl"
                )
            if (broken := archive.testzip()) is not None:
                raise CheckpointError(
                    f"{path} is damaged: {printable(broken)} fails its checksum; fetch or save it again"
                )
            return {record.filename: archive.read(record) for record in records}, tables[0]
    except (*_PARSE_ERRORS, zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or was cut off while it was written or copied ({_first_line(error)}): "
            "fetch or save it again"
        ) from error


def _stored_anew(parts: dict[str, bytes]) -> io.BytesIO:
    """Return an archive of records.

    torch reads the records that were checked then, whatever else the file holds: its own zip reader takes a record with
    the attribute of a folder for empty, and gives what happens to be in memory as the tensor.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    buffer.seek(0)
    return buffer


def _check_globals(table: bytes, path: Path) -> None:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(table)):
            if count > 10 * MAX_ENTRIES:
                raise CheckpointError(f"{path} has a table of contents too long for a checkpoint: it is not opened")
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise CheckpointError(
                    f"{path} uses the pickle instruction {opcode.name}, which torch.save does not write: {_RESAVE}"
                )
            if opcode.name == "GLOBAL" and argument not in _ALLOWED_GLOBALS:
                name = printable(argument).replace(" ", ".")
                raise CheckpointError(
                    f"{path} refers to {name}; nothing was executed, since only tensors and plain containers are read: "
                    f"{_RESAVE}"
                )
    except _PARSE_ERRORS as error:
        raise CheckpointError(
            f"{path} is damaged: its table of contents cannot be read ({_first_line(error)})"
        ) from error


def _check_values(content: dict[str, Any], path: Path) -> None:
    """Refuse tensors that claim more numbers than they store: copying one would take any amount of memory."""
    for tensor in _tensors(content, set()):
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            raise CheckpointError(
                f"{path} holds a tensor of shape {tuple(tensor.shape)} that stores only {stored} bytes: "
                "it is not opened"
            )


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            pending += item
