"""Files: written so that an interruption leaves the old one or a complete new one, and identified by their hash."""

import hashlib
import os
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deploy_kit.errors import CheckpointError, InputError
from deploy_kit.strict_json import strict_json

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read."""

UNREADABLE_NPZ: tuple[type[Exception], ...] = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, SyntaxError, TypeError, MemoryError),
    # numpy takes Python's tokenizer to an array's torn header.
    *(struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What numpy and zipfile raise on files that are no npz files."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: if the file cannot be read, has more than `MAX_JSON_BYTES`, or holds no JSON object.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise InputError(f"{path} has {size} bytes; JSON files up to {MAX_JSON_BYTES} bytes are read")
        data = strict_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): write it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a JSON {type(data).__name__}, not an object")
    return data


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside its target, then move it into place.

    Args:
        path: target; its folder is created.
        write: writes the content to the path it is given.

    Raises:
        InputError: if the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder, since the writer may want to create the file itself, with the permissions that the umask gives.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}; choose a folder you may write to"
        ) from error


def require_same_or_absent(source: Path, target: Path) -> None:
    """Check that a folder can be copied to where nothing of the same name differs.

    Raises:
        CheckpointError: if the target holds a file of the same name with other content.
    """
    for file in _regular_files(source):
        other = target / file.name
        if other.exists() and file_sha256(file) != file_sha256(other):
            raise CheckpointError(f"{other} belongs to another run than {file}: save into a folder of its own")


def _regular_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_file() and not file.is_symlink()]


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of regular files, unless the target already holds the same.

    Args:
        source: folder to copy; sub-folders and links are left out.
        target: folder to create.

    Raises:
        CheckpointError: if the target holds a file of the same name with other content.
        InputError: if it cannot be written.
    """
    try:
        if target.exists() and target.samefile(source):
            return
        require_same_or_absent(source, target)
        files = _regular_files(source)
        present = [file for file in files if (target / file.name).exists()]
        if len(present) == len(files):
            return
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}; choose a folder you may write to") from error
    for file in files:
        if file not in present:
            replace_file(target / file.name, partial(shutil.copyfile, file))
