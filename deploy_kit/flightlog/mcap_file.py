"""Write a flight log as MCAP, which Foxglove shows: images, states by name, outputs, holds."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import DeployKitError, FlightLogError, MissingDependencyError
from deploy_kit.files import replace_file
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.flightlog.records import LoggedHold, LoggedReset, LoggedStep
from deploy_kit.flightlog.sources.mcap_bounds import open_mcap
from deploy_kit.flightlog.sources.mcap_source import McapSource
from deploy_kit.flightlog.sources.message import unreadable
from deploy_kit.flightlog.writer import Payload, record_payload, write_flight_log
from deploy_kit.onboard.log_format import Kind
from deploy_kit.strict_json import strict_json

DEPTH_TOPIC = "/depth"
CAMERA_TOPIC = "/camera_info"
STATE_TOPIC = "/policy/state"
OUTPUT_TOPIC = "/policy/output"
EVENT_TOPIC = "/policy/event"
RECORD_TOPIC = "/deploy_kit/record"
"""The log's own records, byte for byte, which `read_back` takes; Foxglove shows the others."""

RECORD_ENCODING = "deploy-kit-record"
_HEADER_NAME = "header.json"
CAMERA_FRAME = "depth_camera"

_ENCODINGS = {"f": "32FC1", "u": "16UC1"}
"""Foxglove's encodings of depth: metres as float32, millimetres as uint16."""

Message = tuple[str, int, dict[str, Any]]


def write_mcap(log: FlightLog, path: Path, records: bool = True) -> int:
    """Write a log as MCAP with JSON messages, Foxglove's own schemas for image and camera; return the messages.

    Times are the recorder's monotonic clock; `now` and the inputs' own times are fields of the messages. The header,
    with the contract, is the attachment ``header.json``.

    Args:
        log: the log.
        path: file to write.
        records: also write the log's own records, from which the log can be made again.

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
            writer.add_attachment(first, first, _HEADER_NAME, "application/json", header)
            channels: dict[str, int] = {}
            for topic, clock, message in _messages(log):
                if topic not in channels:
                    schema = writer.register_schema(_schema_name(topic), "jsonschema", _schema(message))
                    channels[topic] = writer.register_channel(topic, "json", schema)
                data = json.dumps(message, allow_nan=False).encode()
                writer.add_message(channels[topic], log_time=clock, publish_time=clock, data=data)
                count += 1
            if records:
                _write_records(writer, log)
            writer.finish()  # type: ignore[no-untyped-call] # mcap says nothing of it

    replace_file(path, write)
    return count


def _write_records(writer: Any, log: FlightLog) -> None:
    channel = writer.register_channel(RECORD_TOPIC, RECORD_ENCODING, 0)
    for record in log.records:
        inputs = log.inputs(record) if isinstance(record, LoggedStep) else None
        kind, payload = record_payload(record, inputs)
        clock = record.clock_ns
        writer.add_message(channel, log_time=clock, publish_time=clock, data=bytes([kind]) + payload)
    if log.ended is not None:
        last = log.records[-1].clock_ns if log.records else 0
        data = bytes([Kind.END]) + log.ended.encode()
        writer.add_message(channel, log_time=last, publish_time=last, data=data)


def holds_records(path: Path) -> bool:
    """Return whether an MCAP file holds the records of a flight log."""
    return RECORD_TOPIC in McapSource(path).topics()


def read_back(path: Path, target: Path) -> int:
    """Write the flight log whose records an MCAP file holds; return the number of records.

    Raises:
        FlightLogError: the file cannot be read, or holds no whole records.
        InputError: the log cannot be written.
    """
    ended: list[str] = []
    count = 0

    def payloads(reader: Any) -> Iterator[Payload]:
        nonlocal count
        for _, _, message in reader.iter_messages(topics=[RECORD_TOPIC], log_time_order=False):
            kind, payload = message.data[0], message.data[1:]
            if kind == Kind.END:
                ended.append(payload.decode())
                continue
            count += 1
            yield kind, payload

    try:
        with path.open("rb") as file:
            reader = open_mcap(path, file)
            attachment = next((entry for entry in reader.iter_attachments() if entry.name == _HEADER_NAME), None)
            if attachment is None:
                raise FlightLogError(f"{path} holds records of a flight log, but no {_HEADER_NAME}")
            write_flight_log(target, strict_json(attachment.data), payloads(reader), ended)
    except DeployKitError:
        raise
    # mcap raises whatever a damaged file makes of it.
    except Exception as error:
        raise unreadable(path, error) from error
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
