"""Guards against damage that the HDF5 library does not notice: it loops for ever, or fills in zeros.

Both were found by reading damaged files (`benchmarks/fuzz_readers.py`).
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deploy_kit.data.schema import Array
from deploy_kit.errors import DatasetError

_HEAP = b"GCOL\x01\0\0\0"
"""Beginning of a global heap, in which HDF5 keeps texts; then its size, then its objects."""

_HEADER = struct.Struct("<HHIQ")
"""Before each object: index, references, reserved, size. Index 0 is free space, whose size includes this header."""


def require_sound_heaps(path: Path) -> None:
    """Check that every object of a file's global heaps ends behind its beginning; the library would loop for ever.

    Args:
        path: the file; it is searched as a whole.

    Raises:
        DatasetError: a heap is damaged.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_HEAP)
        while at >= 0:
            if not _is_sound(data, at):
                raise DatasetError(f"{path} is damaged (its texts, at byte {at}); copy it again, or collect again")
            at = data.find(_HEAP, at + len(_HEAP))


def _is_sound(data: mmap.mmap, at: int) -> bool:
    start = at + 16
    if start > len(data):
        return False
    (size,) = struct.unpack_from("<Q", data, at + 8)
    end = min(at + size, len(data))
    while start + _HEADER.size <= end:
        index, _, _, length = _HEADER.unpack_from(data, start)
        step = length if index == 0 else _HEADER.size + (length + 7) // 8 * 8
        if step < _HEADER.size or start + step > end:
            return False
        start += step
    return True


class StoredRows:
    """A dataset whose rows were all written.

    Where a chunk's place in the index is damaged, the library finds none and gives zeros. So a chunk of which zeros
    are read is asked for by name.

    Args:
        path: the file, for messages.
        dataset: dataset that is read.

    Attributes:
        name: path within the file.
        shape: shape of all rows.
        dtype: stored type.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self._path, self._dataset = path, dataset
        self.name: str = dataset.name
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        values: Array = self._dataset[start:stop]
        chunk = self._dataset.chunks
        if chunk is None or not len(values):
            return values
        for first in range(start // chunk[0] * chunk[0], stop, chunk[0]):
            row = values[max(first - start, 0)].reshape(-1)
            for column in range(0, row.size, chunk[1] if len(chunk) > 1 else 1):
                if not row[column : column + (chunk[1] if len(chunk) > 1 else 1)].any():
                    self._require_chunk((first, column)[: len(chunk)])
        return values

    def _require_chunk(self, place: tuple[int, ...]) -> None:
        try:
            self._dataset.id.read_direct_chunk(place)
        except (RuntimeError, OSError, ValueError) as error:
            raise DatasetError(
                f"{self._path} is damaged: {self.name} has no rows from {place[0]} on, which were written; copy it "
                "again, or collect again"
            ) from error
