"""Appends records from a ring of preallocated slots to a file, on a thread of its own."""

import itertools
import json
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .faults import Fault, OnboardFault
from .log_format import MAGIC, TIMES, Kind, frame_head

SLOTS = 64
"""Two seconds of a policy at 30 Hz: for so long may the disk stall before steps are lost."""

_POLL_S = 0.02


@dataclass(frozen=True)
class RecordingOptions:
    """Bounds of a flight log.

    Attributes:
        max_bytes: most bytes on the disk.
        max_seconds: longest flight in one log, None for any.
        at_limit: "rotate" goes on in a new file and keeps the one before as FILE.1, so that the newest half of
            `max_bytes` or more is kept; "stop" goes on without a log; "fault" refuses each further step.
        sync_s: time between two syncs to the disk.
        lossless: wait for the disk rather than lose a record; for simulations, whose time stands still meanwhile.
        clock: when a record was made and how long a step took, ns; another one for simulations.

    Raises:
        OnboardFault: an option makes no sense.
    """

    max_bytes: int = 1 << 30
    max_seconds: float | None = None
    at_limit: Literal["rotate", "stop", "fault"] = "rotate"
    sync_s: float = 1.0
    lossless: bool = False
    clock: Callable[[], int] = time.monotonic_ns

    def __post_init__(self) -> None:
        if self.at_limit not in ("rotate", "stop", "fault"):
            raise OnboardFault(Fault.OPTIONS, f"at_limit is {self.at_limit!r}, not rotate, stop or fault")
        # Written so that NaN is refused too.
        if not self.max_bytes >= 1 << 20:
            raise OnboardFault(Fault.OPTIONS, f"max_bytes is {self.max_bytes}, not at least {1 << 20}")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise OnboardFault(Fault.OPTIONS, f"max_seconds is {self.max_seconds}, not a number above 0")
        if not 0 < self.sync_s < math.inf:
            raise OnboardFault(Fault.OPTIONS, f"sync_s is {self.sync_s}, not a number above 0")


class Slot:
    """One record's memory; its views fit the inputs that usually come.

    Attributes:
        numbers: of a step, which the writer packs into the first bytes; None where the bytes are whole.
    """

    def __init__(self, size: int) -> None:
        # Filled, unlike zeros that nobody has touched: the first steps do not wait for memory.
        self.bytes = np.full(size, 0, np.uint8)
        self.buffer = self.bytes.data
        self.kind = 0
        self.length = 0
        self.views: tuple[npt.NDArray[Any], ...] = ()
        self.numbers: tuple[Any, ...] | None = None

    def shape(self, first: int, arrays: Iterable[tuple[npt.DTypeLike, tuple[int, ...]]]) -> None:
        """Lay arrays behind the first bytes, and take them as the record's length."""
        views, at = [], first
        for kind, shape in arrays:
            size = math.prod(shape) * np.dtype(kind).itemsize
            views.append(self.bytes[at : at + size].view(kind).reshape(shape))
            at += size
        self.views = tuple(views)


def finish(writer: "LogWriter", thread: threading.Thread) -> None:
    """Let the writer write what is left, and wait for it."""
    writer.stop = True
    writer.wake.set()
    thread.join()


class LogWriter:
    """Takes records from the ring and appends them to the file, on a thread of its own.

    `head` is written by the control loop alone, `tail` and `ended` by the writer alone.
    """

    def __init__(
        self,
        path: Path | str,
        header: dict[str, Any],
        slots: list[Slot],
        options: RecordingOptions,
        pack: Callable[[Slot], None],
    ) -> None:
        if sys.byteorder != "little":
            raise OnboardFault(Fault.LOG, "flight logs are written on little-endian computers alone")
        self.options, self._header, self._slots, self._pack = options, header, slots, pack
        self.head = self.tail = self.lost = 0
        self.ended: str | None = None
        self.stop = False
        self.wake = threading.Event()
        self._part = 0
        self._limit = options.max_bytes // 2 if options.at_limit == "rotate" else options.max_bytes
        self._began: int | None = None
        path, is_folder = Path(path), str(path).endswith("/")
        try:
            if is_folder:
                path.mkdir(parents=True, exist_ok=True)
            self._begin(path)
        except FileExistsError as error:
            raise OnboardFault(
                Fault.LOG, f"{path} or {path.name}.1 exists: choose another name, or give a folder"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OnboardFault(Fault.LOG, f"{path} cannot be written: {reason}") from error

    def _begin(self, path: Path) -> None:
        if not path.is_dir():
            # Rotating would replace what is left of an earlier flight.
            if self.options.at_limit == "rotate" and _half(path).exists():
                raise FileExistsError
            self.path = path
            self._open()
            return
        for number in itertools.count(1):
            self.path = path / f"flight-{number:04}.dklog"
            # A rotated half of an earlier flight may be all that is left of it.
            if _half(self.path).exists():
                continue
            # Another runner may take the name first.
            with suppress(FileExistsError):
                self._open()
                return

    def _open(self) -> None:
        # Not buffered by Python, so that nothing of a failed write is left to be written later.
        self._file = FileIO(self.path, "xb")
        self._written = 0
        self._synced = time.monotonic()
        payload = json.dumps({**self._header, "part": self._part}).encode()
        self._append(MAGIC + frame_head(Kind.HEADER, payload) + payload)

    def _append(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._written += len(data)

    def run(self) -> None:
        """Append records until told to stop."""
        try:
            while not self.stop:
                self.wake.wait(_POLL_S)
                self.wake.clear()
                self._drain()
            self._drain()
            if self.ended is None:
                self._end("closed")
        except OSError as error:
            self.ended = f"it cannot be written ({error.strerror})"
        except (struct.error, ArithmeticError, TypeError, ValueError) as error:
            self.ended = f"a step holds what no record takes ({error})"
        finally:
            self._file.close()

    def _drain(self) -> None:
        while self.tail != self.head and self.ended is None:
            slot = self._slots[self.tail % SLOTS]
            self._pack(slot)
            payload = slot.buffer[: slot.length]
            self._make_room(payload)
            if self.ended is None:
                self._append(frame_head(slot.kind, payload))
                self._append(payload)
            self.tail += 1
        if self.ended is None and time.monotonic() - self._synced > self.options.sync_s:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _make_room(self, payload: memoryview) -> None:
        """End or rotate the file where the next record would leave its bounds."""
        _, clock = TIMES.unpack_from(payload)
        self._began = clock if self._began is None else self._began
        seconds = self.options.max_seconds
        late = seconds is not None and clock - self._began > seconds * 1e9
        if self._written + len(payload) + 256 < self._limit and not late:
            return
        reason = f"{seconds:g} s are reached" if late else f"{self._limit} bytes are reached"
        self._end(reason)
        if self.options.at_limit != "rotate":
            self.ended = reason
            return
        os.replace(self.path, _half(self.path))
        self._part += 1
        self._began = clock
        self._open()

    def _end(self, reason: str) -> None:
        payload = json.dumps({"reason": reason, "lost": self.lost}).encode()
        self._append(frame_head(Kind.END, payload) + payload)
        os.fsync(self._file.fileno())
        self._file.close()


def _half(path: Path) -> Path:
    """Return where a rotated log keeps its first half."""
    return path.with_name(f"{path.name}.1")
