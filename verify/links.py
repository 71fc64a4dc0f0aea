"""How the processes of one verification reach each other.

Those that are started here talk through pipes that nobody else can open, those of a launcher such as ``torchrun``
through its store.
"""

import contextlib
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from deploy_kit.ranks import Rank
from deploy_kit.verify.crew import LostProcessError

POLL_S = 0.05
"""Time between two looks at a launcher's store, s."""

END_S = 20.0
"""Time that another process has to end by itself, s."""


class StartedProcesses:
    """Processes that are started here. Use it as a context manager.

    Args:
        work: what each runs, with its number, its end of the pipe, and the file for what it prints, None to show it.
        count: number of all processes, this one included.
        log: whether what they print goes to files.
    """

    def __init__(self, work: Callable[[Rank, Connection, Path | None], None], count: int, log: bool = True) -> None:
        self.count = count
        self._folder = tempfile.TemporaryDirectory(prefix="deploy-kit-verify-")
        self._logs = [Path(self._folder.name, f"process-{index}.log") for index in range(self.count)]
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for index in range(1, self.count):
            here, there = context.Pipe()
            rank = Rank(index, self.count, index, self.count)
            process = context.Process(target=work, args=(rank, there, self._logs[index] if log else None))
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> "StartedProcesses":
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            # An end that is gone ends what waits for orders.
            pipe.close()
        deadline = time.monotonic() + END_S
        for process in self._processes:
            if any(error):
                process.terminate()
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def send(self, index: int, message: bytes) -> None:
        """Tell one of them something."""
        # What is gone is found, and named, when its answer is asked for.
        with contextlib.suppress(OSError):
            self._pipes[index - 1].send_bytes(message)

    def receive(self, index: int, patience_s: float) -> bytes:
        """Return the next message of one of them; see `Processes`."""
        pipe, process = self._pipes[index - 1], self._processes[index - 1]
        ready = connection.wait([pipe, process.sentinel], patience_s)
        if pipe in ready:
            with contextlib.suppress(OSError, EOFError):
                return pipe.recv_bytes()
        elif not ready:
            raise LostProcessError(f"process {index} gave no sign for {patience_s:.0f} s")
        process.join(END_S)
        raise LostProcessError(f"process {index} is gone: {_how_it_ended(process)}{self._last_words(index)}")

    def _last_words(self, index: int) -> str:
        try:
            lines = self._logs[index].read_text(errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return f" ({said[-1][:300]})" if said else ""


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None:
        return "it said no more"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class PipeLeader:
    """The first process, behind a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, message: bytes) -> None:
        """Answer."""
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(message)

    def receive(self) -> bytes | None:
        """Return the next order, None when there is nothing more to do."""
        try:
            return self._pipe.recv_bytes()
        except (OSError, EOFError):
            return None


def _launchers_store() -> Any:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return PrefixStore("deploy-kit-verify", store)


class StoreProcesses:
    """Processes that a launcher started, behind its store.

    Args:
        rank: the first process.
    """

    def __init__(self, rank: Rank) -> None:
        self.count = rank.count
        self._store = _launchers_store()
        self._sent, self._read = [0] * rank.count, [0] * rank.count

    def send(self, index: int, message: bytes) -> None:
        """Tell one of them something."""
        self._store.set(f"to/{index}/{self._sent[index]}", message)
        self._sent[index] += 1

    def receive(self, index: int, patience_s: float) -> bytes:
        """Return the next message of one of them; see `Processes`."""
        message = _wait_for(self._store, f"from/{index}/{self._read[index]}", patience_s)
        if message is None:
            raise LostProcessError(f"process {index} gave no sign for {patience_s:.0f} s")
        self._read[index] += 1
        return message

    def end(self) -> None:
        """Tell all of them that there is no more to do."""
        for index in range(1, self.count):
            self.send(index, b"")


class StoreLeader:
    """The first process, behind a launcher's store."""

    def __init__(self, rank: Rank) -> None:
        self._rank, self._store = rank.index, _launchers_store()
        self._sent = self._read = 0

    def send(self, message: bytes) -> None:
        """Answer."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"from/{self._rank}/{self._sent}", message)
        self._sent += 1

    def receive(self) -> bytes | None:
        """Return the next order, None when there is nothing more to do."""
        try:
            message = _wait_for(self._store, f"to/{self._rank}/{self._read}", None)
        except RuntimeError:
            # The store went with the first process.
            return None
        self._read += 1
        return message or None


def _wait_for(store: Any, key: str, patience_s: float | None) -> bytes | None:
    """Return what stands under a key, None if nothing does in time.

    Looking again and again, since a wait of the store's own would hold up Ctrl-C.
    """
    began = time.monotonic()
    while not store.check([key]):
        if patience_s is not None and time.monotonic() - began > patience_s:
            return None
        time.sleep(POLL_S)
    return bytes(store.get(key))
