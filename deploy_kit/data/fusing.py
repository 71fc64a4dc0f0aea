"""Makes the feature file of a collection's shards.

What is in the file follows from the shards alone: which rows were stored, with which keys, and what each process had
seen. So the file is the same whether it is made at the end, after a kill, or by another process.
"""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.layout import LAYOUT_ATTRIBUTE, layout_sha256
from deploy_kit.data.older_file import listed_folder, older_file_stands
from deploy_kit.data.row_tables import KeptShards, OneFile, RowTables
from deploy_kit.data.sampling import KEY, class_sizes
from deploy_kit.data.schema import (
    HELDOUT,
    OBSERVATIONS,
    UNKNOWN_TRACK,
    Array,
    Columns,
    FeatureFileInfo,
    observation_columns,
)
from deploy_kit.data.shard import KEYS, TRAINING, Shard, ShardState, sync_folder
from deploy_kit.data.shard_folder import ShardFolder
from deploy_kit.data.split import TrackSplitter
from deploy_kit.data.survey import Survey, flown, survey_of
from deploy_kit.data.table import Table, new_hdf5_file, write_errors
from deploy_kit.errors import DatasetError
from deploy_kit.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass
class Fused:
    """What the feature file holds.

    Attributes:
        num_positive: positive training rows.
        num_negative: negative training rows.
        heldout_episodes: held-out episodes.
        observations: whole observations.
        dropped_episodes: episodes that were left out, since the simulator's numbers were not finite.
        env_steps: environment steps flown.
        full: whether all training rows that were asked for are there.
        heldout_complete: whether all processes of a flight had flown their held-out episodes.
        written: whether there is a new file; if not, an older one is kept.
    """

    num_positive: int = 0
    num_negative: int = 0
    heldout_episodes: int = 0
    observations: int = 0
    dropped_episodes: int = 0
    env_steps: int = 0
    full: bool = False
    heldout_complete: bool = False
    written: bool = False

    @property
    def whole(self) -> bool:
        """Whether all that was asked for is there."""
        return self.full and self.heldout_complete

    @property
    def rows(self) -> bool:
        """Whether there is any training or held-out row."""
        return bool(self.num_positive or self.num_negative or self.heldout_episodes)


def fuse(
    folder: ShardFolder,
    plan: CollectionPlan,
    complete: bool | None,
    progress: Callable[[Progress], None] = silent,
    keep_shards: bool = False,
    spare_older: bool = False,
) -> Fused:
    """Write the feature file beside its shards and move it into place; the collection's folder stays.

    Args:
        folder: the collection's folder.
        plan: what was asked for.
        complete: whether the file is to be marked as complete; None if all that was asked for is there.
        progress: told of each shard.
        keep_shards: leave the rows in a shard each, which the feature file points to.
        spare_older: write nothing if another collection's file would be replaced by a part of this one.

    Raises:
        DatasetError: there are no rows, or the file cannot be written. An older file stays then, and so do the shards.
    """
    with write_errors(folder.target):
        survey = survey_of(folder, plan)
        selection = _Selection(survey, plan)
    fused = Fused(
        num_positive=selection.sizes[1],
        num_negative=selection.sizes[0],
        heldout_episodes=survey.heldout_episodes,
        dropped_episodes=len(survey.dropped),
        env_steps=sum(state.env_steps for state in survey.states.values()),
        full=selection.sizes == (plan.num_negative, plan.num_positive),
        heldout_complete=flown(survey, plan, survey.heldout_segment),
    )
    if spare_older and not fused.whole and older_file_stands(folder.target, folder.read_plan()):
        return fused
    target, temporary = folder.target, folder.path / f".fused.{os.getpid()}.tmp"
    info = _info(plan, survey, selection, fused)
    info = replace(info, complete=fused.whole if complete is None else complete)
    tables: RowTables | None = None
    try:
        _require_space(folder)
        with write_errors(target):
            replaced = listed_folder(target)
            with new_hdf5_file(temporary) as file:
                size = int(plan.info["feature_size"])
                if keep_shards:
                    tables = KeptShards(temporary.with_suffix(".shards.tmp"), target.name, size)
                else:
                    tables = OneFile(file, size)
                _write(file, tables, survey, selection, plan, fused, progress)
                for name, value in info.to_attributes().items():
                    file.attrs[name] = value
                layout = layout_sha256(file)
                file.attrs[LAYOUT_ATTRIBUTE] = layout
            if not fused.rows:
                raise DatasetError(f"{target}: no rows were collected, so nothing was written")
            # First: then no file can be there that was made of these rows and is not known to be.
            folder.write_plan(replace(folder.read_plan(), made=layout))
            tables.publish(target)
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        if tables is not None:
            tables.discard()
    fused.written = True
    if replaced is not None and replaced != listed_folder(target):
        logger.warning(
            "%s kept its rows in %s, which stays; remove it if no copy of the older file needs it",
            target,
            target.parent / replaced,
        )
    return fused


