"""Writes feature files: class-balanced training rows, whole held-out episodes, kept observations.

Rows go to `NAME.h5.partial` beside the target as they come, flushed regularly, so that even a killed process leaves a
file that opens; the finished file is moved into place.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from deploy_kit.data.partial_file import PartialFile
from deploy_kit.data.sampling import BalancedSampler, Placement
from deploy_kit.data.schema import (
    HELDOUT,
    ID_COLUMNS,
    OBSERVATIONS,
    REASON,
    Array,
    Columns,
    FeatureFileInfo,
    heldout_columns,
    observation_columns,
    training_columns,
)
from deploy_kit.data.split import TrackSplitter
from deploy_kit.data.table import Table
from deploy_kit.errors import DatasetError

logger = logging.getLogger(__name__)


class FeatureFileWriter:
    """Writes one feature file. Use it as a context manager.

    Leaving the context by `finish()` or normally moves the file into place. Leaving it by an exception (an interrupt
    included) does the same with what is there, marked incomplete, unless an older file would be replaced: then
    the new rows stay beside it as `NAME.h5.partial`.

    Args:
        path: the file to write; its name ends in `.h5`.
        info: how the rows come about; the writer fills in counts and rates.
        num_positive: positive training rows wanted.
        num_negative: negative training rows wanted.
        seed: seed of the sampling and of the split of the held-out tracks.
        overwrite: replace an existing file, at the end.

    Raises:
        DatasetError: the file exists, has the wrong suffix, or its folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        info: FeatureFileInfo,
        num_positive: int,
        num_negative: int,
        seed: int,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self._file = PartialFile(path, overwrite)
        self._info = replace(info, requested_positive=num_positive, requested_negative=num_negative)
        self._sampler = BalancedSampler(num_positive, num_negative, seed)
        self._row_of = (np.empty(num_negative, np.int64), np.empty(num_positive, np.int64))
        self._splitter = TrackSplitter(seed)
        self._training_tracks: set[int] = set()
        self._heldout_tracks: dict[int, bool] = {}
        self._heldout_episodes: set[int] = set()
        self._training = self._file.add_table("/", training_columns(info.feature_size))
        self._heldout = self._file.add_table(HELDOUT, heldout_columns(info.feature_size))
        self._observations: Table | None = None
        self._file.store(self._attributes(complete=False))

    @property
    def num_positive(self) -> int:
        """Positive training rows that the file would hold if collecting ended now."""
        return self._sampler.count(1)

    @property
    def num_negative(self) -> int:
        """Negative training rows that the file would hold if collecting ended now."""
        return self._sampler.count(0)

    @property
    def num_heldout_episodes(self) -> int:
        """Held-out episodes so far."""
        return len(self._heldout_episodes)

    @property
    def num_observations(self) -> int:
        """Kept observations so far."""
        return 0 if self._observations is None else self._observations.rows

    @property
    def full(self) -> bool:
        """Whether all training rows wanted are there."""
        return self._sampler.full

    def record_steps(self, policy_period_s: float | None, clip_actions: float | None) -> None:
        """Record how the rows were flown, which is known once there is an environment.

        Args:
            policy_period_s: duration of a step, s; None where the environment does not say.
            clip_actions: limit of the actions' size, None for none.
        """
        period, clip = (float("nan") if value is None else float(value) for value in (policy_period_s, clip_actions))
        self._info = replace(self._info, policy_period_s=period, clip_actions=clip)

    def hold_rate(self, rows: int) -> None:
        """Leave the negatives' rate open until so many training rows have been offered.

        Drones that start together reach the first gate together, so the prevalence of less than an episode misleads.

        Args:
            rows: for example one whole episode of every environment.
        """
        self._sampler.pilot_rows = rows

    def add_training(
        self,
        features: npt.ArrayLike,
        label: npt.ArrayLike,
        episode_id: npt.ArrayLike,
        env_id: npt.ArrayLike,
        track_id: npt.ArrayLike,
        step: npt.ArrayLike,
    ) -> None:
        """Offer rows, in the order of time; the writer keeps a balanced, uniform sample of all that it is offered.

        Args:
            features: (n, F) float32.
            label: (n,) or (n, 1), 0 or 1.
            episode_id: (n,) unique number of the episode.
            env_id: (n,) index of the environment.
            track_id: (n,) derived from the track's seed.
            step: (n,) step within the episode, from 0.

        Raises:
            DatasetError: rows are malformed or not finite, a track is held out already, or the disk is full.
        """
        rows = self._rows(features, label, episode_id, env_id, track_id, step)
        tracks = set(np.unique(rows["track_id"]).tolist())
        if shared := tracks & self._heldout_tracks.keys():
            raise DatasetError(f"{self.path}: track {min(shared)} is held out and cannot give training rows too")
        self._training_tracks |= tracks
        for placement in self._sampler.offer(rows):
            self._place(placement)
        self._store_if_due()

    def add_heldout_episode(
        self,
        features: npt.ArrayLike,
        label: npt.ArrayLike,
        episode_id: int,
        env_id: int,
        track_id: int,
        is_test: bool | None = None,
    ) -> None:
        """Add one whole episode, all its steps from the first on.

        Args:
            features: (n, F) float32, in the order of time.
            label: (n,) or (n, 1), 0 or 1.
            episode_id: unique number of the episode.
            env_id: index of the environment.
            track_id: derived from the track's seed; no training row may come from this track.
            is_test: test or validation; None lets the writer split the tracks half and half, seeded.

        Raises:
            DatasetError: rows are malformed or not finite, the track is a training track, was on the other side of the
                split, the episode was added before, or the disk is full.
        """
        count = np.shape(label)[0]
        if count == 0:
            raise DatasetError(f"{self.path}: held-out episode {episode_id} has no steps")
        if track_id in self._training_tracks:
            raise DatasetError(f"{self.path}: track {track_id} gave training rows and cannot be held out too")
        if episode_id in self._heldout_episodes:
            raise DatasetError(f"{self.path}: held-out episode {episode_id} was added before")
        is_test = self._splitter.is_test(track_id) if is_test is None else is_test
        if self._heldout_tracks.setdefault(track_id, is_test) != is_test:
            raise DatasetError(f"{self.path}: held-out track {track_id} cannot be both validation and test")
        rows = self._rows(
            features,
            label,
            np.full(count, episode_id),
            np.full(count, env_id),
            np.full(count, track_id),
            np.arange(count),
        )
        self._heldout_episodes.add(episode_id)
        self._heldout.append({**rows, "is_test": np.full(count, is_test)})
        self._store_if_due()

    def keep_observations(
        self,
        observation: npt.ArrayLike,
        features: npt.ArrayLike,
        label: npt.ArrayLike,
        episode_id: npt.ArrayLike,
        env_id: npt.ArrayLike,
        track_id: npt.ArrayLike,
        step: npt.ArrayLike,
        reason: npt.ArrayLike,
    ) -> None:
        """Keep whole observations beside the features that the policy made of them.

        Args:
            observation: (n, observation size) float32, what the policy saw.
            features: (n, F) float32.
            label: (n,) or (n, 1), 0 or 1.
            episode_id: (n,) unique number of the episode.
            env_id: (n,) index of the environment.
            track_id: (n,) derived from the track's seed.
            step: (n,) step within the episode, from 0.
            reason: (n,) bits of `KeepReason`.

        Raises:
            DatasetError: rows are malformed or not finite, or the disk is full.
        """
        rows = self._rows(features, label, episode_id, env_id, track_id, step)
        count = len(rows["step"])
        if self._observations is None:
            columns = observation_columns(self._info.feature_size, np.shape(observation)[-1])
            self._observations = self._file.add_table(OBSERVATIONS, columns)
        seen = self._observations.columns[0]
        rows[seen.name] = self._array(observation, seen.dtype, seen.name, seen.shape(count))
        rows[REASON.name] = self._array(reason, REASON.dtype, REASON.name, REASON.shape(count))
        self._observations.append(rows)
        self._store_if_due()

    def finish(self, complete: bool) -> Path:
        """Store everything, mark the file and move it into place, replacing an older one.

        Args:
            complete: whether all rows that were asked for are there.

        Returns:
            Path of the finished file.

        Raises:
            DatasetError: there are no rows at all, or the disk is full.
        """
        if self._file.closed:
            return self.path
        self._close(complete)
        if not self.rows:
            self._file.drop()
            raise DatasetError(f"{self.path}: no rows were collected, so nothing was written")
        self._file.publish()
        return self.path

    @property
    def rows(self) -> int:
        """Training and held-out rows that are stored or waiting to be."""
        return self._training.rows + self._heldout.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        if kind is None:
            self.finish(complete=self.full)
            return
        self._close(complete=False)
        partial = self._file.partial
        if not self.rows:
            self._file.drop()
        elif self.path.exists():
            logger.warning("%s is kept; the rows collected before the interruption are in %s", self.path, partial)
        else:
            self._file.publish()
            logger.warning("%s: interrupted, holds %d rows", self.path, self.rows)

    def _close(self, complete: bool) -> None:
        for placement in self._sampler.settle():
            self._place(placement)
        self._file.close(self._attributes(complete))

    def _place(self, placement: Placement) -> None:
        row_of, new = self._row_of[placement.label], placement.new
        row_of[placement.slots[:new]] = self._training.append({n: v[:new] for n, v in placement.rows.items()})
        if new < placement.slots.size:
            self._training.overwrite(row_of[placement.slots[new:]], {n: v[new:] for n, v in placement.rows.items()})

    def _rows(self, features: npt.ArrayLike, label: npt.ArrayLike, *ids: npt.ArrayLike) -> Columns:
        labels = np.array(label).reshape(-1, 1)
        count = len(labels)
        if not np.isin(labels, (0, 1)).all():
            raise DatasetError(
                f"{self.path}: label {labels[~np.isin(labels, (0, 1))][0]} to be written is neither 0 nor 1"
            )
        rows = {"features": self._array(features, np.float32, "features", (count, self._info.feature_size))}
        rows["supervision"] = labels.astype(np.int8)
        for column, values in zip(ID_COLUMNS, ids, strict=True):
            rows[column.name] = self._array(values, column.dtype, column.name, (count,))
        return rows

    def _array(self, values: npt.ArrayLike, dtype: npt.DTypeLike, name: str, shape: tuple[int, ...]) -> Array:
        # A copy, since simulators reuse their buffers and rows wait in memory.
        array = np.array(values).astype(dtype)
        if array.shape != shape:
            raise DatasetError(f"{self.path}: {name} to be written has shape {array.shape}, expected {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise DatasetError(
                f"{self.path}: {name} to be written is not finite in row {row} of {len(array)}; check the policy"
            )
        return array

    def _store_if_due(self) -> None:
        if self._file.due:
            self._file.check_room()
            self._file.store(self._attributes(complete=False))

    def _attributes(self, complete: bool) -> Mapping[str, object]:
        seen = sum(self._sampler.seen)
        return replace(
            self._info,
            complete=complete,
            rows_seen=seen,
            prevalence=self._sampler.seen[1] / seen if seen else float("nan"),
            positive_rate=self._sampler.rate(1),
            negative_rate=self._sampler.rate(0),
        ).to_attributes()
