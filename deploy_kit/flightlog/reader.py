"""Read a flight log. It comes from a computer that may have lost power: what is whole is read, what is not is named."""

import json
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.frames import MAX_JSON_BYTES, Frames
from deploy_kit.flightlog.records import LoggedHold, LoggedInputs, LoggedReset, LoggedStep, Record
from deploy_kit.onboard.log_format import (
    ELEMENT_TYPES,
    MAGIC,
    TIMES,
    Kind,
    hold_struct,
    step_struct,
)

_LIMITS = {"num_actions": (1, 64), "state_size": (1, 4096)}
_LARGEST_IMAGE = 1 << 24
_REFUSED = (struct.error, ValueError, KeyError, IndexError, RecursionError)
"""What reading a record raises that is not as it should be."""


@dataclass(frozen=True)
class _Position:
    """Where a step's arrays lie: offset of the first, element types of state and depth, numbers of the state."""

    offset: int
    codes: tuple[int, int]
    state_size: int
    observed: bool


@dataclass
class FlightLog:
    """A log, its numbers in memory, its images on the disk. Use it as a context manager.

    Attributes:
        path: the file.
        header: what flew: files' hashes, providers, options, versions, the contract.
        records: steps, holds and resets in order.
        ended: why it ended; None where the recorder was not closed.
        cut: what follows the last whole record, in words; None if nothing does.
        damaged: whether what follows is more than a torn last record.
    """

    path: Path
    header: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    ended: str | None = None
    cut: str | None = None
    damaged: bool = False
    _positions: dict[int, _Position] = field(default_factory=dict)
    _memory: mmap.mmap | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    @property
    def steps(self) -> list[LoggedStep]:
        """All steps, refused ones among them."""
        return [record for record in self.records if isinstance(record, LoggedStep)]

    @property
    def flown(self) -> list[LoggedStep]:
        """Steps that gave a command."""
        return [step for step in self.steps if step.fault is None]

    @property
    def missing(self) -> int:
        """Records that the recorder had to leave out between the first and the last one."""
        if not self.records:
            return 0
        return self.records[-1].sequence - self.records[0].sequence + 1 - len(self.records)

    def inputs(self, step: LoggedStep) -> LoggedInputs:
        """Return copies of a step's inputs."""
        assert self._memory is not None, "the log is closed"
        place, shape = self._positions[step.sequence], tuple(self.header["image_shape"])
        parts: list[npt.NDArray[Any] | None] = []
        offset = place.offset
        whole = int(self.header["state_size"])
        kinds = [(ELEMENT_TYPES[place.codes[0]], (place.state_size,)), (ELEMENT_TYPES[place.codes[1]], shape)]
        kinds += [("f4", (whole,)), ("f4", shape)] if place.observed else [("", ()), ("", ())]
        for kind, size in kinds:
            if not kind:
                parts.append(None)
                continue
            count = int(np.prod(size))
            parts.append(np.frombuffer(self._memory, f"<{kind}", count, offset).reshape(size).copy())
            offset += count * np.dtype(kind).itemsize
        return LoggedInputs(*parts)


