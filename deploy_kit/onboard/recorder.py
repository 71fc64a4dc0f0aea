"""Records each step of a flight to a file, off the control path: a ring of preallocated slots and a writer thread.

The control loop copies a step into a slot and goes on. The writer wakes a few times a second, appends what is there,
and syncs it to the disk once a second. A killed process loses what the writer had not taken yet; what was written
stays readable, but for a torn last record.
"""

import math
import struct
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .faults import Fault, OnboardFault
from .log_format import ELEMENT_TYPES, TIMES, Kind, hold_struct, step_struct
from .log_writer import SLOTS, LogWriter, RecordingOptions, Slot, finish

MAX_STATE = 256
MAX_TEXT = 400
_CODES = {name: code for code, name in enumerate(ELEMENT_TYPES)}
_NAN = math.nan


class StepResult(NamedTuple):
    """What a step gave, as it is recorded.

    Attributes:
        command: numbers of the command given.
        first: the graph's first output.
        gate: its gate output, None without one.
        passed: gate_passed of the output.
        event: gate_event of the output.
    """

    command: list[float]
    first: list[float]
    gate: float | None
    passed: bool | None
    event: bool | None


class RecordedGraph(Protocol):
    """What a log records of a graph: its input, as two arrays."""

    state: npt.NDArray[np.float32]
    image: npt.NDArray[np.float32]


