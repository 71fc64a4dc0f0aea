"""Write a flight log on the host, in the format that the onboard recorder writes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError
from deploy_kit.files import replace_file
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.flightlog.records import LoggedHold, LoggedInputs, LoggedReset, LoggedStep
from deploy_kit.onboard.log_format import ELEMENT_TYPES, MAGIC, TIMES, Kind, frame_head, hold_struct, step_struct

Payload = tuple[int, bytes]
"""Kind of a frame, and what it holds."""


def write_flight_log(path: Path, header: dict[str, Any], payloads: Iterable[Payload], ended: Sequence[str]) -> None:
    """Write a log.

    Args:
        path: file to write; an existing one is replaced once the new one is whole.
        header: what the log's header says.
        payloads: records in order, as `step_payload` and the others give them.
        ended: why the flight's log ends, read after the last record; empty for a recorder that was not closed.

    Raises:
        FlightLogError: the records are none.
        InputError: it cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(MAGIC)
            for kind, payload in _frames(header, payloads, ended):
                file.write(frame_head(kind, payload) + payload)
        with open_flight_log(temporary) as log:
            if log.cut is not None:
                raise FlightLogError(f"{path} is not written: its records are no flight log's ({log.cut})")

    replace_file(path, write)


def _frames(header: dict[str, Any], payloads: Iterable[Payload], ended: Sequence[str]) -> Iterator[Payload]:
    yield Kind.HEADER, json.dumps(header).encode()
    yield from payloads
    for reason in ended:
        yield Kind.END, json.dumps({"reason": reason, "lost": 0}).encode()


def record_payload(record: LoggedStep | LoggedHold | LoggedReset, inputs: LoggedInputs | None) -> Payload:
    """Return a record as a log holds it.

    Args:
        record: the record.
        inputs: of a step.
    """
    if isinstance(record, LoggedReset):
        return Kind.RESET, TIMES.pack(record.sequence, record.clock_ns)
    if isinstance(record, LoggedHold):
        head = record.sequence, record.clock_ns, record.now, record.told
        return Kind.HOLD, hold_struct(record.command.size).pack(*head, *record.command)
    assert inputs is not None, "a step has inputs"
    return Kind.STEP, _step(record, inputs)


def _step(step: LoggedStep, inputs: LoggedInputs) -> bytes:
    text = b"" if step.fault is None else step.fault.encode()
    codes = [_code(array) for array in (inputs.state, inputs.depth)]
    observed = inputs.network_state is not None and inputs.network_image is not None
    head = step_struct(step.command.size).pack(
        step.sequence,
        step.clock_ns,
        step.duration_ns,
        *step.times,
        *step.acting,
        *step.command,
        *step.first.tolist(),
        step.gate,
        -1 if step.passed is None else step.passed,
        -1 if step.event is None else step.event,
        *codes,
        0 if inputs.state is None else inputs.state.size,
        observed,
        len(text),
    )
    parts: list[npt.NDArray[Any] | None] = [inputs.state, inputs.depth]
    parts += [inputs.network_state, inputs.network_image] if observed else []
    arrays = [b"" if part is None else np.ascontiguousarray(part).tobytes() for part in parts]
    return b"".join([head, *arrays, text])


def _code(array: npt.NDArray[Any] | None) -> int:
    return 0 if array is None else ELEMENT_TYPES.index(f"{array.dtype.kind}{array.dtype.itemsize}")
