"""One shard of a collection: rows of a few seconds of flight, in a file that is whole or is not there."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from deploy_kit.data.layout import damage_reported, require_stored, stored_dataset, stored_group
from deploy_kit.data.sampling import KEY
from deploy_kit.data.schema import (
    HELDOUT,
    OBSERVATIONS,
    REASON,
    Array,
    Column,
    Columns,
    features_column,
    training_columns,
)
from deploy_kit.data.seal import require_sealed
from deploy_kit.data.stored_rows import StoredRows, require_sound_heaps
from deploy_kit.data.table import new_hdf5_file, write_errors
from deploy_kit.errors import DatasetError

TRAINING = "training"
PREFIX = "shard-"

UNDECIDED = -1
"""Held-out rows whose track is not yet split."""

_MOST = 2**62
"""Bound of counts in a shard's state, with room for sums of them in int64."""

KEYS = 4
"""Keys of a kept observation: one for each reason, infinite where the reason does not take it."""


@dataclass(frozen=True)
class ShardName:
    """Which shard it is.

    Attributes:
        segment: number of the flight, from 0; an interrupted collection goes on with another one.
        rank: process that wrote it.
        index: number within the process's flight, from 0.
    """

    segment: int
    rank: int
    index: int

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{PREFIX}{self.segment:04d}-{self.rank:05d}-{self.index:08d}.h5"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the shard that a file's name means, None for other files."""
        parts = name.removeprefix(PREFIX).removesuffix(".h5").split("-")
        if not name.startswith(PREFIX) or not name.endswith(".h5") or len(parts) != 3:
            return None
        if not all(part.isascii() and part.isdigit() for part in parts):
            return None
        found = cls(*map(int, parts))
        return found if found.file_name == name else None


@dataclass(frozen=True)
class ShardState:
    """Where the process stood when it closed the shard; numbers are totals of its flight so far.

    Attributes:
        seen: negatives and positives seen.
        limits: key from which on negatives and positives were not stored.
        heldout_complete: whether the process had flown all its held-out episodes.
        dropped_episodes: episodes whose rows do not count, since the simulator's numbers were not finite.
        env_steps: environment steps flown.
        policy_period_s: duration of a step, s; NaN where the environment does not say.
        clip_actions: limit of the actions' size; NaN for none.
        snapshot: SHA-256 of the snapshot that was taken at its last row; empty for none.
        continues: shard of an earlier flight, as segment and index, that this flight of the same process goes on from:
            what that process stored after it does not count, since it was flown again. None for a flight of its own.
    """

    seen: tuple[int, int] = (0, 0)
    limits: tuple[float, float] = (1.0, 1.0)
    heldout_complete: bool = False
    dropped_episodes: tuple[int, ...] = field(default=())
    env_steps: int = 0
    policy_period_s: float = float("nan")
    clip_actions: float = float("nan")
    snapshot: str = ""
    continues: tuple[int, int] | None = None

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: object) -> Self:
        """Return what `to_json` gave.

        Raises:
            ValueError: the text is something else.
        """
        data: Any = json.loads(text if isinstance(text, str) else "")
        if isinstance(data, dict):
            # Shards of earlier versions have no snapshots.
            data = {"snapshot": "", "continues": None, **data}
        if not isinstance(data, dict) or data.keys() != asdict(cls()).keys():
            raise ValueError("its state is not one that collect writes")
        try:
            return cls(
                seen=_pair(data["seen"], _count),
                limits=_pair(data["limits"], _limit),
                heldout_complete=bool(data["heldout_complete"]),
                dropped_episodes=tuple(_count(number) for number in data["dropped_episodes"]),
                env_steps=_count(data["env_steps"]),
                policy_period_s=float(data["policy_period_s"]),
                clip_actions=float(data["clip_actions"]),
                snapshot=str(data["snapshot"]),
                continues=None if data["continues"] is None else _pair(data["continues"], _count),
            )
        except TypeError as error:
            raise ValueError(f"its state is not one that collect writes ({error})") from error


def _pair(values: Any, read: Callable[[Any], Any]) -> tuple[Any, Any]:
    first, second = values
    return read(first), read(second)


def _count(value: Any) -> int:
    """Return a count or a number of something, which arrays and files of int64 can hold."""
    if not 0 <= (found := int(value)) <= _MOST:
        raise ValueError(f"its state is not one that collect writes ({value!s:.20} for a count)")
    return found


def _limit(value: Any) -> float:
    if not 0.0 <= (found := float(value)) <= 1.0:
        raise ValueError(f"its state is not one that collect writes ({value!s:.20} for a limit)")
    return found


