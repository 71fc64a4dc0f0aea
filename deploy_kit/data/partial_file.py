"""The HDF5 file behind a feature file that is being written: beside its target, flushed regularly, moved into place."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from deploy_kit.data.schema import SUFFIX, Column
from deploy_kit.data.table import Table, write_errors
from deploy_kit.errors import DatasetError

logger = logging.getLogger(__name__)

RESERVE_BYTES = 64 * 2**20
"""Free space below which collecting stops, while what waits in memory can still be stored."""

FLUSH_SECONDS = 5.0
"""Longest time that rows stay in memory alone."""


def check_target(path: Path, overwrite: bool) -> Path:
    """Return the partial file's path for a target that may be written.

    Args:
        path: the feature file to be.
        overwrite: whether an existing file may be replaced.

    Raises:
        DatasetError: wrong suffix, the folder cannot be entered, the file exists, or an interrupted collection's rows
            are beside it.
    """
    if path.suffix != SUFFIX:
        raise DatasetError(f"{path}: a feature file's name must end in {SUFFIX}; use {path.with_suffix(SUFFIX).name}")
    partial = path.with_name(path.name + ".partial")
    with write_errors(path):
        is_folder, exists, partial_exists = path.is_dir(), path.exists(), partial.exists()
    if is_folder:
        raise DatasetError(f"{path} is a directory; give the name of a file")
    if not overwrite and exists:
        raise DatasetError(f"{path} exists and is kept; pass --overwrite to replace it, or another name")
    if not overwrite and partial_exists:
        raise DatasetError(
            f"{partial} is left from an interrupted collection; rename it to {path.name} to use its rows, "
            "or pass --overwrite to drop them"
        )
    return partial


class PartialFile:
    """Tables and attributes of `NAME.h5.partial`, which opens after a killed process too.

    What cannot be written raises `DatasetError`, and the partial file is removed, since it could not be opened.

    Args:
        path: file to be.
        overwrite: whether an existing file may be replaced, at the end.

    Raises:
        DatasetError: the file exists, has the wrong suffix, or its folder cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path = path
        self.partial = check_target(path, overwrite)
        self.closed = False
        self._tables: list[Table] = []
        self._flushed = time.monotonic()
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Rows are never compressed, so direct access beats a cache of whole chunks for single replaced rows.
            self._file = h5py.File(self.partial, "w", rdcc_nbytes=0)

    def add_table(self, group: str, columns: tuple[Column, ...]) -> Table:
        """Create the datasets of a table.

        Args:
            group: name of the group to create, "/" for the root.
            columns: columns of the table.

        Returns:
            The table; what is appended to it is stored with the file.
        """
        with self._writing():
            table = Table(self._file.require_group(group), columns)
        self._tables.append(table)
        return table

    @property
    def due(self) -> bool:
        """Whether rows have waited in memory for long enough, by number or by time."""
        return any(table.due for table in self._tables) or time.monotonic() - self._flushed > FLUSH_SECONDS

    def check_room(self) -> None:
        """Refuse to go on where the disk is nearly full.

        Raises:
            DatasetError: less than `RESERVE_BYTES` are free.
        """
        free = shutil.disk_usage(self.partial.parent).free
        if free < RESERVE_BYTES:
            raise DatasetError(f"{self.path}: only {free / 2**20:.0f} MB are free on its disk; make room for more rows")

    def store(self, attributes: Mapping[str, object]) -> None:
        """Write what waits in memory.

        Args:
            attributes: attributes of the file's root.
        """
        with self._writing():
            self._store(attributes)

    def close(self, attributes: Mapping[str, object]) -> None:
        """Write what waits in memory, and see it onto the disk.

        Args:
            attributes: attributes of the file's root.
        """
        with self._writing():
            self._store(attributes)
            self._file.close()
            with self.partial.open("rb") as stored:
                os.fsync(stored.fileno())
        self.closed = True

    def publish(self) -> None:
        """Move the closed file into place. Where that fails, the rows stay beside it."""
        with write_errors(self.path):
            self.partial.replace(self.path)

    def drop(self) -> None:
        """Remove the closed file, which holds nothing."""
        self.partial.unlink(missing_ok=True)

    def _store(self, attributes: Mapping[str, object]) -> None:
        for table in self._tables:
            table.store()
        for name, value in attributes.items():
            self._file.attrs.modify(name, value)
        self._file.flush()
        self._flushed = time.monotonic()

    def _abandon(self) -> None:
        """Give up a file that a write failed in: it cannot be opened again."""
        self.closed = True
        try:
            self._file.close()
        except (OSError, RuntimeError) as error:
            logger.debug("closing %s after a failed write: %s", self.partial, error)
        self.drop()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with write_errors(self.path):
                yield
        except DatasetError:
            self._abandon()
            raise
