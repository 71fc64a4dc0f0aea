"""Row-aligned datasets that grow while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from deploy_kit.data.schema import CHUNK_ROWS, Column, Columns
from deploy_kit.errors import DatasetError

SPILL_ROWS = 4 * CHUNK_ROWS
"""Rows held back in memory, so that appends fill whole chunks."""


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


class Table:
    """Row-aligned datasets of one group, appended to and overwritten in blocks.

    Args:
        group: where the datasets are created.
        columns: what they are.
    """

    def __init__(self, group: h5py.Group, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self._stored = 0
        self._appended: list[Columns] = []
        self._overwritten: list[tuple[npt.NDArray[np.int64], Columns]] = []
        self._waiting = 0
        self._datasets = {
            column.name: group.create_dataset(
                column.name,
                shape=column.shape(0),
                maxshape=(None, *column.shape(0)[1:]),
                chunks=column.shape(CHUNK_ROWS),
                dtype=column.dtype,
            )
            for column in columns
        }

    @property
    def rows(self) -> int:
        """Rows stored or waiting to be."""
        return self._stored + sum(len(rows[self.columns[0].name]) for rows in self._appended)

    @property
    def due(self) -> bool:
        """Whether enough rows wait in memory to be stored."""
        return self._waiting >= SPILL_ROWS

    def append(self, rows: Columns) -> npt.NDArray[np.int64]:
        """Add rows and return their row numbers."""
        start, count = self.rows, len(rows[self.columns[0].name])
        self._appended.append(rows)
        self._waiting += count
        return np.arange(start, start + count)

    def overwrite(self, index: npt.NDArray[np.int64], rows: Columns) -> None:
        """Replace rows; of two replacements of one row the later wins."""
        self._overwritten.append((index, rows))
        self._waiting += index.size

    def store(self) -> None:
        """Write what waits in memory to the datasets; an interrupted call is made good by the next one."""
        stored = self.rows
        for name, dataset in self._datasets.items() if self._appended else ():
            dataset.resize(stored, axis=0)
            dataset[self._stored :] = np.concatenate([rows[name] for rows in self._appended])
        self._stored, self._appended = stored, []
        self._replace()
        self._overwritten = []
        self._waiting = 0

    def _replace(self) -> None:
        if not self._overwritten:
            return
        every = np.concatenate([index for index, _ in self._overwritten])
        index, first_from_end = np.unique(every[::-1], return_index=True)
        latest = every.size - 1 - first_from_end
        for name, dataset in self._datasets.items():
            dataset[index] = np.concatenate([rows[name] for _, rows in self._overwritten])[latest]