def open_flight_log(path: Path) -> FlightLog:
    """Open a log and read all of it but the images.

    Raises:
        FlightLogError: it cannot be read, is no flight log, or has no whole header.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FlightLogError(
                    f"{path} is no flight log of version 1: give a file that OnboardPolicy(..., log=FILE) wrote, or "
                    "convert a log of another kind with deploy-kit log import"
                )
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FlightLogError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return _read(path, memory)
    except BaseException:
        memory.close()
        raise


def _read(path: Path, memory: mmap.mmap) -> FlightLog:
    frames = Frames(memory)
    first = next(frames, None)
    if first is None or first[0] != Kind.HEADER or len(first[1]) > MAX_JSON_BYTES:
        raise FlightLogError(f"{path} has no whole header ({frames.cut or 'another record comes first'})")
    log = FlightLog(path, _read_header(path, first[1]), _memory=memory)
    rows, columns = log.header["image_shape"]
    frames.largest = (1 << 16) + 16 * (log.header["state_size"] + rows * columns)
    step, hold = (make(log.header["num_actions"]) for make in (step_struct, hold_struct))
    for kind, payload, offset in frames:
        try:
            if kind == Kind.STEP:
                _read_step(log, step.unpack_from(payload), payload, offset + step.size, step.size)
            elif kind == Kind.HOLD:
                sequence, clock, now, told, *command = hold.unpack(payload)
                log.records.append(LoggedHold(sequence, clock, now, bool(told), np.array(command)))
            elif kind == Kind.RESET:
                log.records.append(LoggedReset(*TIMES.unpack(payload)))
            elif kind == Kind.END:
                log.ended = str(_json_object(payload).get("reason"))
            else:
                raise ValueError(f"a record of the unknown kind {kind}")
            _check_order(log)
        except _REFUSED as error:
            log.cut, log.damaged = f"the record at byte {offset} cannot be read ({error})", True
            return log
    log.cut, log.damaged = frames.cut, frames.damaged
    return log


def _read_header(path: Path, payload: bytes) -> dict[str, Any]:
    try:
        header = _json_object(payload)
        for name, (low, high) in _LIMITS.items():
            if type(header[name]) is not int or not low <= header[name] <= high:
                raise ValueError(f"{name} is {header[name]!r}")
        shape = header["image_shape"]
        if len(shape) != 2 or not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"image_shape is {shape!r}")
        if shape[0] * shape[1] > _LARGEST_IMAGE:
            raise ValueError(f"image_shape is {shape!r}")
        for name in ("files", "options", "contract"):
            if not isinstance(header[name], dict):
                raise ValueError(f"{name} is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FlightLogError(
            f"{path} has an unusable header ({error!r}): it was not written by the recorder"
        ) from error
    return header


def _json_object(payload: bytes) -> dict[str, Any]:
    data = json.loads(payload)
    if not isinstance(data, dict):
        raise ValueError("no JSON object")
    return data


def _read_step(log: FlightLog, values: tuple[Any, ...], payload: bytes, offset: int, numbers: int) -> None:
    n, (rows, columns) = log.header["num_actions"], log.header["image_shape"]
    sequence, clock, duration, *rest = values
    times, acting, command, first = rest[:3], rest[3 : 3 + n], rest[3 + n : 3 + 2 * n], rest[3 + 2 * n : 3 + 3 * n]
    gate, passed, event, state_code, depth_code, state_size, observed, text_size = rest[3 + 3 * n :]
    sizes = [state_size, rows * columns]
    kinds = [ELEMENT_TYPES[code] for code in (state_code, depth_code)]
    arrays = sum(size * np.dtype(kind).itemsize for size, kind in zip(sizes, kinds, strict=True) if kind)
    arrays += 4 * (log.header["state_size"] + rows * columns) if observed else 0
    if numbers + arrays + text_size != len(payload):
        raise ValueError(f"{len(payload)} bytes, {numbers + arrays + text_size} are expected")
    log.records.append(
        LoggedStep(
            sequence,
            clock,
            duration,
            (times[0], times[1], times[2]),
            np.array(acting),
            np.array(command),
            np.array(first, np.float32),
            gate,
            None if passed < 0 else bool(passed),
            None if event < 0 else bool(event),
            payload[len(payload) - text_size :].decode("utf-8", "replace") if text_size else None,
        )
    )
    log._positions[sequence] = _Position(offset, (state_code, depth_code), state_size, bool(observed))


def _check_order(log: FlightLog) -> None:
    if len(log.records) > 1 and log.records[-1].sequence <= log.records[-2].sequence:
        raise ValueError(f"record {log.records[-1].sequence} comes after {log.records[-2].sequence}")
