"""Writes the shards of one process: rows wait in memory until a shard is due, then they are on the disk for good."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deploy_kit.data.cadence import DEFAULT_CADENCE, CheckpointEvery
from deploy_kit.data.row_checks import RowChecks
from deploy_kit.data.sampling import KEY, KeyedSampler, Tally
from deploy_kit.data.schema import HELDOUT, OBSERVATIONS, REASON, UNKNOWN_TRACK, Array, Columns
from deploy_kit.data.shard import KEYS, TRAINING, UNDECIDED, Shard, ShardName, ShardState, write_shard
from deploy_kit.data.shard_folder import CollectionPlan, RankStatus, ShardFolder
from deploy_kit.errors import DatasetError
from deploy_kit.ranks import ALONE, Rank

logger = logging.getLogger(__name__)

RESERVE_BYTES = 64 * 2**20
"""Free space that is left beside room for the feature file; below it collecting stops with what is there."""

STATUS_SECONDS = 0.5
"""Time between two looks at what other processes have."""


class ShardWriter:
    """Samples training rows and stores all rows of one process in shards. Its methods may be called from any thread.

    Args:
        folder: the collection's folder, with its plan.
        plan: what is collected.
        rank: which process this is.
        every: when a shard is closed.
        clock: gives the time, s.

    Attributes:
        env_steps: environment steps flown; whoever flies counts them here.
        heldout_complete: whether this process has flown all its held-out episodes; likewise.
        waited_s: seconds spent in writing shards.
    """

    def __init__(
        self,
        folder: ShardFolder,
        plan: CollectionPlan,
        rank: Rank = ALONE,
        every: CheckpointEvery = DEFAULT_CADENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._plan, self._rank, self._every, self._clock = folder, plan, rank, every, clock
        self.path = folder.target
        self._feature_size = int(plan.info["feature_size"])
        self._checks = RowChecks(self.path, self._feature_size)
        seed = [plan.sampling_seed, plan.segment, rank.index]
        self.sampler = KeyedSampler(plan.num_positive, plan.num_negative, seed)
        self._state = ShardState()
        self.env_steps, self.heldout_complete, self.waited_s = 0, False, 0.0
        self._dropped: list[int] = []
        self._stored_ids: list[Columns] = []
        self._waiting: dict[str, list[Columns]] = {TRAINING: [], HELDOUT: [], OBSERVATIONS: []}
        self._waiting_rows = 0
        self._stored_bytes = 0
        self.stored_rows = 0
        self.num_observations = 0
        self._training_tracks: set[int] = set()
        self._heldout_tracks: dict[int, int] = {}
        self._heldout_episodes: set[int] = set()
        self._index = 0
        self._mutex = threading.RLock()
        self._lock = folder.lock_rank(rank.index)
        self._base_seen, self._dead = [0, 0], dict[int, Tally]()
        self._closed_at = self._looked_at = clock()
        self._take_over()

    # -- what was there before ------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Go on from earlier flights: their limits hold, and the first process counts their rows as its own."""
        limits, last = [1.0, 1.0], dict[tuple[int, int], ShardState]()
        keys: list[list[Array]] = [[], []]
        for name, path in self._folder.shards():
            if name.segment == self._plan.segment:
                continue
            try:
                with Shard(path, self._feature_size) as shard:
                    shard.verify()
                    state, heldout = shard.state, shard.column(HELDOUT, "track_id").astype(np.int64)
                    label, key = shard.column(TRAINING, "supervision").reshape(-1), shard.column(TRAINING, KEY)
            except DatasetError as error:
                # The feature file will do without it too, and its rows are flown anew.
                logger.warning("%s; it is left out", error)
                continue
            last[name.segment, name.rank] = state
            self._heldout_tracks |= dict.fromkeys(heldout.tolist(), UNDECIDED)
            for value in (0, 1):
                keys[value].append(key[label == value])
            self._stored_bytes += path.stat().st_size
            self.stored_rows += heldout.size + key.size
        for state in last.values():
            limits = [min(pair) for pair in zip(limits, state.limits, strict=True)]
        self._heldout_tracks.pop(UNKNOWN_TRACK, None)
        self.sampler.go_on(limits)
        if self._rank.leads:
            for kept, found in zip(self.sampler.classes, keys, strict=True):
                every = np.concatenate([*found, np.empty(0)])
                kept.add(every[every < kept.limit])
            self._base_seen = [sum(state.seen[label] for state in last.values()) for label in (0, 1)]
            self.sampler.base_seen = (self._base_seen[0], self._base_seen[1])

    # -- what others have -----------------------------------------------------------------------------------------

    def look(self, state: str = "flying", error: str = "", now: bool = False) -> None:
        """Tell the other processes what there is here, and take in what they have."""
        moment = self._clock()
        if not now and moment - self._looked_at < STATUS_SECONDS:
            return
        self._looked_at = moment
        with self._mutex:
            self._folder.publish(
                RankStatus(
                    rank=self._rank.index,
                    alive=True,
                    segment=self._plan.segment,
                    state=state,
                    tally=self.sampler.tally,
                    env_steps=self.env_steps,
                    heldout_episodes=self.num_heldout_episodes,
                    error=error,
                    waited_s=self.waited_s,
                    cpu_s=time.process_time(),
                )
            )
            if self._rank.count > 1:
                self.sampler.others = tuple(self._others())

    def _others(self) -> Iterable[Tally]:
        for status in self._folder.statuses(self._rank.count, self._plan.segment):
            if status.rank == self._rank.index or status.state == "starting":
                continue
            if status.alive or status.state == "done":
                self._dead.pop(status.rank, None)
                yield status.tally
                continue
            # Of a process that died, the finished shards count.
            if status.rank not in self._dead:
                self._dead[status.rank] = self._durable(status.rank)
            yield self._dead[status.rank]

    def _durable(self, rank: int) -> Tally:
        sampler = KeyedSampler(self._plan.num_positive, self._plan.num_negative, 0)
        state = ShardState()
        for name, path in self._folder.shards():
            if name.rank != rank or name.segment != self._plan.segment:
                continue
            with Shard(path, self._feature_size) as shard:
                state = shard.state
                label, key = shard.column(TRAINING, "supervision").reshape(-1), shard.column(TRAINING, KEY)
                for value, kept in enumerate(sampler.classes):
                    kept.add(key[label == value])
        return sampler.tally._replace(seen=state.seen, limits=state.limits)

    # -- rows -----------------------------------------------------------------------------------------------------

    @property
    def num_positive(self) -> int:
        """Positive training rows that there would be if collecting ended now, those of other processes included."""
        return self.sampler.count(1)

    @property
    def num_negative(self) -> int:
        """Negative training rows that there would be if collecting ended now, those of other processes included."""
        return self.sampler.count(0)

    @property
    def full(self) -> bool:
        """Whether all training rows wanted are there, those of other processes included."""
        return self.sampler.full

    @property
    def num_heldout_episodes(self) -> int:
        """Held-out episodes of this process."""
        return len(self._heldout_episodes)

    @property
    def rows(self) -> int:
        """Training and held-out rows, stored or waiting."""
        waiting = (rows for name in (TRAINING, HELDOUT) for rows in self._waiting[name])
        return self.stored_rows + sum(len(rows["step"]) for rows in waiting)

    def record_steps(self, policy_period_s: float | None, clip_actions: float | None) -> None:
        """Record how the rows are flown; see `FeatureFileWriter.record_steps`."""
        period, clip = (float("nan") if value is None else float(value) for value in (policy_period_s, clip_actions))
        self._state = replace(self._state, policy_period_s=period, clip_actions=clip)

    def add_training(self, **columns: npt.ArrayLike) -> None:
        """Offer training rows; see `FeatureFileWriter.add_training`."""
        names = ("features", "label", "episode_id", "env_id", "track_id", "step")
        rows = self._checks.rows(*(columns[name] for name in names))
        tracks = set(np.unique(rows["track_id"]).tolist()) - {UNKNOWN_TRACK}
        if shared := tracks & self._heldout_tracks.keys():
            raise DatasetError(f"{self.path}: track {min(shared)} is held out and cannot give training rows too")
        with self._mutex:
            if self._dropped:
                counts = ~np.isin(rows["episode_id"], self._dropped)
                rows = {name: values[counts] for name, values in rows.items()}
            self._training_tracks |= tracks
            self._add(TRAINING, self.sampler.offer(rows))

    def add_heldout_episode(
        self,
        features: npt.ArrayLike,
        label: npt.ArrayLike,
        episode_id: int,
        env_id: int,
        track_id: int,
        is_test: bool | None = None,
    ) -> None:
        """Add one whole episode; see `FeatureFileWriter.add_heldout_episode`."""
        count = np.shape(label)[0]
        if count == 0:
            raise DatasetError(f"{self.path}: held-out episode {episode_id} has no steps")
        if track_id in self._training_tracks:
            raise DatasetError(f"{self.path}: track {track_id} gave training rows and cannot be held out too")
        if episode_id in self._heldout_episodes:
            raise DatasetError(f"{self.path}: held-out episode {episode_id} was added before")
        side = UNDECIDED if is_test is None else int(is_test)
        if track_id != UNKNOWN_TRACK and self._heldout_tracks.setdefault(track_id, side) != side:
            raise DatasetError(f"{self.path}: held-out track {track_id} cannot be both validation and test")
        ids = (np.full(count, number) for number in (episode_id, env_id, track_id))
        rows = self._checks.rows(features, label, *ids, np.arange(count))
        with self._mutex:
            self._heldout_episodes.add(episode_id)
            self._add(HELDOUT, {**rows, "is_test": np.full(count, side, np.int8)})

    def keep_observations(
        self, observation: npt.ArrayLike, reason: npt.ArrayLike, keys: Array, **columns: Array
    ) -> None:
        """Keep whole observations; see `FeatureFileWriter.keep_observations`."""
        names = ("features", "label", "episode_id", "env_id", "track_id", "step")
        rows = self._checks.rows(*(columns[name] for name in names))
        count = len(rows["step"])
        shape = (count, np.shape(observation)[-1])
        rows["observation"] = self._checks.array(observation, np.float32, "observation", shape)
        rows[REASON.name] = self._checks.array(reason, REASON.dtype, REASON.name, (count,))
        rows["keys"] = np.asarray(keys, np.float64).reshape(count, KEYS)
        with self._mutex:
            self.num_observations += count
            self._add(OBSERVATIONS, rows)

    def drop_episodes(self, episodes: Iterable[int]) -> None:
        """Let the rows of these episodes not count, those that are stored already included."""
        with self._mutex:
            new = sorted(set(episodes) - set(self._dropped))
            self._dropped += new
            for rows in (*self._stored_ids, *self._waiting[TRAINING]):
                label = rows["supervision"][np.isin(rows["episode_id"], new), 0]
                self.sampler.dropped[1] += int(label.sum())
                self.sampler.dropped[0] += label.size - int(label.sum())

    @property
    def num_dropped(self) -> int:
        """Episodes that do not count."""
        return len(self._dropped)

    def _add(self, name: str, rows: Columns) -> None:
        count = len(rows["step"])
        if count:
            self._waiting[name].append(rows)
            self._waiting_rows += count
        due = self._clock() - self._closed_at >= self._every.seconds
        if self._waiting_rows >= self._every.row_limit or (due and self._waiting_rows):
            self._require_space()
            self.checkpoint()
        self.look()

    def _require_space(self) -> None:
        free = shutil.disk_usage(self._folder.path).free
        # The feature file is written beside its shards before they go.
        if free < RESERVE_BYTES + self._stored_bytes:
            raise DatasetError(
                f"{self.path}: only {free / 2**20:.0f} MB are free on its disk, and the rows so far take "
                f"{self._stored_bytes / 2**20:.0f} MB once more; make room for more rows"
            )

    def checkpoint(self) -> None:
        """Store what waits in memory as a shard.

        Raises:
            DatasetError: it cannot be written; the rows still wait.
        """
        with self._mutex:
            started = self._clock()
            groups = {
                name: {column: np.concatenate([rows[column] for rows in waiting]) for column in waiting[0]}
                for name, waiting in self._waiting.items()
                if waiting
            }
            state = replace(
                self._state,
                seen=(self.sampler.seen[0], self.sampler.seen[1]),
                limits=(self.sampler.classes[0].limit, self.sampler.classes[1].limit),
                heldout_complete=self.heldout_complete,
                dropped_episodes=tuple(self._dropped),
                env_steps=self.env_steps,
            )
            if not groups and self._index and state == self._last_state:
                return
            name = ShardName(self._plan.segment, self._rank.index, self._index)
            target = self._folder.path / name.file_name
            write_shard(target, groups, state, self._feature_size)
            self._last_state = state
            self._index += 1
            self.stored_rows += sum(len(rows["step"]) for group, rows in groups.items() if group != OBSERVATIONS)
            self._stored_bytes += target.stat().st_size
            if TRAINING in groups:
                self._stored_ids.append({name: groups[TRAINING][name] for name in ("episode_id", "supervision")})
            self._waiting = {group: [] for group in self._waiting}
            self._waiting_rows = 0
            self._closed_at = self._clock()
            self.waited_s += self._closed_at - started

    _last_state = ShardState()

    def close(self, state: str = "done", error: str = "") -> None:
        """Store what waits, say how it ended, and let go.

        Args:
            state: "done" or "failed".
            error: what went wrong.

        Raises:
            DatasetError: the last shard cannot be written.
        """
        with self._mutex:
            try:
                self.checkpoint()
            except DatasetError as failure:
                state, error = "failed", error or str(failure)
                raise
            finally:
                self.look(state, error, now=True)
                self._lock.release()