_KEY = Column(KEY, np.dtype(np.float64))
_IS_TEST = Column("is_test", np.dtype(np.int8))
_KEYS = Column("keys", np.dtype(np.float64), KEYS)


def shard_columns(name: str, feature_size: int, observation_size: int = 0) -> tuple[Column, ...]:
    """Return the columns of a group of a shard; observation size 0 takes any."""
    rows = training_columns(feature_size)
    if name == TRAINING:
        return (*rows, _KEY)
    if name == HELDOUT:
        return (*rows, _IS_TEST)
    return (Column("observation", np.dtype(np.float32), observation_size), *rows, REASON, _KEYS)


def write_shard(path: Path, groups: dict[str, Columns], state: ShardState, feature_size: int) -> None:
    """Write a shard under a temporary name, bring it to the disk, and move it into place.

    Args:
        path: the shard; a file of that name is replaced.
        groups: columns by group; groups without rows are left out.
        state: where the process stands.
        feature_size: width of the features.

    Raises:
        DatasetError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with write_errors(path):
            with new_hdf5_file(temporary, sealed=True) as file:
                file.attrs["state"] = state.to_json()
                for name, rows in groups.items():
                    group = file.create_group(name)
                    for column in shard_columns(name, feature_size):
                        values = rows[column.name]
                        group.create_dataset(
                            column.name, data=values, dtype=column.dtype, chunks=values.shape, fletcher32=True
                        )
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def superseded(states: Mapping[ShardName, ShardState]) -> set[ShardName]:
    """Return the shards whose steps a later flight has flown again, going on from a snapshot of before."""
    flights: dict[int, set[tuple[int, tuple[int, int]]]] = {}
    for name, state in states.items():
        if state.continues is not None:
            flights.setdefault(name.rank, set()).add((name.segment, state.continues))
    return {
        name
        for name, state in states.items()
        for segment, after in flights.get(name.rank, ())
        if name.segment < segment and flown_after(name, state, after)
    }


def flown_after(name: ShardName, state: ShardState, after: tuple[int, int]) -> bool:
    """Return whether a shard belongs to the flight of a snapshot of the same process, and comes after it.

    Args:
        name: the shard.
        state: where the process stood.
        after: segment and index of the snapshot's shard, the last one with a snapshot in its flight.
    """
    return (name.segment, name.index) > after and (name.segment == after[0] or state.continues == after)


class Shard:
    """A shard, open for reading. Use it as a context manager.

    Args:
        path: the shard.
        feature_size: width that its features must have.

    Attributes:
        path: as given.
        state: where the process stood when it closed the shard.

    Raises:
        DatasetError: it is damaged.
    """

    def __init__(self, path: Path, feature_size: int) -> None:
        self.path, self._feature_size = path, feature_size
        with damage_reported(path):
            require_sealed(path)
            require_sound_heaps(path)
            self._file = h5py.File(path, "r")
            try:
                self.state = ShardState.from_json(self._file.attrs["state"])
            except BaseException:
                self._file.close()
                raise

    def read(self, name: str) -> Columns | None:
        """Return the rows of a group, None if it has none.

        Raises:
            DatasetError: they are damaged.
        """
        with damage_reported(self.path):
            if (group := stored_group(self.path, self._file, name)) is None:
                return None
            features = stored_dataset(self.path, group, features_column(self._feature_size))
            return {
                column.name: self._values(group, column, features.shape[0])
                for column in shard_columns(name, self._feature_size)
            }

    def verify(self) -> None:
        """Read everything once, checksums included.

        Raises:
            DatasetError: something is damaged.
        """
        for name in (TRAINING, HELDOUT, OBSERVATIONS):
            self.read(name)

    def column(self, name: str, column: str) -> Array:
        """Return one column of a group, empty where there is none.

        Raises:
            DatasetError: it is damaged.
        """
        wanted = next(c for c in shard_columns(name, self._feature_size) if c.name == column)
        with damage_reported(self.path):
            group = stored_group(self.path, self._file, name)
            return np.empty(0) if group is None else self._values(group, wanted, None)

    def _values(self, group: h5py.Group, column: Column, rows: int | None) -> Array:
        dataset = stored_dataset(self.path, group, column, rows)
        require_stored(self.path, dataset)
        values = StoredRows(self.path, dataset)[:]
        if values.dtype.kind == "f" and column.name not in (_KEY.name, _KEYS.name) and not np.isfinite(values).all():
            raise DatasetError(f"{self.path}: {column.name} holds NaN or Inf; remove the shard and go on without it")
        return values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
