"""What earlier flights of an interrupted collection left, as one process goes on from it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.sampling import KEY, KeyedSampler
from deploy_kit.data.schema import HELDOUT, UNKNOWN_TRACK, Array, Columns
from deploy_kit.data.shard import TRAINING, Shard, ShardName, ShardState, flown_after, superseded
from deploy_kit.data.shard_folder import ShardFolder
from deploy_kit.data.snapshot import NUM_ENVS, ORIGIN, read_snapshot, snapshot_path, stored_count
from deploy_kit.errors import DatasetError
from deploy_kit.ranks import Rank

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GoingOn:
    """An earlier flight of this process that is gone on with.

    Attributes:
        shard: its last shard with a snapshot.
        state: where it stood then.
        path: the snapshot.
        arrays: what is in it.
        covered: training rows that it has seen since and that are in shards; they are flown again.
    """

    shard: ShardName
    state: ShardState
    path: Path
    arrays: Mapping[str, npt.NDArray[Any]]
    covered: int


@dataclass
class EarlierFlights:
    """What counts of earlier flights.

    Attributes:
        origin: flight whose seeds and numbers this process's flight has.
        going_on: what it goes on from, None for a flight of its own.
        limits: keys from which on negatives and positives are not stored.
        seen: negatives and positives that all processes have seen.
        keys: keys of stored negatives and positives.
        dropped: stored negatives and positives whose episodes do not count.
        ids: episodes and labels of the rows of the flight that is gone on with.
        heldout_tracks: tracks of held-out episodes.
        stored_bytes: size of all shards.
        stored_rows: training and held-out rows in them.
    """

    origin: int
    going_on: GoingOn | None = None
    limits: tuple[float, float] = (1.0, 1.0)
    seen: tuple[int, int] = (0, 0)
    keys: tuple[Array, Array] = (np.empty(0), np.empty(0))
    dropped: tuple[int, int] = (0, 0)
    ids: list[Columns] = field(default_factory=list)
    heldout_tracks: set[int] = field(default_factory=set)
    stored_bytes: int = 0
    stored_rows: int = 0


@dataclass(frozen=True)
class _Stored:
    """What a shard holds besides features."""

    state: ShardState
    label: Array
    key: Array
    episode: Array
    heldout_track: Array


def earlier_flights(folder: ShardFolder, plan: CollectionPlan, rank: Rank, num_envs: int | None) -> EarlierFlights:
    """Look at the shards of earlier flights; damaged ones are named and left out.

    Args:
        folder: the collection's folder.
        plan: what is collected.
        rank: which process this is.
        num_envs: its environments, None if nothing is flown.
    """
    shards, unreadable = _read(folder, plan)
    states = {name: stored.state for name, stored in shards.items()}
    again = superseded(states)
    counting = {name: stored for name, stored in shards.items() if name not in again}
    found = EarlierFlights(plan.segment)
    none_stored = not any(name.rank == rank.index and stored.label.size for name, stored in shards.items())
    if none_stored and rank.index < plan.segments[0].ranks and not any(n.rank == rank.index for n in unreadable):
        # It has stored no training row: its first flight begins once more. A process that the first flight did not have
        # would take the number of another flight.
        found.origin = 0
    if num_envs is not None and not _enough(counting, plan):
        tails = {name for other in range(rank.count) for name in _tail(folder, plan, counting, rank.count, other)}
        found.going_on = _going_on(folder, plan, counting, rank, num_envs)
        if found.going_on is None:
            tails = {name for name in tails if name.rank != rank.index}
        else:
            found.origin = int(found.going_on.arrays[ORIGIN][0])
        counting = {name: stored for name, stored in counting.items() if name not in tails}
    _count(found, counting, rank)
    found.stored_bytes = sum((folder.path / name.file_name).stat().st_size for name in shards)
    found.stored_rows = sum(stored.label.size + stored.heldout_track.size for stored in shards.values())
    tracks = {int(track) for stored in shards.values() for track in np.unique(stored.heldout_track)}
    found.heldout_tracks = tracks - {UNKNOWN_TRACK}
    return found


def _read(folder: ShardFolder, plan: CollectionPlan) -> tuple[dict[ShardName, _Stored], list[ShardName]]:
    shards, unreadable = dict[ShardName, _Stored](), list[ShardName]()
    for name, path in folder.shards():
        if name.segment >= plan.segment:
            continue
        try:
            with Shard(path, int(plan.info["feature_size"])) as shard:
                shard.verify()
                shards[name] = _Stored(
                    shard.state,
                    shard.column(TRAINING, "supervision").reshape(-1),
                    shard.column(TRAINING, KEY),
                    shard.column(TRAINING, "episode_id").astype(np.int64),
                    shard.column(HELDOUT, "track_id").astype(np.int64),
                )
        except DatasetError as error:
            # The feature file will do without it too, and its rows are flown anew.
            logger.warning("%s; it is left out", error)
            unreadable.append(name)
    return shards, unreadable


def _limits(shards: Mapping[ShardName, _Stored]) -> tuple[float, float]:
    last = {(name.segment, name.rank): stored.state.limits for name, stored in shards.items()}
    negative, positive = (min((limits[label] for limits in last.values()), default=1.0) for label in (0, 1))
    return negative, positive


def _enough(shards: Mapping[ShardName, _Stored], plan: CollectionPlan) -> bool:
    """Return whether the stored rows are all that was asked for, so that nothing is flown any more."""
    limits, count = _limits(shards), [0, 0]
    for stored in shards.values():
        for label in (0, 1):
            count[label] += int(((stored.label == label) & (stored.key < limits[label])).sum())
    return limits[0] < 1.0 and count[0] >= plan.num_negative and count[1] >= plan.num_positive


def _newest_snapshot(
    plan: CollectionPlan, shards: Mapping[ShardName, _Stored], ranks: int, index: int
) -> ShardName | None:
    """Return the last shard of a process that has a snapshot; None too where there were more or fewer processes."""
    names = [name for name, stored in shards.items() if name.rank == index and stored.state.snapshot]
    if not names or plan.segments[names[-1].segment].ranks != ranks:
        return None
    return names[-1]


def _tail(
    folder: ShardFolder, plan: CollectionPlan, shards: Mapping[ShardName, _Stored], ranks: int, index: int
) -> list[ShardName]:
    """Return the shards of a process that it will fly again, going on from its snapshot."""
    newest = _newest_snapshot(plan, shards, ranks, index)
    if newest is None or not snapshot_path(folder.path, newest).is_file():
        return []
    after = (newest.segment, newest.index)
    return [name for name, stored in shards.items() if name.rank == index and flown_after(name, stored.state, after)]


def _going_on(
    folder: ShardFolder, plan: CollectionPlan, shards: Mapping[ShardName, _Stored], rank: Rank, num_envs: int
) -> GoingOn | None:
    newest = _newest_snapshot(plan, shards, rank.count, rank.index)
    if newest is None:
        return None
    state = shards[newest].state
    try:
        arrays = read_snapshot(folder.path, newest, state.snapshot)
        if not 0 <= stored_count(arrays, ORIGIN) < plan.segment:
            raise ValueError("it is of no flight of this collection")
        KeyedSampler(0, 0, 0).restore(arrays, alone=True)
        if (had := stored_count(arrays, NUM_ENVS)) != num_envs:
            raise DatasetError(f"the flight had {had} environments, not {num_envs}")
        version = plan.segments[newest.segment].tool_version
        if version != plan.segments[-1].tool_version:
            raise DatasetError(f"the flight was of deploy-kit {version}")
    except (DatasetError, ValueError) as error:
        where = "" if isinstance(error, DatasetError) else f"{snapshot_path(folder.path, newest)}: "
        logger.warning("%s%s: collecting goes on with new episodes", where, error)
        return None
    covered = 0
    for name in _tail(folder, plan, shards, rank.count, rank.index):
        before = sum(state.seen) if name.segment == newest.segment else 0
        covered = max(covered, sum(shards[name].state.seen) - before)
    return GoingOn(newest, state, snapshot_path(folder.path, newest), arrays, covered)


def _count(found: EarlierFlights, shards: Mapping[ShardName, _Stored], rank: Rank) -> None:
    """Count the rows of shards."""
    last = {(name.segment, name.rank): stored.state for name, stored in shards.items()}
    found.limits = _limits(shards)
    dropped = np.array(sorted({number for state in last.values() for number in state.dropped_episodes}), np.int64)
    keys: list[list[Array]] = [[], []]
    without = [0, 0]
    for name, stored in shards.items():
        for label in (0, 1):
            rows = (stored.label == label) & (stored.key < found.limits[label])
            keys[label].append(stored.key[rows])
            without[label] += int(np.isin(stored.episode[rows], dropped).sum())
        if found.going_on is not None and name.rank == rank.index:
            found.ids.append({"episode_id": stored.episode, "supervision": stored.label[:, None]})
    found.keys = (np.concatenate([np.empty(0), *keys[0]]), np.concatenate([np.empty(0), *keys[1]]))
    found.dropped = (without[0], without[1])
    found.seen = (sum(state.seen[0] for state in last.values()), sum(state.seen[1] for state in last.values()))
