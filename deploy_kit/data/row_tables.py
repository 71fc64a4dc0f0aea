"""Where a feature file's training and held-out rows go: into the file itself, or into shards beside it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import h5py
import numpy as np

from deploy_kit.data.schema import HELDOUT, heldout_columns, training_columns
from deploy_kit.data.shard import ShardName, sync_folder
from deploy_kit.data.shard_listing import (
    LISTING,
    LISTING_SHA256,
    ListedShard,
    ShardListing,
    listed_columns,
)
from deploy_kit.data.table import Table, new_hdf5_file
from deploy_kit.files import file_sha256


class Tables(NamedTuple):
    """Where rows are appended."""

    training: Table
    heldout: Table

    @classmethod
    def create(cls, file: h5py.File, feature_size: int) -> "Tables":
        """Create the datasets of both kinds of rows."""
        heldout = Table(file.create_group(HELDOUT), heldout_columns(feature_size))
        return cls(Table(file, training_columns(feature_size)), heldout)

    def finish(self) -> None:
        """Write what still waits."""
        self.training.finish()
        self.heldout.finish()


class RowTables(Protocol):
    """Takes the rows of one shard after the other."""

    @contextmanager
    def shard(self, name: ShardName) -> Iterator[Tables]:
        """Take the rows of a shard."""

    def finish(self, file: h5py.File) -> None:
        """Write what still waits and what is to be in the feature file itself."""

    def publish(self, target: Path) -> None:
        """Move what is not in the feature file itself into place; the feature file follows."""

    def discard(self) -> None:
        """Remove what was not moved into place."""


class OneFile:
    """Writes all rows into the feature file.

    Args:
        file: the feature file.
        feature_size: width of the features.
    """

    def __init__(self, file: h5py.File, feature_size: int) -> None:
        self._tables = Tables.create(file, feature_size)

    @contextmanager
    def shard(self, name: ShardName) -> Iterator[Tables]:
        """Take the rows of a shard."""
        yield self._tables

    def finish(self, file: h5py.File) -> None:
        """Write what still waits."""
        self._tables.finish()

    def publish(self, target: Path) -> None:
        """Do nothing: all is in the feature file."""

    def discard(self) -> None:
        """Do nothing: all is in the feature file."""


class KeptShards:
    """Writes a file for each shard, which holds just the rows that are in the feature file.

    The stored shards hold more: negatives beyond what was asked for, and rows of episodes that do not count.

    Args:
        folder: temporary folder for them; it must not exist.
        stem: name of the feature file.
        feature_size: width of the features.
    """

    def __init__(self, folder: Path, stem: str, feature_size: int) -> None:
        self._folder, self._stem, self._feature_size = folder, stem, feature_size
        self._shards: list[ListedShard] = []
        folder.mkdir()

    @contextmanager
    def shard(self, name: ShardName) -> Iterator[Tables]:
        """Take the rows of a shard."""
        path = self._folder / name.file_name
        with new_hdf5_file(path) as file:
            tables = Tables.create(file, self._feature_size)
            yield tables
            tables.finish()
            counts = (tables.training.rows, tables.heldout.rows)
        if any(counts):
            self._shards.append(ListedShard(path.name, path.stat().st_size, file_sha256(path), *counts))
        else:
            path.unlink()

    @property
    def _listing(self) -> ShardListing:
        return ShardListing(self._stem, tuple(self._shards))

    def finish(self, file: h5py.File) -> None:
        """Write the list, and virtual datasets over the shards."""
        listing = self._listing
        text = np.frombuffer(listing.text.encode(), np.uint8)
        file.create_dataset(LISTING, data=text, chunks=text.shape, fletcher32=True)
        file.attrs[LISTING_SHA256] = listing.sha256
        file.create_group(HELDOUT)
        for group, column in listed_columns(self._feature_size):
            parent = file[group] if group else file
            total = listing.total(group)
            if not total:
                parent.create_dataset(column.name, shape=column.shape(0), dtype=column.dtype)
                continue
            layout = h5py.VirtualLayout(column.shape(total), column.dtype)
            for shard, start, stop in listing.spans(group):
                path = f"{group}/{column.name}".lstrip("/")
                layout[start:stop] = h5py.VirtualSource(
                    listing.source(shard), path, column.shape(stop - start), column.dtype
                )
            parent.create_virtual_dataset(column.name, layout)

    def publish(self, target: Path) -> None:
        """Move the shards into their folder beside the feature file."""
        sync_folder(self._folder)
        place = target.parent / self._listing.folder
        if place.is_dir() and not place.is_symlink():
            # The folder's name is its content's hash: the same shards were moved there before the feature file could.
            for shard in self._shards:
                os.replace(self._folder / shard.name, place / shard.name)
        else:
            os.replace(self._folder, place)

    def discard(self) -> None:
        """Remove what was not moved into place."""
        shutil.rmtree(self._folder, ignore_errors=True)
