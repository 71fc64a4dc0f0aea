"""Write a flight log as MCAP, which Foxglove shows: images, states by name, outputs, holds."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError, MissingDependencyError
from deploy_kit.files import replace_file
from deploy_kit.flightlog.reader import FlightLog, LoggedHold, LoggedReset, LoggedStep

DEPTH_TOPIC = "/depth"
CAMERA_TOPIC = "/camera_info"
STATE_TOPIC = "/policy/state"
OUTPUT_TOPIC = "/policy/output"
EVENT_TOPIC = "/policy/event"
CAMERA_FRAME = "depth_camera"

_ENCODINGS = {"f": "32FC1", "u": "16UC1"}
"""Foxglove's encodings of depth: metres as float32, millimetres as uint16."""

Message = tuple[str, int, dict[str, Any]]


def write_mcap(log: FlightLog, path: Path) -> int:
    """Write a log as MCAP with JSON messages, Foxglove's own schemas for image and camera; return the messages.

    Times are the recorder's monotonic clock; `now` and the inputs' own times are fields of the messages. The header,
    with the contract, is the attachment ``header.json``.

    Raises:
        FlightLogError: an image is of a type that Foxglove does not show.
        MissingDependencyError: mcap is not installed.
        InputError: the file cannot be written.
    """
    try:
        from mcap.writer import Writer
    except ModuleNotFoundError as error:
        raise MissingDependencyError('mcap is not installed: pip install "deploy-kit[logs]"') from error
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with temporary.open("wb") as file:
            writer = Writer(file)
            writer.start(profile="", library="deploy-kit")
            header = json.dumps(log.header).encode()
            first = log.records[0].clock_ns if log.records else 0
            writer.add_attachment(first, first, "header.json", "application/json", header)
            channels: dict[str, int] = {}
            for topic, clock, message in _messages(log):
                if topic not in channels:
                    schema = writer.register_schema(_schema_name(topic), "jsonschema", _schema(message))
                    channels[topic] = writer.register_channel(topic, "json", schema)
                data = json.dumps(message, allow_nan=False).encode()
                writer.add_message(channels[topic], log_time=clock, publish_time=clock, data=data)
                count += 1
            writer.finish()  # type: ignore[no-untyped-call] # mcap says nothing of it

    replace_file(path, write)
    return count


def _messages(log: FlightLog) -> Iterator[Message]:
    contract = log.header["contract"]
    camera = calibration(contract)
    for index, record in enumerate(log.records):
        clock = record.clock_ns
        if camera is not None and index == 0:
            yield CAMERA_TOPIC, clock, {"timestamp": _stamp(clock), **camera}
        if isinstance(record, LoggedStep):
            yield from _step(log, record, contract)
        elif isinstance(record, LoggedHold):
            held = {
                "kind": "hold",
                "told": record.told,
                "command": _numbers(record.command),
                "now": _or_none(record.now),
            }
            yield EVENT_TOPIC, clock, held
        elif isinstance(record, LoggedReset):
            yield EVENT_TOPIC, clock, {"kind": "reset"}


def _step(log: FlightLog, step: LoggedStep, contract: dict[str, Any]) -> Iterator[Message]:
    inputs, clock = log.inputs(step), step.clock_ns
    now, state_time, depth_time = map(_or_none, step.times)
    if inputs.depth is not None:
        yield DEPTH_TOPIC, clock, {**_image(inputs.depth, clock), "depth_time": depth_time}
    if inputs.network_state is not None:
        terms = {
            str(term["name"]): _numbers(inputs.network_state[term["start"] : term["stop"]])
            for term in contract["observation"]["terms"]
        }
        given = None if inputs.state is None else _numbers(inputs.state)
        yield STATE_TOPIC, clock, {"given": given, "network": terms, "state_time": state_time}
    names = contract["action"]["names"]
    yield (
        OUTPUT_TOPIC,
        clock,
        {
            "sequence": step.sequence,
            "now": now,
            "duration_ms": step.duration_ns / 1e6,
            "command": dict(zip(names, _numbers(step.command), strict=False)),
            "acting": dict(zip(names, _numbers(step.acting), strict=False)),
            "graph_output": _numbers(step.first),
            "gate_output": _or_none(step.gate),
            "gate_passed": step.passed,
            "gate_event": step.event,
            "fault": step.fault,
        },
    )


def _image(depth: npt.NDArray[Any], clock: int) -> dict[str, Any]:
    kind = depth.dtype.kind
    if kind not in _ENCODINGS:
        raise FlightLogError(f"a depth image of {depth.dtype} has no encoding in Foxglove")
    # Rounded to float32: what Foxglove shows. Wider integers than 16 bits hold no more millimetres than a camera sees.
    array = depth.astype("<f4") if kind == "f" else depth.clip(0, 65535).astype("<u2")
    return {
        "timestamp": _stamp(clock),
        "frame_id": CAMERA_FRAME,
        "width": depth.shape[1],
        "height": depth.shape[0],
        "encoding": _ENCODINGS[kind],
        "step": depth.shape[1] * array.itemsize,
        "data": base64.b64encode(array.tobytes()).decode(),
    }


def calibration(contract: dict[str, Any]) -> dict[str, Any] | None:
    """Return foxglove.CameraCalibration's fields of the contract's camera, None where it knows none."""
    camera = contract.get("camera")
    if not isinstance(camera, dict):
        return None
    fx, fy, cx, cy = (float(camera[name]) for name in ("fx", "fy", "cx", "cy"))
    return {
        "frame_id": CAMERA_FRAME,
        "width": camera["width"],
        "height": camera["height"],
        "distortion_model": "",
        "D": [],
        "K": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        "R": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "P": [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    }


def _schema_name(topic: str) -> str:
    known = {DEPTH_TOPIC: "foxglove.RawImage", CAMERA_TOPIC: "foxglove.CameraCalibration"}
    return known.get(topic, f"deploy_kit.{topic.rsplit('/', 1)[-1]}")


def _schema(message: dict[str, Any]) -> bytes:
    """Return a JSON schema of a message: the names of its fields, with types where the first message tells them."""
    return json.dumps(
        {"type": "object", "properties": {name: _type(value) for name, value in message.items()}}
    ).encode()


def _type(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": {"type": "number"}}
        case dict():
            return {"type": "object", "properties": {name: _type(part) for name, part in value.items()}}
        case _:
            return {}


def _stamp(clock_ns: int) -> dict[str, int]:
    return {"sec": clock_ns // 10**9, "nsec": clock_ns % 10**9}


def _or_none(value: float) -> float | None:
    """Return a number as JSON has it: not a number and infinite ones are null."""
    return float(value) if np.isfinite(value) else None


def _numbers(values: npt.NDArray[Any]) -> list[float | None]:
    return [_or_none(float(value)) for value in values]