class _Selection:
    """Which stored training rows are in the file: of each class, those with the smallest keys."""

    def __init__(self, survey: Survey, plan: CollectionPlan) -> None:
        self._limits = survey.limits
        self._usable: dict[Path, npt.NDArray[np.bool_]] = {}
        keys: list[list[npt.NDArray[np.float64]]] = [[], []]
        banned = np.array(sorted(survey.heldout_tracks), np.int64)
        dropped = np.array(sorted(survey.dropped), np.int64)
        shared = 0
        for _, path in survey.shards:
            with Shard(path, int(plan.info["feature_size"])) as shard:
                label, key = shard.column(TRAINING, "supervision").reshape(-1), shard.column(TRAINING, KEY)
                track, episode = (shard.column(TRAINING, name) for name in ("track_id", "episode_id"))
            on_heldout = np.isin(track, banned)
            shared += int(on_heldout.sum())
            usable = ~on_heldout & ~np.isin(episode, dropped)
            usable &= key < np.where(label != 0, self._limits[1], self._limits[0])
            self._usable[path] = usable
            for value in (0, 1):
                keys[value].append(key[usable & (label == value)])
        if shared:
            logger.warning("%d training rows are from held-out tracks of other processes and are left out", shared)
        every = [np.concatenate([*found, np.empty(0)]) for found in keys]
        self.sizes = class_sizes([found.size for found in every], (plan.num_negative, plan.num_positive))
        # Keys are distinct: 53 random bits each.
        self._below = [
            np.inf if size == found.size else np.partition(found, size)[size]
            for size, found in zip(self.sizes, every, strict=True)
        ]

    def rows(self, path: Path, training: Columns) -> Columns:
        """Return the rows of a shard that are in the file."""
        label, key = training["supervision"][:, 0], training[KEY]
        keep = self._usable[path] & (key < np.where(label != 0, self._below[1], self._below[0]))
        return {name: values[keep] for name, values in training.items()}


def _write(
    file: h5py.File,
    tables: RowTables,
    survey: Survey,
    selection: _Selection,
    plan: CollectionPlan,
    fused: Fused,
    progress: Callable[[Progress], None],
) -> None:
    size = int(plan.info["feature_size"])
    splitter = TrackSplitter(plan.sampling_seed)
    # Every flight numbers its held-out episodes alike.
    dropped = np.array(sorted(survey.dropped_heldout), np.int64)
    observed: list[Columns] = []
    fused.heldout_episodes = 0
    for number, (name, path) in enumerate(survey.shards):
        progress(Progress("writing the feature file", number, len(survey.shards)))
        with Shard(path, size) as shard, tables.shard(name) as place:
            if (rows := shard.read(TRAINING)) is not None:
                place.training.append(selection.rows(path, rows))
            if name.segment != survey.heldout_segment:
                continue
            if (rows := shard.read(HELDOUT)) is not None:
                rows = _without(rows, dropped)
                fused.heldout_episodes += int((rows["step"] == 0).sum())
                place.heldout.append({**rows, "is_test": _sides(rows, splitter)})
            if (rows := shard.read(OBSERVATIONS)) is not None:
                observed.append(_without(rows, dropped))
    tables.finish(file)
    kept = _observations(observed, plan.keep_observations)
    if kept is not None:
        table = Table(file.create_group(OBSERVATIONS), observation_columns(size, kept["observation"].shape[1]))
        table.append(kept)
        table.finish()
        fused.observations = table.rows
    progress(Progress("writing the feature file", len(survey.shards), len(survey.shards)))


