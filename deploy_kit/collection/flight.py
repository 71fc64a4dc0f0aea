"""The flights of one process: held-out episodes, then training rows.

Held-out episodes come first, whole and on tracks of their own, so that a run that is stopped early can still be
judged.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.collection.estimate import Forecast
from deploy_kit.collection.feed import TrainingFeed
from deploy_kit.collection.flight_state import FlightState
from deploy_kit.collection.interrupts import raise_if_asked
from deploy_kit.collection.options import CollectOptions
from deploy_kit.collection.rows import EpisodeSample, ObservationSample, RowMaker
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.data.snapshot import Snapshot
from deploy_kit.errors import DatasetError, InputError, TaskError
from deploy_kit.flight.cpu_driver import fast_driver
from deploy_kit.flight.meter import Meter
from deploy_kit.flight.rollout import StepRecord, policy_period, require_checkpoint, rollout
from deploy_kit.policy.any_policy import AnyCheckpoint
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.progress import Progress
from deploy_kit.ranks import Rank, threads_each
from deploy_kit.sim.labels import find_label
from deploy_kit.sim.options import EnvOptions, usable_cores
from deploy_kit.sim.registry import make_env
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

logger = logging.getLogger(__name__)

FIRST_TRAINING_ID = 1 << 40
"""Training episodes are numbered from here, held-out ones from 0, so that a number is unique in the file."""

FLIGHT_IDS = 1 << 44
"""Episode numbers of one process's flight; the next one's begin after them."""

LONGEST_SETTLING = 2000
"""Steps of an episode from which on new episodes settle no longer than for an episode of that length."""

HELDOUT_PURPOSE, TRAINING_PURPOSE = 0, 1

_TOLD_BROKEN = 5


def episodes_per_track(env: EnvOptions) -> int:
    """Return after how many episodes an environment changes its track.

    After every one, since a head that has seen few tracks learns those tracks; levels choose the tracks themselves.
    """
    return 0 if env.levels else 1


def env_seed(seed: int, purpose: int, segment: int = 0, rank: int = 0) -> int:
    """Return the seed of a process's simulator; those of all processes, purposes and flights differ.

    The first process of the first flight takes the root of the tree of seeds, the others its children.

    Args:
        seed: the collection's.
        purpose: `HELDOUT_PURPOSE` or `TRAINING_PURPOSE`.
        segment: number of the flight.
        rank: number of the process.
    """
    root = np.random.SeedSequence([seed, purpose])
    if segment or rank:
        root = np.random.SeedSequence([seed, purpose], spawn_key=(segment, rank))
    return int(root.generate_state(1)[0])


def settling_steps(flown: int, longest: int) -> int:
    """Return after how many steps environments that begin anew stand about where an interrupted flight stood.

    As many as that flight had, and from two whole episodes on, between one and two of them: where no episode ends early
    they are then at the same step of one, and where many do it no longer matters where they began.

    Args:
        flown: steps of the interrupted flight.
        longest: steps of an episode that its time ends; more than `LONGEST_SETTLING` count as that many.
    """
    longest = min(longest, LONGEST_SETTLING)
    return flown if flown < 2 * longest else longest + flown % longest


@dataclass
class FlightResult:
    """How one process's flights ended.

    Attributes:
        stopped_by: "full", "max_steps" or "video".
    """

    stopped_by: str = "full"


class CollectionFlight:
    """Flies for one process of a collection and gives its shards what it sees.

    Args:
        options: what to fly and how much to store; held-out episodes are those of all processes.
        checkpoint: the policy.
        shards: where rows go, and which flight it is.
        rank: which process this is.
        forecast: told of every step.
        progress: told several times a second.
    """

    def __init__(
        self,
        options: CollectOptions,
        checkpoint: AnyCheckpoint,
        shards: ShardWriter,
        rank: Rank,
        forecast: Forecast,
        progress: Callable[[Progress], None],
    ) -> None:
        self._options, self._checkpoint, self._shards = options, checkpoint, shards
        self._rank, self._forecast, self._progress = rank, forecast, progress
        self._threads = options.env.num_threads or threads_each(rank, usable_cores())
        self._told_broken = 0

    def _make_env(self, purpose: int, num_envs: int, flight: int) -> "VecEnv":
        options = self._options
        seed = env_seed(options.env.seed, purpose, flight, self._rank.index)
        env_options = replace(
            options.env, num_envs=num_envs, seed=seed, episodes_per_track=episodes_per_track(options.env)
        )
        label = None if options.label is None else find_label(options.label)
        groups: tuple[str, ...] = ("policy",)
        if isinstance(self._checkpoint, PolicyCheckpoint):
            groups = tuple(group.name for group in self._checkpoint.network.spec.groups)
        env = make_env(env_options, options.task, options.backend, label, (*groups, "auxiliary"))
        try:
            require_checkpoint(env, self._checkpoint, options.task)
        except InputError:
            close(env)
            raise
        self._shards.record_steps(_period(env, options.task), getattr(env, "clip_actions", None))
        return env

    def _row_maker(self, num_envs: int, flight_number: int, first_id: int) -> RowMaker:
        first_env = self._rank.index * self._options.env.num_envs
        return RowMaker(num_envs, FLIGHT_IDS * flight_number + first_id, first_env)

    def _drop_broken(self, record: StepRecord, episode: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Say which environments gave numbers that are not finite; return them."""
        assert record.broken is not None
        envs: npt.NDArray[np.int64] = np.flatnonzero(record.broken.cpu().numpy())
        if episode is not None:
            self._shards.drop_episodes(episode[envs].tolist())
        if self._told_broken < _TOLD_BROKEN:
            self._told_broken += 1
            logger.warning(
                "the simulator's observation is not finite in environment %d at step %d: the episode is left out",
                envs[0] + self._rank.index * self._options.env.num_envs,
                record.step,
            )
        return envs

    def heldout(self) -> None:
        """Store whole episodes.

        Each environment gives a fixed number of its first episodes. Taking the first to finish, whichever they are,
        would prefer those that crash early. After an interruption among them, the same ones are flown from their start.
        """
        options, shards = self._options, self._shards
        share, rest = divmod(options.heldout_episodes, self._rank.count)
        wanted = share + (self._rank.index < rest)
        if wanted == 0:
            shards.heldout_complete = True
            return
        num_envs = min(options.env.num_envs, wanted)
        env = self._make_env(HELDOUT_PURPOSE, num_envs, 0)
        quota, rest = divmod(wanted, num_envs)
        left = quota + (np.arange(num_envs) < rest)
        steps: list[list[tuple[npt.NDArray[np.float32], np.int8]]] = [[] for _ in range(num_envs)]
        broken = np.zeros(num_envs, np.bool_)
        maker = self._row_maker(num_envs, self._rank.index, 0)
        seed = (options.env.seed, 0, self._rank.index)
        sample: ObservationSample | EpisodeSample = ObservationSample(options.keep_observations, seed)
        if isinstance(self._checkpoint, PolicyCheckpoint) and self._checkpoint.network.is_recurrent:
            sample = EpisodeSample(options.keep_observations)
        meter = Meter(num_envs)
        with ExitStack() as stack:
            stack.callback(close, env)
            driver = stack.enter_context(fast_driver(env, self._checkpoint.network, self._threads))
            for record in rollout(env, driver, go_on_broken=True):
                raise_if_asked()
                rows = maker.rows(record)
                self._forecast.add(rows.label)
                if record.broken is not None:
                    broken[self._drop_broken(record, rows.episode_id)] = True
                active = np.flatnonzero(left > 0)
                if (kept := sample.offer(rows, active[~broken[active]])) is not None:
                    shards.keep_observations(**kept)
                for i in active:
                    steps[i].append((rows.features[i], rows.label[i]))
                for i in active[record.done.cpu().numpy()[active]]:
                    if not broken[i]:
                        features, labels = zip(*steps[i], strict=True)
                        shards.add_heldout_episode(
                            np.stack(features), np.array(labels), rows.episode_id[i], rows.env_id[i], rows.track_id[i]
                        )
                        left[i] -= 1
                    steps[i], broken[i] = [], False
                shards.env_steps += num_envs
                if meter.due():
                    self._show("held-out episodes", shards.num_heldout_episodes, wanted, meter.note())
                if not left.any():
                    break
            shards.heldout_complete = True
            shards.checkpoint()
            self._show("held-out episodes", wanted, wanted, meter.note())

    def training(self, picture: Callable[["VecEnv", ExitStack], Callable[[StepRecord], bool]] | None = None) -> str:
        """Store training rows until there are enough or something else ends it.

        Args:
            picture: given the environment, returns what takes each step and says whether to stop.

        Returns:
            "full", "max_steps" or "video".
        """
        options, shards = self._options, self._shards
        env = self._make_env(TRAINING_PURPOSE, options.env.num_envs, shards.origin)
        maker = self._row_maker(env.num_envs, shards.flight_number, FIRST_TRAINING_ID)
        meter, longest = Meter(env.num_envs), int(torch.as_tensor(env.max_episode_length).max())
        stopped = "max_steps"
        with ExitStack() as stack:
            stack.callback(close, env)
            take = None if picture is None else picture(env, stack)
            shards.sampler.pilot_rows = env.num_envs * longest
            driver = stack.enter_context(fast_driver(env, self._checkpoint.network, self._threads))
            state = FlightState(env, driver, maker)
            flown, unstored = self._begin_training(state, maker, longest)

            def snapshot() -> Snapshot:
                return Snapshot(state.take(flown), shards.env_steps)

            feed = stack.enter_context(TrainingFeed(shards, maker, snapshot if state.offered else None))
            limit = None if options.max_steps is None else max(0, options.max_steps - flown) + unstored
            for record in rollout(env, driver, limit, go_on_broken=True):
                raise_if_asked()
                shards.env_steps += env.num_envs
                if record.step < unstored:
                    episode, _ = maker.number(record.done.cpu().numpy())
                    if record.broken is not None:
                        self._drop_broken(record, episode)
                    continue
                if record.broken is not None:
                    self._drop_broken(record)
                flown += 1
                feed.add(record)
                if self._forecast.wants_more:
                    self._forecast.add(record.label.cpu().numpy())
                if meter.due():
                    self._show_training(feed, meter)
                if feed.full:
                    stopped = "full"
                    break
                if take is not None and take(record):
                    stopped = "video"
                    break
        if shards.full and stopped == "max_steps":
            stopped = "full"
        self._show_training(shards, meter)
        return stopped

    def _begin_training(self, state: FlightState, maker: RowMaker, longest: int) -> tuple[int, int]:
        """Go on from an earlier flight where that can be done.

        New episodes after an interruption would over-represent beginnings, so that their first steps are not stored.

        Args:
            state: of this flight.
            maker: numbers its episodes.
            longest: steps of an episode that its time ends.

        Returns:
            Steps of the flight so far, and how many are to be flown before rows are stored.

        Raises:
            DatasetError: the simulator does not take the state of the earlier flight.
        """
        shards = self._shards
        going_on = shards.begin_training(state.offered)
        if going_on is not None:
            try:
                flown = state.restore(going_on.arrays)
            except TaskError as error:
                raise DatasetError(f"{going_on.path}: {error}; remove the file to go on with new episodes") from error
            logger.info("the interrupted flight itself goes on, from its step %s of each environment", f"{flown:,}")
            return flown, 0
        unstored = settling_steps(shards.seen_before // (self._rank.count * self._options.env.num_envs), longest)
        if state.offered and not unstored:
            shards.checkpoint(Snapshot(state.take(0) | maker.state(), shards.env_steps))
        return 0, unstored

    def _show_training(self, counts: TrainingFeed | ShardWriter, meter: Meter) -> None:
        total = self._options.num_positive + self._options.num_negative
        positive, negative = counts.num_positive, counts.num_negative
        note = f"{positive:,} positive, {negative:,} negative, {meter.note()}"
        self._show("training rows", positive + negative, total, note)

    def _show(self, phase: str, done: int, total: int, note: str) -> None:
        if self._rank.count > 1:
            note += f" in process 0 of {self._rank.count}"
        self._progress(Progress(phase, done, total, note))


def _period(env: "VecEnv", task: str) -> float | None:
    """Return the duration of a step, None where the environment does not say."""
    known = task == TASK_ID or any(hasattr(item, "step_dt") for item in (env, getattr(env, "unwrapped", None)))
    return policy_period(env) if known else None


def close(env: "VecEnv") -> None:
    """Close an environment that can be closed."""
    # rsl_rl's VecEnv has no close of its own.
    if hasattr(env, "close"):
        env.close()
