"""Collecting with several processes, each with a simulator of its own: started here, or by ``torchrun``.

No process waits for another while it flies: each looks at the others' status files to see when there are enough rows,
so one that dies hangs nobody. The leader begins the flight, waits for the others at its end, and makes the file.
"""

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from deploy_kit.collection.estimate import CollectEstimate, Forecast, silent_estimate
from deploy_kit.collection.flight import CollectionFlight
from deploy_kit.collection.interrupts import interruptible, leave_interrupts_to_the_parent, raise_if_asked
from deploy_kit.collection.options import CollectOptions
from deploy_kit.collection.run import CollectResult, with_share
from deploy_kit.data.beginning import begin_collection
from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.fusing import fuse
from deploy_kit.data.lock import is_locked
from deploy_kit.data.sampling import class_sizes
from deploy_kit.data.schema import FeatureFileInfo
from deploy_kit.data.shard_folder import RankStatus, ShardFolder
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.data.survey import heldout_flown, holds_no_row
from deploy_kit.errors import DatasetError, DeployKitError
from deploy_kit.policy.any_policy import AnyCheckpoint
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.progress import Progress, silent
from deploy_kit.ranks import Rank, take_gpu, threads_each
from deploy_kit.sim.options import usable_cores

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""Time between two looks at the other processes, s."""

START_S = 600.0
"""Longest time that a process waits for the first one to begin, s."""

GONE_S = 5.0
"""Time without a sign of life after which a process counts as dead, s."""

SILENT_S = 120.0
"""The same for one that has not yet given any, s."""


def begin(options: CollectOptions, info: FeatureFileInfo, folder: ShardFolder, rank: Rank) -> CollectionPlan:
    """Begin a flight of several processes; see `begin_collection` for errors."""
    plan = CollectionPlan(
        info.to_plain(),
        options.num_positive,
        options.num_negative,
        options.env.seed,
        options.keep_observations,
        options.overwrite,
    )
    return begin_collection(folder, plan, options.resume, rank)


def fly_share(
    options: CollectOptions,
    checkpoint: AnyCheckpoint,
    folder: ShardFolder,
    plan: CollectionPlan,
    rank: Rank,
    progress: Callable[[Progress], None] = silent,
    tell_estimate: Callable[[CollectEstimate], None] = silent_estimate,
) -> str:
    """Fly one process's share of a collection; return what ended it, "interrupt" included.

    Raises:
        DeployKitError: as `collect`; it stands in the process's status too.
    """
    _cap_threads(rank)
    options = with_share(options, threads_each(rank, usable_cores()))
    if options.env.device.startswith("cuda"):
        take_gpu(rank)
        options = replace(options, env=replace(options.env, device="cuda:0"))
    shards = ShardWriter(folder, plan, rank, options.checkpoint_every, num_envs=options.env.num_envs)
    flight = CollectionFlight(options, checkpoint, shards, rank, Forecast(options, tell_estimate), progress)
    stopped, failure = "full", ""
    try:
        shards.look(now=True)
        if heldout_flown(folder, plan, options.heldout_episodes):
            shards.heldout_complete = True
        else:
            flight.heldout()
        if not shards.full:
            stopped = flight.training()
    except KeyboardInterrupt:
        stopped = "interrupt"
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        shards.close("failed" if failure else "done", failure)
    return stopped


def _cap_threads(rank: Rank) -> None:
    import torch

    torch.set_num_threads(threads_each(rank, usable_cores()))


# -- the leader ---------------------------------------------------------------------------------------------------


class _Watch:
    """Looks at all processes of a flight until each has ended.

    Attributes:
        hurry: whether the flight was ended, so that a process that has not begun is not waited for.
    """

    hurry = False

    def __init__(self, folder: ShardFolder, plan: CollectionPlan, options: CollectOptions, count: int) -> None:
        self._folder, self._plan, self._options, self._count = folder, plan, options, count
        self._seen = [time.monotonic()] * count
        self._began = time.monotonic()
        self._steps: int | None = None

    def statuses(self) -> list[RankStatus]:
        """Return what the processes say."""
        found = list(self._folder.statuses(self._count, self._plan.segment))
        now = time.monotonic()
        for status in found:
            if status.alive:
                self._seen[status.rank] = now
        return found

    def over(self, status: RankStatus) -> bool:
        """Return whether a process has ended, well or not."""
        if status.alive:
            return False
        patience = SILENT_S if status.state == "starting" and not self.hurry else GONE_S
        return status.state in ("done", "failed") or time.monotonic() - self._seen[status.rank] > patience

    def tell(self, statuses: list[RankStatus], progress: Callable[[Progress], None]) -> None:
        """Show where all stand, as one line."""
        options = self._options
        steps = sum(status.env_steps for status in statuses)
        if not steps or not any(status.alive for status in statuses):
            return
        if self._steps is None:
            self._steps, self._began = steps, time.monotonic()
        speed = (steps - self._steps) / max(time.monotonic() - self._began, 1e-9)
        alive = sum(status.alive for status in statuses)
        note = f"{speed:,.0f} env steps/s in {alive} of {self._count} processes"
        eligible = [sum(status.tally.eligible[label] for status in statuses) for label in (0, 1)]
        negative, positive = class_sizes(eligible, (options.num_negative, options.num_positive))
        if not any(any(status.tally.seen) for status in statuses):
            done = sum(status.heldout_episodes for status in statuses)
            progress(Progress("held-out episodes", done, options.heldout_episodes, note))
            return
        note = f"{positive:,} positive, {negative:,} negative, {note}"
        progress(Progress("training rows", positive + negative, options.num_positive + options.num_negative, note))


def _failures(statuses: list[RankStatus]) -> dict[int, str]:
    return {
        status.rank: status.error or "it died without a word"
        for status in statuses
        if not status.alive and status.state != "done"
    }


def _conclude(
    folder: ShardFolder,
    plan: CollectionPlan,
    options: CollectOptions,
    statuses: list[RankStatus],
    result: CollectResult,
    progress: Callable[[Progress], None],
) -> None:
    """Make the file of all shards."""
    result.failures = _failures(statuses)
    if holds_no_row(folder, plan):
        problem = next(iter(result.failures.values()), "no process stored a row")
        folder.remove()
        if result.stopped_by == "interrupt":
            logger.warning("%s: interrupted before any row was stored, so nothing was written", folder.target)
            raise KeyboardInterrupt
        raise DatasetError(f"{folder.target}: {problem}")
    complete = None if result.stopped_by in ("full", "failure") else False
    spare_older = result.stopped_by == "interrupt" or bool(result.failures)
    fused = fuse(folder, plan, complete, progress, options.keep_shards, spare_older)
    result.take(fused)
    result.complete = complete is None and fused.whole
    if result.stopped_by == "full" and not result.complete:
        result.stopped_by = "failure" if result.failures else "max_steps"
    if result.complete or result.stopped_by == "max_steps":
        folder.remove()
    else:
        folder.unlock()


# -- started here -------------------------------------------------------------------------------------------------


def collect_in_processes(
    options: CollectOptions,
    info: FeatureFileInfo,
    result: CollectResult,
    progress: Callable[[Progress], None],
    tell_estimate: Callable[[CollectEstimate], None],
) -> None:
    """Collect with processes that are started here; see `collect`."""
    count = options.num_processes
    folder = ShardFolder(result.path)
    plan = begin(options, info, folder, Rank(0, count, 0, count))
    watch = _Watch(folder, plan, options, count)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(options, result.path, plan, Rank(i, count, i, count)), daemon=False)
        for i in range(count)
    ]
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            raise_if_asked()
            watch.tell(watch.statuses(), progress)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        result.stopped_by = "interrupt"
    finally:
        _end(processes)
    statuses = [replace(status, alive=False) for status in watch.statuses()]
    _conclude(folder, plan, options, statuses, result, progress)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask processes that still run to store what they have and end."""
    for process in processes:
        if process.pid is not None and process.is_alive():
            process.terminate()
    for process in processes:
        if process.pid is not None:
            process.join()


