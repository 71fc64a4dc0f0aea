"""Reads rows from the shards that a feature file lists.

The HDF5 library would fill in zeros for a shard that is missing, and open whatever file a virtual dataset names. So it
is not asked: the list is checked against the virtual datasets, each shard against the list, and rows are read from
the shards directly.
"""

import bisect
import hashlib
import math
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from deploy_kit.data.layout import damage_reported, require_stored, stored_dataset, stored_group
from deploy_kit.data.schema import Array, Column
from deploy_kit.data.shard_listing import (
    LISTING,
    LISTING_SHA256,
    ListedShard,
    ShardListing,
    Span,
    listed_columns,
)
from deploy_kit.data.stored_rows import StoredRows
from deploy_kit.errors import DatasetError
from deploy_kit.files import file_sha256
from deploy_kit.strict_json import strict_json

MAX_LISTING_BYTES = 64 * 2**20
"""Longest list that is read."""

_OPEN_FILES = 8


class JoinedDataset:
    """Rows of one column in several shards, read like a dataset.

    Args:
        shards: where they are.
        group: group of the column.
        column: what it is, with its width.

    Attributes:
        name: path of the dataset.
        shape: shape of all rows.
        dtype: stored type.
    """

    def __init__(self, shards: "ListedShards", group: str, column: Column) -> None:
        self._shards, self._group, self._column = shards, group, column
        self._spans = list(shards.listing.spans(group))
        self._stops = [span.stop for span in self._spans]
        self.name = f"/{group}/{column.name}".replace("//", "/")
        self.shape = column.shape(shards.listing.total(group))
        self.dtype = column.dtype

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        values = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for span in self._spans[bisect.bisect_right(self._stops, start) :]:
            if span.start >= stop:
                break
            first, last = max(start, span.start), min(stop, span.stop)
            path = self._shards.path_of(span.shard)
            part = StoredRows(path, self._shards.dataset(span.shard, self._group, self._column))
            with damage_reported(path):
                values[first - start : last - start] = part[first - span.start : last - span.start]
        return values


class ListedShards:
    """The shards of a feature file, each checked against the file's list.

    Args:
        path: the feature file.
        file: the same, open.
        feature_size: width of the features.

    Attributes:
        listing: the list.

    Raises:
        DatasetError: a shard is missing or not the one that is listed, or the file points to anything else.
    """

    def __init__(self, path: Path, file: h5py.File, feature_size: int) -> None:
        self._path, self._feature_size = path, feature_size
        self.listing = _read_listing(path, file)
        self._folder = path.parent / self.listing.folder
        self._open = lru_cache(_OPEN_FILES)(self._open_shard)
        for group, column in listed_columns(feature_size):
            _require_only_listed(path, file, self.listing, group, column)
        for shard in self.listing.shards:
            self._require_listed(shard)
        for group, column in listed_columns(feature_size):
            for span in self.listing.spans(group):
                require_stored(self.path_of(span.shard), self.dataset(span.shard, group, column))

    def path_of(self, shard: ListedShard) -> Path:
        """Return where a shard is."""
        return self._folder / shard.name

    def column(self, group: str, column: Column) -> JoinedDataset:
        """Return a column of all shards."""
        return JoinedDataset(self, group, column)

    def dataset(self, shard: ListedShard, group: str, column: Column) -> h5py.Dataset:
        """Return a column of one shard.

        Raises:
            DatasetError: the shard is damaged.
        """
        path = self.path_of(shard)
        with damage_reported(path):
            parent = stored_group(path, self._open(shard.name), group) if group else self._open(shard.name)
            if parent is None:
                raise DatasetError(f"{path} has no group {group}; copy the shard again")
            return stored_dataset(path, parent, column, shard.rows(group))

    def close(self) -> None:
        """Close the shards; rows can no longer be read."""
        self._open.cache_clear()

    def _open_shard(self, name: str) -> h5py.File:
        return h5py.File(self._folder / name, "r")

    def _require_listed(self, shard: ListedShard) -> None:
        """Check that a shard is there and is the one that is listed."""
        path = self.path_of(shard)
        again = f"copy {self._folder.name} again, whole and beside {self._path.name}"
        try:
            if self._folder.is_symlink() or path.is_symlink():
                raise DatasetError(f"{path} is a link; links are not followed, {again}")
            if not path.is_file():
                raise DatasetError(f"{path} is missing, and {self._path.name} keeps rows in it; {again}")
            if path.stat().st_size != shard.size or file_sha256(path) != shard.sha256:
                raise DatasetError(f"{path} is not the shard that {self._path.name} lists: it was changed; {again}")
        except OSError as error:
            raise DatasetError(f"{path} cannot be read ({error.strerror or error}); {again}") from error


