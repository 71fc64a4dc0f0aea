"""Where a process's flight stood when it closed a shard, so that ``--resume`` goes on with that flight.

A snapshot is a file of arrays (safetensors) beside its shard, which holds the file's SHA-256. It is written before the
shard; older ones of the process go once the shard is on the disk, so that there is one for the newest such shard.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from deploy_kit.data.shard import ShardName
from deploy_kit.data.table import write_errors
from deploy_kit.errors import DatasetError
from deploy_kit.files import file_sha256

Arrays = Mapping[str, npt.NDArray[Any]]

ORIGIN, NUM_ENVS = "flight.origin", "flight.num_envs"
"""Arrays of every snapshot: the flight whose seeds and numbers the rows have, and its environments."""

_PREFIX = "snapshot-"


class Snapshot(NamedTuple):
    """Where a flight stands between two steps.

    Attributes:
        arrays: all that its next step depends on.
        env_steps: environment steps flown so far.
    """

    arrays: Arrays
    env_steps: int


def snapshot_path(folder: Path, shard: ShardName) -> Path:
    """Return the snapshot of a shard in a collection's folder."""
    return folder / f"{_PREFIX}{shard.segment:04d}-{shard.rank:05d}-{shard.index:08d}.safetensors"


def write_snapshot(folder: Path, shard: ShardName, arrays: Arrays) -> str:
    """Write a snapshot under a temporary name, bring it to the disk, and move it into place; return its SHA-256.

    Raises:
        DatasetError: it cannot be written.
    """
    path = snapshot_path(folder, shard)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = safetensors.numpy.save(dict(arrays))
    try:
        with write_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()


def read_snapshot(folder: Path, shard: ShardName, sha256: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a shard's snapshot.

    Raises:
        DatasetError: it is missing or not the one that was written.
    """
    path = snapshot_path(folder, shard)
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    try:
        # A file that claims more memory than there is was not written here either: it is not read at once before.
        content = path.read_bytes() if file_sha256(path) == sha256 else b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DatasetError(f"{path} was changed after it was written")
        return dict(safetensors.numpy.load(content))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error})") from error


def stored_count(arrays: Arrays, name: str) -> int:
    """Return the count that an array of a snapshot holds.

    Raises:
        ValueError: it is missing, or something else.
    """
    array = arrays.get(name)
    if array is None or array.shape != (1,) or array.dtype != np.int64 or array[0] < 0:
        raise ValueError(f"{name} is missing or no count")
    return int(array[0])


def remove_older_snapshots(folder: Path, newest: ShardName) -> None:
    """Remove all snapshots of a process but that of its newest shard."""
    for path in folder.glob(f"{_PREFIX}*-{newest.rank:05d}-*.safetensors"):
        if path != snapshot_path(folder, newest):
            path.unlink(missing_ok=True)