def _work(options: CollectOptions, path: Path, plan: CollectionPlan, rank: Rank) -> None:
    """Be one of the processes."""
    leave_interrupts_to_the_parent()
    folder = ShardFolder(path)
    if not options.log_all_ranks:
        log = os.open(folder.path / f"rank-{rank.index:05d}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
    try:
        with interruptible():
            checkpoint = load_policy(options.checkpoint, options.hints)
            fly_share(options, checkpoint, folder, plan, rank)
    except DeployKitError as error:
        # It stands in the status already; whoever watches names it.
        sys.exit(error.exit_code)


# -- started by torchrun ------------------------------------------------------------------------------------------


def collect_as_rank(
    options: CollectOptions,
    checkpoint: AnyCheckpoint,
    info: FeatureFileInfo,
    rank: Rank,
    result: CollectResult,
    progress: Callable[[Progress], None],
    tell_estimate: Callable[[CollectEstimate], None],
) -> None:
    """Collect as one of the processes that ``torchrun`` or another launcher started; see `collect`."""
    folder = ShardFolder(result.path)
    result.worker = not rank.leads
    plan = begin(options, info, folder, rank) if rank.leads else _join(folder, rank)
    try:
        result.stopped_by = fly_share(options, checkpoint, folder, plan, rank, progress, tell_estimate)
    except BaseException:
        folder.unlock()
        raise
    if not rank.leads:
        return
    watch = _Watch(folder, plan, options, rank.count)
    watch.hurry = result.stopped_by == "interrupt"
    statuses = watch.statuses()
    while not all(map(watch.over, statuses)):
        watch.tell(statuses, progress)
        time.sleep(POLL_S)
        statuses = watch.statuses()
    _conclude(folder, plan, options, statuses, result, progress)


def _join(folder: ShardFolder, rank: Rank) -> CollectionPlan:
    """Wait until the first process has begun this job's flight, and return its plan."""
    started = time.monotonic()
    while time.monotonic() - started < START_S:
        try:
            plan = folder.read_plan()
        except DatasetError:
            plan = None
        current = plan.segments[-1] if plan and plan.segments else None
        joined = current is not None and (current.job, current.ranks) == (rank.job, rank.count)
        if plan and joined and is_locked(folder.path / "lock"):
            return plan
        time.sleep(POLL_S)
    raise DatasetError(f"{folder.target}: the first process has begun nothing in {START_S:.0f} s; see its output")