def lists_shards(file: h5py.File) -> bool:
    """Return whether a feature file keeps its rows in shards beside it."""
    return LISTING_SHA256 in file.attrs


def _read_listing(path: Path, file: h5py.File) -> ShardListing:
    dataset = stored_dataset(path, file, Column(LISTING, np.dtype(np.uint8)))
    require_stored(path, dataset)
    if dataset.nbytes > MAX_LISTING_BYTES:
        raise DatasetError(f"{path}: its list of shards has {dataset.nbytes} bytes, up to {MAX_LISTING_BYTES} are read")
    text = dataset[...].tobytes()
    if file.attrs[LISTING_SHA256] != hashlib.sha256(text).hexdigest():
        raise DatasetError(f"{path} is damaged: its list of shards is not the one that was written; copy it again")
    try:
        listing = ShardListing.from_json(strict_json(text))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: its list of shards cannot be read ({error}); collect again") from error
    if listing.text.encode() != text:
        raise DatasetError(f"{path}: its list of shards is not as collect writes it; collect again")
    return listing


def _require_only_listed(path: Path, file: h5py.File, listing: ShardListing, group: str, column: Column) -> None:
    """Check that a virtual dataset gives any reader the listed shards' rows, one after the other, and nothing else."""
    parent = file if not group else stored_group(path, file, group)
    where = f"{path}: /{group}{'/' if group else ''}{column.name}"
    spans = list(listing.spans(group))
    if parent is None:
        raise DatasetError(f"{where} is missing; collect again")
    if not spans:
        stored_dataset(path, parent, column, 0)
        return
    dataset = stored_dataset(path, parent, column, listing.total(group), virtual=True)
    sources = dataset.virtual_sources()
    if len(sources) != len(spans):
        raise DatasetError(f"{where} points to {len(sources)} places and {len(spans)} shards are listed")
    for source, span in zip(sources, spans, strict=True):
        name = f"{group}/{column.name}".lstrip("/")
        if (source.file_name, source.dset_name) != (listing.source(span.shard), name):
            raise DatasetError(
                f"{where} points to {source.dset_name!r:.80} in {source.file_name!r:.120}, which is not the shard "
                "that is listed; use files of people that you trust"
            )
        if not _maps(source, span, column):
            raise DatasetError(f"{where} takes other rows of {span.shard.name} than those that are listed")


def _maps(source: h5py._hl.vds.VDSmap, span: Span, column: Column) -> bool:
    """Return whether a mapping takes all rows of a shard to their place."""
    rest = column.shape(1)[1:]
    rows = span.stop - span.start

    def is_block(space: h5py.h5s.SpaceID, start: int) -> bool:
        """Return whether a selection is all columns of consecutive rows."""
        if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
            return False
        bounds = ((start, *(0 for _ in rest)), (start + rows - 1, *(width - 1 for width in rest)))
        return bool(space.get_select_bounds() == bounds and space.get_select_npoints() == rows * math.prod(rest))

    # That the shard has just these rows is checked when it is opened.
    whole = source.src_space.get_select_type() == h5py.h5s.SEL_ALL or is_block(source.src_space, 0)
    alone = source.vspace.get_select_type() == h5py.h5s.SEL_ALL and source.vspace.shape == column.shape(rows)
    return bool(whole and (alone or is_block(source.vspace, span.start)))
