"""Row-aligned datasets that grow while they are written."""

import io
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deploy_kit.data.schema import CHUNK_ROWS, Column, Columns
from deploy_kit.data.seal import USER_BLOCK, seal
from deploy_kit.errors import DatasetError

STORE_ROWS = 64 * CHUNK_ROWS
"""Rows that are written at once: whole chunks, so that each is checksummed once."""


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises when it cannot write into one clear error.

    Raises:
        DatasetError: a write failed.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # h5py reports a full disk as any of these, depending on where it strikes.
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise DatasetError(f"{path}: cannot be written ({reason}); check space and permissions") from error


class _ErrorKeepingFile(io.RawIOBase):
    """A file for the HDF5 library whose writes never fail; the error is kept for whoever opened it.

    The library cannot close a file that it could not write: its process ends with a segmentation fault.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
        return size or 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def sync(self) -> None:
        """Bring everything to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def new_hdf5_file(path: Path, sealed: bool = False) -> Iterator[h5py.File]:
    """Open a new HDF5 file for writing; what was written is on the disk when the block ends.

    Args:
        path: the file.
        sealed: whether a hash stands in front of it then; see `seal`.

    Raises:
        OSError: something could not be written.
    """
    with closing(_ErrorKeepingFile(path)) as stored:
        with h5py.File(stored, "w", rdcc_nbytes=0, userblock_size=USER_BLOCK if sealed else None) as file:
            yield file
            if stored.error is not None:
                raise stored.error
        if sealed:
            seal(stored)
        if stored.error is not None:
            raise stored.error
        stored.sync()


class Table:
    """Row-aligned datasets of one group, appended to, with a checksum (Fletcher 32) for each chunk.

    Args:
        group: where the datasets are created.
        columns: what they are.
    """

    def __init__(self, group: h5py.Group, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self._stored = 0
        self._waiting: list[Columns] = []
        self._waiting_rows = 0
        self._datasets = {
            column.name: group.create_dataset(
                column.name,
                shape=column.shape(0),
                maxshape=(None, *column.shape(0)[1:]),
                chunks=column.shape(CHUNK_ROWS),
                dtype=column.dtype,
                fletcher32=True,
            )
            for column in columns
        }

    @property
    def rows(self) -> int:
        """Rows stored or waiting to be."""
        return self._stored + self._waiting_rows

    def append(self, rows: Columns) -> None:
        """Add rows; whole chunks are written."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows[self.columns[0].name])
        if self._waiting_rows >= STORE_ROWS:
            self._store(self._waiting_rows // CHUNK_ROWS * CHUNK_ROWS)

    def finish(self) -> None:
        """Write what still waits."""
        if self._waiting_rows:
            self._store(self._waiting_rows)

    def _store(self, count: int) -> None:
        rows = {column.name: np.concatenate([part[column.name] for part in self._waiting]) for column in self.columns}
        for name, dataset in self._datasets.items():
            dataset.resize(self._stored + count, axis=0)
            dataset[self._stored :] = rows[name][:count]
        self._stored += count
        self._waiting_rows -= count
        self._waiting = [{name: values[count:] for name, values in rows.items()}] if self._waiting_rows else []
