"""Writes feature files: class-balanced training rows, whole held-out episodes, kept observations.

Rows go to shards in `NAME.h5.partial/` beside the target; the finished file is made of them and moved into place. A
process that is killed at any moment loses the rows of the last few seconds.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from deploy_kit.data.beginning import begin_collection
from deploy_kit.data.cadence import DEFAULT_CADENCE, CheckpointEvery
from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.fusing import Fused, fuse
from deploy_kit.data.schema import Array, FeatureFileInfo
from deploy_kit.data.shard import KEYS
from deploy_kit.data.shard_folder import ShardFolder
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.data.survey import heldout_flown, holds_no_row
from deploy_kit.errors import DatasetError
from deploy_kit.progress import Progress, silent

logger = logging.getLogger(__name__)


class FeatureFileWriter:
    """Writes one feature file in one process. Use it as a context manager.

    Leaving the context by `finish()` or normally makes the file. Leaving it by an exception (an interrupt included)
    does the same with what is there, marked incomplete, unless an older file of another collection would be replaced or
    the disk failed. The shards stay after an exception, so that the collection can be gone on with.

    Args:
        path: the file to write; its name ends in `.h5`.
        info: how the rows come about; the writer fills in counts and rates.
        num_positive: positive training rows wanted.
        num_negative: negative training rows wanted.
        seed: seed of the sampling and of the split of the held-out tracks.
        overwrite: replace an existing file, at the end.
        resume: go on with an interrupted collection.
        keep_observations: whole observations in the file, None for all that are given.
        every: when rows are brought to the disk for good.
        keep_shards: leave the rows in shards beside the file, which points to them.
        num_envs: environments; None if the writer does not go on from a snapshot of theirs.

    Attributes:
        path: as given.
        shards: where rows go.
        fused: what the finished file holds, None before.

    Raises:
        DatasetError: the file exists, has the wrong suffix, its folder cannot be written, or somebody else collects it.
    """

    def __init__(
        self,
        path: Path,
        info: FeatureFileInfo,
        num_positive: int,
        num_negative: int,
        seed: int,
        overwrite: bool = False,
        resume: bool = False,
        keep_observations: int | None = None,
        every: CheckpointEvery = DEFAULT_CADENCE,
        keep_shards: bool = False,
        num_envs: int | None = None,
    ) -> None:
        self.path, self._keep_shards = path, keep_shards
        self._folder = ShardFolder(path)
        plan = CollectionPlan(info.to_plain(), num_positive, num_negative, seed, keep_observations, overwrite)
        self._plan = begin_collection(self._folder, plan, resume)
        try:
            self.shards = ShardWriter(self._folder, self._plan, every=every, num_envs=num_envs)
        except BaseException:
            self._folder.unlock()
            raise
        self.shards.record_steps(info.policy_period_s, info.clip_actions)
        self.fused: Fused | None = None

    @property
    def segment(self) -> int:
        """Number of the flight: 0, or more after interruptions."""
        return self._plan.segment

    def heldout_flown(self, wanted: int) -> bool:
        """Return whether an earlier flight has flown all held-out episodes; see `survey.heldout_flown`."""
        return heldout_flown(self._folder, self._plan, wanted)

    @property
    def num_positive(self) -> int:
        """Positive training rows that the file would hold if collecting ended now."""
        return self.shards.num_positive if self.fused is None else self.fused.num_positive

    @property
    def num_negative(self) -> int:
        """Negative training rows that the file would hold if collecting ended now."""
        return self.shards.num_negative if self.fused is None else self.fused.num_negative

    @property
    def num_heldout_episodes(self) -> int:
        """Held-out episodes so far."""
        return self.shards.num_heldout_episodes if self.fused is None else self.fused.heldout_episodes

    @property
    def num_observations(self) -> int:
        """Kept observations so far."""
        return self.shards.num_observations if self.fused is None else self.fused.observations

    @property
    def full(self) -> bool:
        """Whether all training rows wanted are there."""
        return self.shards.full

    def record_steps(self, policy_period_s: float | None, clip_actions: float | None) -> None:
        """Record how the rows were flown, which is known once there is an environment.

        Args:
            policy_period_s: duration of a step, s; None where the environment does not say.
            clip_actions: limit of the actions' size, None for none.
        """
        self.shards.record_steps(policy_period_s, clip_actions)

    def hold_rate(self, rows: int) -> None:
        """Leave the negatives' rate open until so many training rows have been offered.

        Drones that start together reach the first gate together, so the prevalence of less than an episode misleads.

        Args:
            rows: for example one whole episode of every environment.
        """
        self.shards.sampler.pilot_rows = rows

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
            track_id: (n,) derived from the track's seed; `UNKNOWN_TRACK` where the environment does not say.
            step: (n,) step within the episode, from 0.

        Raises:
            DatasetError: rows are malformed or not finite, a track is held out already, or the disk is full.
        """
        self.shards.add_training(
            features=features, label=label, episode_id=episode_id, env_id=env_id, track_id=track_id, step=step
        )

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
            is_test: test or validation; None splits the tracks half and half, seeded, when the file is made.

        Raises:
            DatasetError: rows are malformed or not finite, the track is a training track, was on the other side of the
                split, the episode was added before, or the disk is full.
        """
        self.shards.add_heldout_episode(features, label, episode_id, env_id, track_id, is_test)

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
        keys: Array | None = None,
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
            keys: (n, 4) random keys of `ObservationSample`, None to keep all.

        Raises:
            DatasetError: rows are malformed or not finite, or the disk is full.
        """
        count = np.shape(label)[0]
        rows = {"features": features, "label": label, "episode_id": episode_id, "env_id": env_id}
        rows |= {"track_id": track_id, "step": step}
        keys = np.zeros((count, KEYS)) if keys is None else keys
        self.shards.keep_observations(observation, reason, keys, **{n: np.asarray(v) for n, v in rows.items()})

    def finish(
        self,
        complete: bool | None,
        resumable: bool = False,
        progress: Callable[[Progress], None] = silent,
        spare_older: bool = False,
    ) -> Path:
        """Store everything, make the file and move it into place, replacing an older one.

        Args:
            complete: whether the file is to be marked as complete; None if all that was asked for is there.
            resumable: whether the collection may be gone on with later.
            progress: told of the making of the file.
            spare_older: write nothing if another collection's file would be replaced by a part of this one.

        Returns:
            Path of the file; `fused.written` says whether it is a new one.

        Raises:
            DatasetError: there are no rows at all, or the disk is full; the shards stay then.
        """
        if self.fused is not None:
            return self.path
        try:
            self.shards.close()
            if not self.shards.rows:
                self._remove_if_empty()
                raise DatasetError(f"{self.path}: no rows were collected, so nothing was written")
            self.fused = fuse(self._folder, self._plan, complete, progress, self._keep_shards, spare_older)
        finally:
            self._folder.unlock()
        if self.fused.written and not resumable:
            self._folder.remove()
        return self.path

    def _remove_if_empty(self) -> None:
        # Shards of before that cannot be read now hold rows all the same.
        if holds_no_row(self._folder, self._plan):
            self._folder.remove()

    @property
    def rows(self) -> int:
        """Training and held-out rows that are stored or waiting to be."""
        return self.shards.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fused is not None:
            return
        if kind is None:
            self.finish(complete=self.full)
            return
        self._folder.write_plan(replace(self._plan, ended=f"{kind.__name__}: {error}"[:500]))
        self._rescue()

    def _rescue(self) -> None:
        """Keep what is there after an error, which is the one to be raised."""
        try:
            self.shards.close()
            if not self.shards.rows:
                self._remove_if_empty()
                return
            fused = fuse(self._folder, self._plan, None, keep_shards=self._keep_shards, spare_older=True)
            if fused.written:
                logger.warning("%s: interrupted; --resume goes on with it", self.path)
            else:
                logger.warning(
                    "%s is kept; the rows collected before the interruption are in %s", self.path, self._folder.path
                )
        except DatasetError as failure:
            logger.warning("%s", failure)
        finally:
            self._folder.unlock()
