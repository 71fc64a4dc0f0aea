"""Verifying with several processes: started here, or by ``torchrun``.

The first process runs every check and writes the report; the others fly shares of the live episodes and nothing else.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from deploy_kit.bundle.reader import CPP_NAME
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.errors import DeployKitError, InputError, OptionError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.progress import silent
from deploy_kit.ranks import Rank, launched_rank, take_gpu, threads_each
from deploy_kit.text import one_line
from deploy_kit.verify.artifacts import open_flown_graph
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, find_vehicle, pair_bundle
from deploy_kit.verify.cpp_artifact import open_cpp
from deploy_kit.verify.crew import Leader, Processes, follow, own_shares
from deploy_kit.verify.links import PipeLeader, StartedProcesses, StoreLeader, StoreProcesses
from deploy_kit.verify.messages import pack
from deploy_kit.verify.opening import open_for_verification
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.report import FactCheck
from deploy_kit.verify.share import Environments, LiveOptions, ShareFlights


def with_device(options: VerifyOptions, rank: Rank) -> VerifyOptions:
    """Return the options with one process's own GPU and its share of the CPU's threads.

    Raises:
        OptionError: there are fewer GPUs than processes.
    """
    if rank.count == 1:
        return options
    import torch

    from deploy_kit.sim.options import EnvOptions, usable_cores

    threads = threads_each(rank, usable_cores())
    torch.set_num_threads(threads)
    env = options.env or EnvOptions(seed=options.replayed.seed)
    if env.device.startswith("cuda"):
        take_gpu(rank)
        env = dataclasses.replace(env, device="cuda:0")
    if env.num_threads is None and options.backend == "mujoco":
        env = dataclasses.replace(env, num_threads=threads)
    return dataclasses.replace(options, env=env)


def live_options(options: VerifyOptions, processes: int) -> LiveOptions:
    """Return what is to be flown.

    Args:
        options: as the user gave them, before a seed is drawn for what they leave open.
        processes: how many fly.

    Raises:
        OptionError: there are fewer episodes than shares, or fewer shares than processes.
    """
    shares = processes if options.shares is None else options.shares
    if shares < processes:
        raise OptionError(f"--shares {shares}: there are {processes} processes, and each flies one share or more")
    if options.episodes < shares:
        raise OptionError(f"--episodes {options.episodes}: there are {shares} shares, and each flies one or more")
    return LiveOptions(
        modes=options.live_modes,
        episodes=options.episodes,
        env=options.env,
        seed=options.replayed.seed,
        task=options.task,
        backend=options.backend,
        thorough=options.thorough,
        max_episodes=options.max_episodes,
        thresholds=options.thresholds,
        runtime=options.runtimes[0],
        shares=shares,
    )


@contextlib.contextmanager
def other_processes(options: VerifyOptions) -> Iterator[tuple[Rank, Processes | None]]:
    """Start the other processes of a verification, or find those that a launcher started.

    Yields:
        Which one this process is, and the others, None for none.

    Raises:
        OptionError: a launcher's processes and ``--num-processes`` are given both, or this is not the first one.
    """
    rank = launched_rank()
    if not rank.leads:
        raise OptionError(f"process {rank.index} of {rank.count} flies for the first one: call fly_for_the_first")
    if rank.count > 1 and options.live:
        if options.num_processes > 1:
            raise OptionError("a launcher such as torchrun started several processes: leave out --num-processes")
        store = StoreProcesses(rank)
        try:
            yield rank, store
        finally:
            store.end()
    elif options.num_processes > 1 and options.live:
        work = functools.partial(_work, options)
        with StartedProcesses(work, options.num_processes, not options.log_all_ranks) as started:
            yield Rank(0, options.num_processes, 0, options.num_processes), started
    else:
        yield Rank(), None


def fly_for_the_first(options: VerifyOptions, rank: Rank) -> None:
    """Be one of a launcher's processes besides the first: fly its shares.

    Raises:
        DeployKitError: what the user gave cannot be used; the first process is told too.
    """
    if options.live:
        _follow(options, rank, StoreLeader(rank))


def _follow(options: VerifyOptions, rank: Rank, leader: Leader) -> None:
    try:
        options = with_device(options, rank)
        live = live_options(options, rank.count)
        own = own_shares(rank.index, rank.count, live.shares)
        checkpoint = load_checkpoint(options.checkpoint, options.hints)
        environments = Environments(live, own[0])
        with contextlib.closing(environments):
            environments.prepare(checkpoint)
            bundle = open_for_verification(options.bundle)
            if isinstance(bundle, FactCheck):
                # The first process finds the same and orders no flight.
                leader.receive()
                return
            vehicle = NamedVehicle(None, wanted=False)
            if options.vehicle:
                vehicle = find_vehicle(checkpoint, options.task, options.vehicle_file, bundle.contract)
            subject = pair_bundle(bundle, checkpoint, vehicle)
            try:
                graph = open_flown_graph(subject, live.runtime)
            except ArtifactError:
                leader.receive()
                return
            header = open_cpp(subject, "cpp", [], options.cpp) if CPP_NAME in bundle.files else None
            flights = [ShareFlights(index, live, environments, subject, graph, silent, header) for index in own]
            follow(leader, flights, subject, environments.times)
    # Whatever ends this process is told to the leader, which fails with it.
    except Exception as error:
        given = isinstance(error, InputError)
        text = one_line(error) if given else f"{type(error).__name__}: {one_line(error)}"
        leader.send(pack({"error": text, "input": given}))
        # A launcher ends all processes when one does: the first one must have read this before.
        while leader.receive() is not None:
            pass
        raise


def _work(options: VerifyOptions, rank: Rank, pipe: Connection, log: Path | None) -> None:
    """Be one of the processes."""
    # The first process is told of Ctrl-C, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, sys.stdout.fileno())
        os.dup2(file, sys.stderr.fileno())
    try:
        _follow(options, rank, PipeLeader(pipe))
    except DeployKitError as error:
        # The first process was told.
        sys.exit(error.exit_code)
