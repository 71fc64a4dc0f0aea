"""Flies all shares of a verification: those of this process, and through it those of others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from deploy_kit.bundle.codec import DecodeError, decode
from deploy_kit.bundle.runners import Runner
from deploy_kit.errors import InputError, TaskError
from deploy_kit.progress import Progress
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.messages import pack, pack_figures, pack_part, unpack, unpack_figures, unpack_part
from deploy_kit.verify.opening import manifest_sha256
from deploy_kit.verify.share import Environments, FlownPart, LiveOptions, Order, ShareFigures, ShareFlights, Times
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

PATIENCE_S = 900.0
"""Least time that this process waits for another one after its own share is flown, s; it may need time to start."""

PATIENCE = 10.0
"""The same as a multiple of what the own share took."""


class LostProcessError(Exception):
    """A process did not fly its share; the message names it."""


class Processes(Protocol):
    """The other processes of a verification, numbered from 1."""

    @property
    def count(self) -> int:
        """Number of all processes, this one included."""

    def send(self, index: int, message: bytes) -> None:
        """Tell one of them something; what is dead is found by `receive`."""

    def receive(self, index: int, patience_s: float) -> bytes:
        """Return the next message of one of them.

        Raises:
            LostProcessError: it is gone, or silent for too long.
        """


class Crew:
    """All shares of the flights.

    Args:
        options: what to fly.
        environments: makes this process's.
        others: the other processes, None for none.
        subject: bundle, checkpoint, vehicle.
        onnx: the graph.
        progress: told the steps flown in this process.
        header: the C++ header, built; None for none.

    Attributes:
        processes: how many fly.
    """

    def __init__(
        self,
        options: LiveOptions,
        environments: Environments,
        others: Processes | None,
        subject: BundleAndCheckpoint,
        onnx: Runner,
        progress: Callable[[Progress], None],
        header: SandboxedLibrary | None = None,
    ) -> None:
        self._others, self._progress, self._shares = others, progress, options.shares
        self._times = environments.times
        self.processes = 1 if others is None else others.count
        self._own = {
            index: ShareFlights(index, options, environments, subject, onnx, progress, header)
            for index in own_shares(0, self.processes, options.shares)
        }
        self._expected = {
            "manifest": manifest_sha256(subject.bundle.path),
            "checkpoint": subject.checkpoint.sha256,
        }
        self._greeted = False

    def fly(self, order: Order) -> list[FlownPart]:
        """Let every share fly, and return what they flew, in the order of the shares.

        Raises:
            LostProcessError: a process is gone, or failed otherwise than by what the user gave.
            InputError: a process cannot use what the user gave.
        """
        self._send({"do": "fly", **asdict(order)})
        began = time.monotonic()
        flown = {index: share.fly(order) for index, share in self._own.items()}
        patience = max(PATIENCE_S, PATIENCE * (time.monotonic() - began))
        for index, share in self._gather(patience):
            flown[share] = unpack_part(*self._next(index, patience))
        return [flown[index] for index in sorted(flown)]

    def figures(self) -> list[ShareFigures]:
        """Return what every share compared, in their order; for errors see `fly`."""
        self._send({"do": "figures"})
        figures = {index: share.figures() for index, share in self._own.items()}
        for index, share in self._gather(PATIENCE_S):
            header, _ = self._next(index, PATIENCE_S)
            try:
                figures[share] = unpack_figures(header)
            except DecodeError as error:
                raise LostProcessError(f"process {index} sent what is no figure ({error})") from error
        return [figures[index] for index in sorted(figures)]

    def times(self) -> list[Times]:
        """Return what the flights took in every process; for errors see `fly`."""
        self._send({"do": "times"})
        self._times.cpu_s = time.process_time()
        others = range(1, self.processes)
        return [self._times, *(Times(**self._next(index, PATIENCE_S)[0]) for index in others)]

    def _send(self, header: dict[str, Any]) -> None:
        if self._others is not None:
            for index in range(1, self._others.count):
                self._others.send(index, pack(header))

    def _gather(self, patience: float) -> Sequence[tuple[int, int]]:
        """Return process and share of every answer that is to come, after each process said what it reads."""
        if self._others is None:
            return ()
        others = range(1, self._others.count)
        if not self._greeted:
            for index in others:
                found, _ = self._next(index, patience)
                if found != self._expected:
                    raise InputError(f"process {index} reads another bundle or checkpoint than the first one")
            self._greeted = True
        self._progress(Progress("waiting for the other processes", 0))
        return [(index, share) for index in others for share in own_shares(index, self.processes, self._shares)]

    def _next(self, index: int, patience: float) -> tuple[dict[str, Any], Any]:
        assert self._others is not None
        began = time.monotonic()
        header, arrays = unpack(self._others.receive(index, patience))
        self._times.waited_s += time.monotonic() - began
        if "error" in header:
            if header.get("input"):
                raise TaskError(f"process {index}: {header['error']}")
            raise LostProcessError(f"process {index} failed: {header['error']}")
        return header, arrays


def own_shares(index: int, processes: int, shares: int) -> range:
    """Return which shares a process flies."""
    return range(index, shares, processes)


class Leader(Protocol):
    """The process that gives orders, as another one sees it."""

    def send(self, message: bytes) -> None:
        """Answer."""

    def receive(self) -> bytes | None:
        """Return the next order, None when there is nothing more to do."""


def follow(
    leader: Leader,
    shares: Sequence[ShareFlights],
    subject: BundleAndCheckpoint,
    times: Times,
) -> None:
    """Fly what the first process orders, until it says no more.

    Args:
        leader: the first process.
        shares: this process's.
        subject: bundle, checkpoint, vehicle.
        times: of this process.
    """
    leader.send(pack({"manifest": manifest_sha256(subject.bundle.path), "checkpoint": subject.checkpoint.sha256}))
    while True:
        began = time.monotonic()
        message = leader.receive()
        times.waited_s += time.monotonic() - began
        if message is None:
            return
        order, _ = unpack(message)
        what = order.pop("do")
        if what == "times":
            times.cpu_s = time.process_time()
            leader.send(pack(asdict(times)))
            continue
        for share in shares:
            if what == "fly":
                leader.send(pack(*pack_part(share.fly(decode(Order, order, "order")))))
            else:
                leader.send(pack(pack_figures(share.figures())))
