"""Checks of a feature file's structure: what is stored against what it claims to be.

A file may come from anywhere. Links out of it are not followed, and a shape is believed only as far as bytes back it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deploy_kit.data.schema import (
    ADDED_LATER,
    HELDOUT,
    OBSERVATIONS,
    SCHEMA_VERSION,
    UNKNOWN_TRACK,
    Array,
    Column,
    Columns,
    FeatureFileInfo,
)
from deploy_kit.errors import DatasetError
from deploy_kit.strict_json import strict_json

LAYOUT_ATTRIBUTE = "layout_sha256"
"""Attribute with the hash of all others and of the datasets' shapes; files of earlier versions lack it."""

FLETCHER32 = h5py.h5z.FILTER_FLETCHER32
"""HDF5's checksum of a chunk, the one filter that deploy-kit writes."""

_COMPRESSION = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_LZF}
"""Filters that h5py itself brings, of files that somebody packed."""

_RATIO = 1100
"""How many times smaller than its rows a packed dataset may be: somewhat more than gzip's limit."""


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file, which may be nearly anything, into one clear error.

    Raises:
        DatasetError: the file is damaged.
    """
    try:
        yield
    except (
        AttributeError,
        KeyError,
        MemoryError,
        OSError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} is damaged ({reason}); copy it again, or collect again") from error


def stored_group(path: Path, parent: h5py.Group, name: str) -> h5py.Group | None:
    """Return a group that is stored in the file itself, None if there is none of that name.

    Raises:
        DatasetError: the name is a link out of its place, or no group.
    """
    if parent.get(name, getlink=True) is None:
        return None
    node = _own_node(path, parent, name)
    if not isinstance(node, h5py.Group):
        raise DatasetError(f"{path}: /{name} is not a group; this is no feature file")
    return node


def stored_dataset(
    path: Path, group: h5py.Group, column: Column, rows: int | None = None, virtual: bool = False
) -> h5py.Dataset:
    """Return a dataset after checking its type and shape.

    Args:
        path: the file, for messages.
        group: where it stands.
        column: name, type and width that it must have; width 0 takes any.
        rows: number of rows that it must have, None takes any.
        virtual: whether it must be a virtual dataset, whose sources the caller checks; otherwise it must not be one.

    Raises:
        DatasetError: it is missing, a link, stored outside the file, or of another type or shape.
    """
    where = f"{path}: {group.name.rstrip('/')}/{column.name}"
    if group.get(column.name, getlink=True) is None:
        raise DatasetError(f"{where} is missing; a feature file has it (written by deploy-kit collect)")
    dataset = _own_node(path, group, column.name)
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(f"{where} is not a dataset")
    if dataset.external or (dataset.is_virtual and not virtual):
        raise DatasetError(f"{where} keeps its rows in another file; copy them into this one")
    if virtual and not dataset.is_virtual:
        raise DatasetError(f"{where} holds rows of its own, where the file says that they are in its shards")
    if dataset.dtype != column.dtype:
        raise DatasetError(f"{where} has type {dataset.dtype}, expected {column.dtype}")
    rank = 1 if column.width is None else 2
    if len(dataset.shape or ()) != rank:
        raise DatasetError(f"{where} has shape {dataset.shape}, expected rank {rank}")
    if column.width and dataset.shape[1] != column.width:
        raise DatasetError(f"{where} has {dataset.shape[1]} columns, expected {column.width}")
    if rows is not None and dataset.shape[0] != rows:
        raise DatasetError(f"{where} has {dataset.shape[0]} rows where the features have {rows}")
    return dataset


def require_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Check that a dataset holds as many bytes as its shape claims, and that HDF5 alone can read them.

    Raises:
        DatasetError: rows were never written, or go through a filter of others.
    """
    stored = dataset.id.get_storage_size()
    filters = dataset.id.get_create_plist()
    found = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())} - {FLETCHER32}
    if unknown := sorted(found - _COMPRESSION):
        # HDF5 would look for a library of that number on this machine, and load it.
        raise DatasetError(
            f"{path}: {dataset.name} is stored with HDF5's filter {unknown[0]}; rows without a filter, or with gzip or "
            "lzf, are read"
        )
    if stored * (_RATIO if found else 1) < dataset.nbytes:
        raise DatasetError(
            f"{path}: {dataset.name} claims {dataset.shape[0]} rows, {dataset.nbytes} bytes, and holds {stored}; "
            "the file is damaged"
        )


def allocated_rows(dataset: h5py.Dataset) -> int:
    """Return an upper bound of the rows that were ever written, without reading any."""
    if dataset.chunks is None:
        return int(dataset.shape[0]) if dataset.id.get_storage_size() else 0
    ends = [0]
    dataset.id.chunk_iter(lambda chunk: ends.append(chunk.chunk_offset[0] + dataset.chunks[0]))
    return min(max(ends), int(dataset.shape[0]))