def _without(rows: Columns, episodes: npt.NDArray[np.int64]) -> Columns:
    keep = ~np.isin(rows["episode_id"], episodes)
    return {name: values[keep] for name, values in rows.items()}


def _sides(rows: Columns, splitter: TrackSplitter) -> npt.NDArray[np.bool_]:
    """Return which held-out rows are for test; episodes on unknown tracks are split one by one."""
    stored: Array = rows["is_test"]
    side: npt.NDArray[np.bool_] = stored != 0
    first = np.flatnonzero(rows["step"] == 0)
    for start, stop in zip(first, [*first[1:], stored.size], strict=True):
        if stored[start] < 0:
            track, episode = int(rows["track_id"][start]), int(rows["episode_id"][start])
            side[start:stop] = splitter.is_test(-2 - episode if track == UNKNOWN_TRACK else track)
    return side


def _observations(parts: list[Columns], capacity: int | None) -> Columns | None:
    """Return a uniform sample of each reason's observations, each once, in the order of episodes and steps."""
    if not parts:
        return None
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(rows["step"])
    keys = rows.pop("keys")
    if capacity is not None:
        share, rest = divmod(capacity, KEYS)
        keep = np.zeros(count, np.bool_)
        for reason in range(KEYS):
            smallest = np.argsort(keys[:, reason], kind="stable")[: share + (reason < rest)]
            keep[smallest[np.isfinite(keys[smallest, reason])]] = True
        rows = {name: values[keep] for name, values in rows.items()}
        # One step may have been stored for two reasons.
        order = np.lexsort((rows["step"], rows["episode_id"]))
        same = np.concatenate(
            [[False], (np.diff(rows["step"][order]) == 0) & (np.diff(rows["episode_id"][order]) == 0)]
        )
        rows = {name: values[order[~same]] for name, values in rows.items()}
    return rows if len(rows["step"]) else None


def _info(plan: CollectionPlan, survey: Survey, selection: _Selection, fused: Fused) -> FeatureFileInfo:
    seen = survey.seen
    segments = [
        {
            **vars(segment),
            "env_steps": sum(state.env_steps for (number, _), state in survey.states.items() if number == index),
        }
        for index, segment in enumerate(plan.segments)
    ]
    rates = [size / count if count else float("nan") for size, count in zip(selection.sizes, seen, strict=True)]
    state = next(iter(survey.states.values()), ShardState())
    return replace(
        FeatureFileInfo.from_plain(plan.info),
        policy_period_s=state.policy_period_s,
        clip_actions=state.clip_actions,
        provenance={"segments": segments, "dropped_episodes": fused.dropped_episodes},
        requested_positive=plan.num_positive,
        requested_negative=plan.num_negative,
        rows_seen=sum(seen),
        prevalence=seen[1] / sum(seen) if sum(seen) else float("nan"),
        positive_rate=rates[1],
        negative_rate=rates[0],
    )


def _require_space(folder: ShardFolder) -> None:
    needed = sum(path.stat().st_size for _, path in folder.shards())
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise DatasetError(
            f"{folder.target}: writing it takes up to {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free; make "
            f"room, then give --recover. All rows are kept in {folder.path}"
        )