class Recorder:
    """Appends records to a flight log.

    Args:
        path: file to write, which must not exist; or a folder, in which the next free name flight-0001.dklog, … is
            taken. A name that ends with "/" is a folder, made if it is missing.
        header: what the log's header says.
        graph: gives the network's input after each step.
        num_actions: numbers of a command.
        options: bounds.

    Attributes:
        path: the file.
        clock: of the records, ns.

    Raises:
        OnboardFault: the file exists already or cannot be written.
    """

    path: Path
    clock: Callable[[], int]

    def __init__(
        self,
        path: Path | str,
        header: dict[str, Any],
        graph: RecordedGraph,
        num_actions: int,
        options: RecordingOptions,
    ) -> None:
        self._graph, self._n, self._largest = graph, num_actions, max(MAX_STATE, graph.state.size)
        self._step, self._hold = step_struct(num_actions), hold_struct(num_actions)
        self._no_command = (_NAN,) * num_actions
        inputs = graph.state.nbytes + graph.image.nbytes
        self._size = self._step.size + 8 * (max(MAX_STATE, graph.state.size) + graph.image.size) + inputs + MAX_TEXT
        self._slots = [Slot(self._size) for _ in range(SLOTS)]
        self._usual: tuple[Any, ...] | None = None
        self._sequence = 0
        self._head = 0
        self._writer = LogWriter(path, header, self._slots, options, partial(_pack, self._step))
        self.path, self.clock = self._writer.path, options.clock
        self._thread = threading.Thread(target=self._writer.run, name="flight log", daemon=True)
        self._thread.start()
        # Also at exit, and when the policy is dropped: what stands in the ring is written.
        self._close = weakref.finalize(self, finish, self._writer, self._thread)

    @property
    def ended(self) -> str | None:
        """Why nothing is recorded any more, None while it is."""
        return self._writer.ended

    @property
    def lost(self) -> int:
        """Records that found the ring full, since the disk was too slow."""
        return self._writer.lost

    def close(self) -> None:
        """Write what is left and close the file."""
        self._close()

    def require_recording(self) -> None:
        """Refuse to go on without a log where the options say so.

        Raises:
            OnboardFault: the log has ended.
        """
        if self._writer.ended is not None and self._writer.options.at_limit == "fault":
            raise OnboardFault(Fault.LOG, f"{self.path}: nothing is recorded any more, {self._writer.ended}")

    def accepted(
        self,
        began: int,
        inputs: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        times: tuple[float | None, float | None, float | None],
        acting: list[float],
        result: StepResult,
    ) -> None:
        """Record a step that went well; the graph still holds its input.

        Args:
            began: `clock` when it began.
            inputs: state and depth as given.
            times: `now`, state_time, depth_time.
            acting: command that was acting; kept as it is, like the lists of `result`.
            result: what it gave.
        """
        state, depth = inputs
        slot = self._take()
        if slot is None:
            return
        usual = (state.dtype, state.size, depth.dtype)
        if usual != self._usual:
            self._lay_out(usual)
        took = self.clock() - began
        views = slot.views
        views[0][...] = state
        views[1][...] = depth
        views[2][...] = self._graph.state
        views[3][...] = self._graph.image
        # Numbers that nobody changes any more: the writer packs them, off the control path.
        slot.numbers = (self._sequence, began, took, times, acting, result, self._codes, state.size)
        self._put(slot, Kind.STEP, self._usual_length)

    def refused(
        self,
        began: int,
        inputs: tuple[Any, Any],
        times: tuple[float | None, float | None, float | None],
        acting: list[float],
        fault: OnboardFault,
    ) -> None:
        """Record a step that was refused, with its inputs as far as they are arrays of the usual kinds and sizes."""
        slot = self._take()
        if slot is None:
            return
        state, depth = inputs
        parts: list[bytes] = []
        codes = []
        for array, fits in (
            (state, isinstance(state, np.ndarray) and state.ndim == 1 and state.size <= self._largest),
            (depth, isinstance(depth, np.ndarray) and depth.shape == self._graph.image.shape),
        ):
            code = _code(array.dtype) if fits else 0
            codes.append(code)
            parts.append(np.ascontiguousarray(array, _native(code)).tobytes() if code else b"")
        text = str(fault).encode()[:MAX_TEXT]
        head = self._step.pack(
            self._sequence,
            began,
            self.clock() - began,
            *(_number(value) for value in times),
            *acting,
            *self._no_command,
            *self._no_command,
            _NAN,
            -1,
            -1,
            *codes,
            state.size if codes[0] else 0,
            0,
            len(text),
        )
        self._put_bytes(slot, Kind.STEP, b"".join([head, *parts, text]))

    def held(self, command: list[float], told: bool, now: float | None) -> None:
        """Record a period that passed without a step."""
        if (slot := self._take()) is not None:
            head = self._sequence, self.clock()
            self._put_bytes(slot, Kind.HOLD, self._hold.pack(*head, _number(now), told, *command))

    def reset(self) -> None:
        """Record that the past was forgotten."""
        if (slot := self._take()) is not None:
            self._put_bytes(slot, Kind.RESET, TIMES.pack(self._sequence, self.clock()))

    def _take(self) -> Slot | None:
        """Return the next free slot, None where the disk is too slow; each record has a sequence number of its own."""
        self._sequence += 1
        writer = self._writer
        if writer.ended is not None:
            return None
        waiting = self._head - writer.tail
        if waiting >= SLOTS // 2:
            writer.wake.set()
        if waiting >= SLOTS and not self._wait_for_room():
            writer.lost += 1
            return None
        return self._slots[self._head % SLOTS]

    def _wait_for_room(self) -> bool:
        writer = self._writer
        while writer.options.lossless and writer.ended is None and self._thread.is_alive():
            if self._head - writer.tail < SLOTS:
                return True
            time.sleep(1e-4)
        return False

    def _put(self, slot: Slot, kind: int, length: int) -> None:
        slot.kind, slot.length = kind, length
        # The writer takes a slot when it sees this number, which therefore comes last.
        self._head += 1
        self._writer.head = self._head

    def _put_bytes(self, slot: Slot, kind: int, payload: bytes) -> None:
        slot.numbers = None
        slot.buffer[: len(payload)] = payload
        self._put(slot, kind, len(payload))

    def _lay_out(self, usual: tuple[Any, ...]) -> None:
        """Prepare all slots for inputs of these types; the layout before it is in the slots' bytes already."""
        state, size, depth = usual
        self._codes = _code(state), _code(depth)
        arrays = (
            (_native(self._codes[0]), (size,)),
            (_native(self._codes[1]), self._graph.image.shape),
            (np.float32, self._graph.state.shape),
            (np.float32, self._graph.image.shape),
        )
        for slot in self._slots:
            slot.shape(self._step.size, arrays)
        self._usual_length = self._step.size + sum(view.nbytes for view in self._slots[0].views)
        self._usual = usual


def _pack(step: struct.Struct, slot: Slot) -> None:
    """Put the numbers of a step into its record's first bytes."""
    if slot.numbers is None:
        return
    sequence, began, duration, times, acting, result, codes, size = slot.numbers
    step.pack_into(
        slot.buffer,
        0,
        sequence,
        began,
        duration,
        *(_NAN if time is None else time for time in times),
        *acting,
        *result.command,
        *result.first,
        _NAN if result.gate is None else result.gate,
        -1 if result.passed is None else result.passed,
        -1 if result.event is None else result.event,
        *codes,
        size,
        1,
        0,
    )


def _code(kind: np.dtype[Any]) -> int:
    """Return the code of an element type, 0 for one that no log holds; a wider float is stored as float64."""
    name = f"{kind.kind}{min(kind.itemsize, 8)}"
    return _CODES.get(name, 0)


def _native(code: int) -> np.dtype[Any]:
    return np.dtype(f"<{ELEMENT_TYPES[code]}")


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float, np.integer, np.floating)) else _NAN
    except OverflowError:
        return _NAN