def read_info(path: Path, file: h5py.File) -> FeatureFileInfo | None:
    """Return the root attributes, None for a file that has no schema version (MasterRacing's had none).

    Raises:
        DatasetError: the schema is of another version, or an attribute is missing or malformed.
    """
    if "schema_version" not in file.attrs:
        return None
    version = file.attrs["schema_version"]
    if not isinstance(version, np.integer) or version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: schema version {version!s:.20} and this deploy-kit reads {SCHEMA_VERSION}; "
            "read it with the deploy-kit that wrote it, or collect again"
        )
    return FeatureFileInfo(
        **{
            item.name: _attribute(path, file, item.name, item.type)
            for item in fields(FeatureFileInfo)
            if item.name in file.attrs or item.name not in ADDED_LATER
        }
    )


def layout_sha256(file: h5py.File) -> str:
    """Return the SHA-256 of a file's attributes and of its datasets' names, types and shapes.

    Chunks have checksums of their own; this covers what tells how to read them.
    """
    facts: list[Any] = [[name, _plain(file.attrs[name])] for name in sorted(file.attrs) if name != LAYOUT_ATTRIBUTE]
    for parent in (file, *(file[name] for name in (HELDOUT, OBSERVATIONS) if name in file)):
        for name in sorted(parent):
            node = parent[name] if isinstance(parent.get(name, getlink=True), h5py.HardLink) else None
            shape = [str(node.dtype), list(node.shape)] if isinstance(node, h5py.Dataset) else []
            facts.append([parent.name, name, *shape])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return repr(value.item()) if isinstance(value, np.generic) else str(value)


def require_own_layout(path: Path, file: h5py.File) -> None:
    """Check that attributes and shapes are those that were written, where the file says.

    Raises:
        DatasetError: they are not.
    """
    stored = file.attrs.get(LAYOUT_ATTRIBUTE)
    if stored is not None and stored != layout_sha256(file):
        raise DatasetError(
            f"{path} is damaged: attributes or shapes are not those that were written; copy it again, or collect again"
        )


def check_heldout(path: Path, columns: Columns, training_tracks: Array) -> None:
    """Check that held-out rows are whole consecutive episodes, split by track, on tracks that no training row is from.

    Of tracks that are not known nothing is checked.

    Args:
        path: the file, for messages.
        columns: `episode_id`, `env_id`, `track_id`, `step` and `is_test` of the held-out rows.
        training_tracks: `track_id` of the training rows.

    Raises:
        DatasetError: they are not.
    """
    episode, step = columns["episode_id"], columns["step"]
    if episode.size == 0:
        return
    first = np.flatnonzero(np.concatenate([[True], episode[1:] != episode[:-1]]))
    lengths = np.diff(np.append(first, episode.size))
    if np.unique(episode[first]).size != first.size:
        raise DatasetError(f"{path}: /heldout holds an episode in several pieces; episodes must be consecutive rows")
    wrong = np.flatnonzero(step != np.arange(episode.size) - np.repeat(first, lengths))
    if wrong.size:
        raise DatasetError(
            f"{path}: /heldout/step is {step[wrong[0]]} in row {wrong[0]}; an episode must be whole and in order"
        )
    for name in ("env_id", "track_id", "is_test"):
        mixed = np.flatnonzero(columns[name] != np.repeat(columns[name][first], lengths))
        if mixed.size:
            raise DatasetError(f"{path}: /heldout/{name} changes within an episode, in row {mixed[0]}")
    known = columns["track_id"][first] != UNKNOWN_TRACK
    track, is_test = columns["track_id"][first][known], columns["is_test"][first][known]
    if both := set(track[is_test].tolist()) & set(track[~is_test].tolist()):
        raise DatasetError(f"{path}: held-out track {min(both)} is in validation and test; a track must be in one")
    if shared := set(track.tolist()) & set(np.unique(training_tracks).tolist()):
        raise DatasetError(f"{path}: held-out track {min(shared)} gave training rows too, so its figures would flatter")


def _own_node(path: Path, parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        raise DatasetError(
            f"{path}: {parent.name.rstrip('/')}/{name} is a link; links are not followed, copy the data in"
        )
    return parent[name]


def _attribute(path: Path, file: h5py.File, name: str, kind: Any) -> Any:
    if name not in file.attrs:
        raise DatasetError(f"{path}: attribute {name} is missing; collect again with this deploy-kit")
    value = file.attrs[name]
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if kind is int and isinstance(value, np.integer):
        return int(value)
    if kind is float and isinstance(value, np.floating):
        return float(value)
    if kind == dict[str, Any] and isinstance(value, str) and isinstance(decoded := _json(path, name, value), dict):
        return decoded
    raise DatasetError(f"{path}: attribute {name} has the wrong type ({type(value).__name__})")


def _json(path: Path, name: str, text: str) -> Any:
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: attribute {name} is not JSON ({error})") from error
