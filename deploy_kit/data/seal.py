"""A hash in front of an HDF5 file, so that damage is found before it can crash the HDF5 library.

HDF5 leaves a user block of 512 bytes at the beginning to whoever wants it. There stands the SHA-256 of the rest.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

from deploy_kit.errors import DatasetError

USER_BLOCK = 512
"""Smallest block that HDF5 allows, bytes."""

_MARK = b"deploy-kit sha256 "


def seal(file: io.RawIOBase) -> None:
    """Write the hash in front of what follows the user block.

    Args:
        file: open for reading and writing, complete but for its user block.
    """
    file.seek(USER_BLOCK)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    file.write((_MARK + digest.encode() + b"\n").ljust(USER_BLOCK, b"\0"))
    file.seek(0, os.SEEK_END)


def require_sealed(path: Path) -> None:
    """Check a file against the hash in front of it.

    Raises:
        DatasetError: it has none, or another content.
    """
    with path.open("rb") as file:
        block = file.read(USER_BLOCK)
        found: Any = hashlib.file_digest(file, "sha256").hexdigest()
    if block != (_MARK + found.encode() + b"\n").ljust(USER_BLOCK, b"\0"):
        raise DatasetError(
            f"{path} is damaged or was changed: its hash is another; its rows are lost, go on without it"
        )
