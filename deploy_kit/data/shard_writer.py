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
from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.earlier_flights import EarlierFlights, GoingOn, earlier_flights
from deploy_kit.data.other_processes import OtherProcesses
from deploy_kit.data.row_checks import RowChecks
from deploy_kit.data.sampling import KeyedSampler
from deploy_kit.data.schema import HELDOUT, OBSERVATIONS, REASON, UNKNOWN_TRACK, Array, Columns
from deploy_kit.data.shard import KEYS, TRAINING, UNDECIDED, ShardName, ShardState, write_shard
from deploy_kit.data.shard_folder import RankStatus, ShardFolder
from deploy_kit.data.snapshot import NUM_ENVS, ORIGIN, Snapshot, remove_older_snapshots, write_snapshot
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
        num_envs: environments of this process; None if it does not go on from a snapshot.

    Attributes:
        origin: flight whose seeds and numbers this one has: its own, or an earlier one that it goes on with.
        flight_number: number of that flight of this process among all of all processes.
        seen_before: training rows that all processes have seen in earlier flights.
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
        num_envs: int | None = None,
    ) -> None:
        self._folder, self._plan, self._rank, self._every, self._clock = folder, plan, rank, every, clock
        self.path = folder.target
        self._feature_size = int(plan.info["feature_size"])
        self._checks = RowChecks(self.path, self._feature_size)
        earlier = earlier_flights(folder, plan, rank, num_envs)
        self.origin, self.seen_before = earlier.origin, sum(earlier.seen)
        self._num_envs, self._going_on = num_envs, earlier.going_on
        self.flight_number = sum(segment.ranks for segment in plan.segments[: self.origin]) + rank.index
        seed = [plan.sampling_seed, self.origin, rank.index]
        self.sampler = KeyedSampler(plan.num_positive, plan.num_negative, seed)
        self._state = self._last_state = ShardState()
        self.env_steps, self.heldout_complete, self.waited_s = 0, False, 0.0
        self._dropped: list[int] = []
        self._stored_ids: list[Columns] = []
        self._waiting: dict[str, list[Columns]] = {TRAINING: [], HELDOUT: [], OBSERVATIONS: []}
        self._waiting_rows = 0
        self.num_observations = 0
        self._training_tracks: set[int] = set()
        self._heldout_episodes: set[int] = set()
        self._index = 0
        self._mutex = threading.RLock()
        self._lock = folder.lock_rank(rank.index)
        self._others = OtherProcesses(folder, plan, rank)
        self._closed_at = self._looked_at = clock()
        self._closes_shards, self._covered = True, 0
        self._take_over(earlier)

    # -- what was there before ------------------------------------------------------------------------------------

    def _take_over(self, earlier: EarlierFlights) -> None:
        """Go on from earlier flights: their limits hold, and the first process counts their rows as its own."""
        self._stored_bytes, self.stored_rows = earlier.stored_bytes, earlier.stored_rows
        self._heldout_tracks = dict.fromkeys(earlier.heldout_tracks, UNDECIDED)
        self.sampler.go_on(earlier.limits)
        if self._rank.leads:
            for kept, found in zip(self.sampler.classes, earlier.keys, strict=True):
                kept.add(found)
            self.sampler.base_seen = earlier.seen
            self.sampler.dropped = list(earlier.dropped)
        if earlier.going_on is not None:
            self._dropped, self._stored_ids = list(earlier.going_on.state.dropped_episodes), earlier.ids
            self.sampler.restore(earlier.going_on.arrays, alone=self._rank.count == 1)

    def begin_training(self, with_snapshots: bool) -> GoingOn | None:
        """Take note that training rows follow; return what they go on from, None for new episodes.

        Args:
            with_snapshots: shards are closed by whoever flies, with a snapshot each, when one is `due`.
        """
        self._closes_shards = not with_snapshots
        going_on, self._going_on = self._going_on, None
        if going_on is not None:
            self._state = replace(self._state, continues=(going_on.shard.segment, going_on.shard.index))
            self._covered = going_on.covered
        return going_on

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
                self.sampler.others = tuple(self._others.tallies())

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
        if self._closes_shards and self.due:
            self._require_space()
            self.checkpoint()
        self.look()

    @property
    def due(self) -> bool:
        """Whether a shard is to be closed: enough rows wait, or some rows long enough."""
        late = self._clock() - self._closed_at >= self._every.seconds
        # Asked by whoever flies, while another thread adds rows.
        with self._mutex:
            return self._waiting_rows >= (1 if late else self._every.row_limit) and not self._flown_again

    @property
    def _flown_again(self) -> bool:
        """Whether all that waits stands in shards of an earlier flight, which count until there is more."""
        return sum(self.sampler.seen) < self._covered and not self.full

    def _require_space(self) -> None:
        free = shutil.disk_usage(self._folder.path).free
        # The feature file is written beside its shards before they go.
        if free < RESERVE_BYTES + self._stored_bytes:
            raise DatasetError(
                f"{self.path}: only {free / 2**20:.0f} MB are free on its disk, and the rows so far take "
                f"{self._stored_bytes / 2**20:.0f} MB once more; make room for more rows"
            )

    def checkpoint(self, snapshot: Snapshot | None = None) -> None:
        """Store what waits in memory as a shard.

        Args:
            snapshot: where the flight stands at its last row; the sampler's own state is added.

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
                env_steps=self.env_steps if snapshot is None else snapshot.env_steps,
            )
            unchanged = snapshot is None and not groups and self._index > 0 and state == self._last_state
            if self._flown_again or unchanged:
                return
            self._write(groups, state, snapshot)
            self._last_state = state
            self._index += 1
            self.stored_rows += sum(len(rows["step"]) for group, rows in groups.items() if group != OBSERVATIONS)
            if TRAINING in groups:
                self._stored_ids.append({name: groups[TRAINING][name] for name in ("episode_id", "supervision")})
            self._waiting = {group: [] for group in self._waiting}
            self._waiting_rows = 0
            self._closed_at = self._clock()
            self.waited_s += self._closed_at - started

    def _write(self, groups: dict[str, Columns], state: ShardState, snapshot: Snapshot | None) -> None:
        """Bring a shard to the disk, and before it its snapshot."""
        folder, name = self._folder.path, ShardName(self._plan.segment, self._rank.index, self._index)
        if snapshot is not None:
            self._require_space()
            own = {ORIGIN: np.array([self.origin]), NUM_ENVS: np.array([self._num_envs or 0])}
            arrays = {**snapshot.arrays, **self.sampler.state(), **own}
            state = replace(state, snapshot=write_snapshot(folder, name, arrays))
        write_shard(folder / name.file_name, groups, state, self._feature_size)
        self._stored_bytes += (folder / name.file_name).stat().st_size
        if snapshot is not None:
            remove_older_snapshots(folder, name)

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
