"""The mapped numbers of another stack's log, in SI units and the contract's axes, with their times."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.images import ImageStore, decode_image
from deploy_kit.flightlog.mapping import Clock, Mapping, Signal
from deploy_kit.flightlog.sources.message import Message, Source
from deploy_kit.onboard.frames import enu_from_ned, flu_from_frd, flu_to_enu_from_frd_to_ned, real_first
from deploy_kit.text import did_you_mean

_UNITS = {
    **{"m": 1.0, "cm": 1e-2, "mm": 1e-3, "m/s": 1.0, "cm/s": 1e-2, "km/h": 1 / 3.6},
    **{"rad/s": 1.0, "deg/s": np.pi / 180, "m/s2": 1.0, "g": 9.80665},
    **{"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
}
"""Factors to SI."""

_STAMP = ("sec", "nanosec", "nsec")

_CLOCK_NS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}

_SIZES = {
    **dict.fromkeys(("thrust", "gate_output", "gate_passed", "gate_event", "duration"), 1),
    "attitude": 4,
    **dict.fromkeys(("command", "graph_output", "state"), None),
}
"""Numbers of a signal, None for what the contract says; three of the others."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A signal over time.

    Attributes:
        times_ns: (n,) ascending.
        values: (n, k) SI units, the contract's axes.
    """

    times_ns: npt.NDArray[np.int64]
    values: Float64

    def before(self, time_ns: int) -> int:
        """Return the index of the last value at a time or before, −1 if there is none."""
        return int(np.searchsorted(self.times_ns, time_ns, side="right")) - 1

    def nearest(self, time_ns: int) -> int:
        """Return the index of the value nearest to a time."""
        after = min(int(np.searchsorted(self.times_ns, time_ns)), len(self.times_ns) - 1)
        earlier = max(after - 1, 0)
        return earlier if time_ns - self.times_ns[earlier] < self.times_ns[after] - time_ns else after


@dataclass(frozen=True)
class Gathered:
    """All mapped numbers of a log.

    Attributes:
        steps_ns: (n,) time of each step.
        series: by signal.
        images: what `images` was given to keep.
    """

    steps_ns: npt.NDArray[np.int64]
    series: dict[str, Series]
    images: ImageStore


def gather(
    path: Path,
    source: Source,
    mapping: Mapping,
    shape: tuple[int, int],
    sizes: dict[str, tuple[int, ...]],
    images: ImageStore,
) -> Gathered:
    """Read all mapped topics once.

    Args:
        path: the log, for messages.
        source: the log.
        mapping: says what is what.
        shape: (rows, columns) of the policy's image.
        sizes: accepted numbers of the signals whose size the contract gives.
        images: keeps the images.

    Raises:
        FlightLogError: a topic or field is not there, or its content is not what the mapping says.
    """
    signals, depth = mapping.signals, mapping.depth
    keys: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, topic in mapping.topics.items():
        keys[topic.name, topic.instance].append(name)
    found: dict[str, tuple[list[int], list[Float64]]] = defaultdict(lambda: ([], []))
    steps: list[int] = []
    for message in source.messages({topic.name for topic in mapping.topics.values()}):
        for name in keys.get((message.topic, message.instance), ()):
            time_ns = _time(path, message, mapping.topics[name].clock)
            if name == mapping.steps:
                steps.append(time_ns)
            for signal in signals.values():
                if signal.topic == name:
                    times, values = found[signal.name]
                    times.append(time_ns)
                    values.append(_numbers(path, message, signal, sizes.get(signal.name)))
            if depth.signal.topic == name:
                value = _get(path, message, depth.signal.fields[0] if depth.signal.fields else "", "depth")
                try:
                    images.append(time_ns, decode_image(value, depth, shape))
                except FlightLogError as error:
                    raise FlightLogError(f"{path}: {message.topic}: {error}") from error
    _require_all(
        path, source, mapping, {*found, *(["steps"] if steps else []), *(["depth"] if images.times_ns else [])}
    )
    series = {name: _series(path, signals[name], mapping, *pair) for name, pair in found.items()}
    if (np.diff(images.times_ns) < 0).any():
        raise FlightLogError(f"{path}: the images of {depth.signal.topic} are not in the order of their clock")
    return Gathered(np.unique(np.array(steps, np.int64)), series, images)


def _require_all(path: Path, source: Source, mapping: Mapping, found: set[str]) -> None:
    wanted = {"steps": mapping.steps, "depth": mapping.depth.signal.topic}
    wanted |= {name: signal.topic for name, signal in mapping.signals.items()}
    missing: dict[str, list[str]] = defaultdict(list)
    for name, topic in wanted.items():
        if name not in found:
            missing[str(mapping.topics[topic])].append(name)
    if missing:
        parts = [f"{topic} for {', '.join(names)}" for topic, names in missing.items()]
        raise FlightLogError(
            f"{path} holds no message of {'; '.join(parts)}: record it, or name another topic in the mapping"
            f"{did_you_mean(next(iter(missing)), source.topics())}"
        )


def _get(path: Path, message: Message, field: str, name: str) -> Any:
    try:
        return message.get(field)
    except (LookupError, TypeError) as error:
        raise FlightLogError(
            f"{path}: a message of {message.topic} has no field {field!r}, which the mapping names for {name}"
        ) from error


def _time(path: Path, message: Message, clock: Clock) -> int:
    if clock.field is None:
        return message.time_ns + clock.offset_ns
    value = _get(path, message, clock.field, "the clock")
    try:
        if clock.unit == "stamp":
            return _stamp(value) + clock.offset_ns
        whole = isinstance(value, (int, np.integer))
        factor = _CLOCK_NS[clock.unit]
        return (int(value) * int(factor) if whole else round(float(value) * factor)) + clock.offset_ns
    except (TypeError, ValueError, OverflowError) as error:
        raise FlightLogError(
            f"{path}: {clock.field} of {message.topic} is no time in {clock.unit} ({error})"
        ) from error


def _stamp(value: Any) -> int:
    """Return ns of a ROS or Foxglove time: sec, and nanosec or nsec."""
    fields = value if isinstance(value, dict) else {name: getattr(value, name, None) for name in _STAMP}
    seconds, *parts = (fields.get(name) for name in _STAMP)
    nanoseconds = next((part for part in parts if part is not None), None)
    if seconds is None or nanoseconds is None:
        raise TypeError("no sec and nanosec")
    return int(seconds) * 10**9 + int(nanoseconds)


def _numbers(path: Path, message: Message, signal: Signal, sizes: tuple[int, ...] | None) -> Float64:
    values = [_get(path, message, field, signal.name) for field in signal.fields]
    try:
        numbers = _named(values[0], signal) if len(values) == 1 else None
        if numbers is None:
            numbers = np.asarray(values[0] if len(values) == 1 else values, np.float64).reshape(-1)
            if signal.name == "attitude":
                numbers = _by_order(path, signal, numbers)
    except (TypeError, ValueError, OverflowError) as error:
        raise FlightLogError(f"{path}: {signal.name} in {message.topic} is no array of numbers ({error})") from error
    size = _SIZES.get(signal.name, 3)
    accepted = (sizes or ()) if size is None else (size,)
    if numbers.size not in accepted:
        raise FlightLogError(
            f"{path}: {signal.name} in {message.topic} has {numbers.size} numbers, expected "
            f"{' or '.join(map(str, accepted))}"
        )
    return numbers


def _named(value: Any, signal: Signal) -> Float64 | None:
    """Return the numbers of an object with x, y, z and, for an attitude, w; None if it is none."""
    names = ("w", "x", "y", "z") if signal.name == "attitude" else ("x", "y", "z")
    if isinstance(value, dict):
        return np.array([value[name] for name in names], np.float64) if set(names) <= set(value) else None
    if isinstance(value, np.ndarray) or not all(hasattr(value, name) for name in names):
        return None
    return np.array([getattr(value, name) for name in names], np.float64)


def _by_order(path: Path, signal: Signal, numbers: Float64) -> Float64:
    if signal.order is None:
        raise FlightLogError(f"{path}: the attitude is an array; give order in the mapping, wxyz or xyzw")
    return real_first(numbers) if signal.order == "xyzw" else numbers


def _series(path: Path, signal: Signal, mapping: Mapping, times: list[int], values: list[Float64]) -> Series:
    if len({value.size for value in values}) > 1:
        raise FlightLogError(f"{path}: {signal.name} changes its size within the log")
    times_ns, numbers = np.array(times, np.int64), np.stack(values)
    if (np.diff(times_ns) < 0).any():
        raise FlightLogError(f"{path}: {mapping.topics[signal.topic]} is not in the order of its clock")
    if signal.unit == "N":
        assert mapping.mass_kg is not None
        numbers = numbers / mapping.mass_kg
    elif signal.unit is not None:
        numbers = numbers * _UNITS[signal.unit]
    if signal.axes == "FRD":
        numbers = flu_from_frd(numbers)
    elif signal.axes == "NED":
        numbers = enu_from_ned(numbers)
    elif signal.axes == "FRD to NED":
        numbers = np.stack([flu_to_enu_from_frd_to_ned(quaternion) for quaternion in numbers])
    return Series(times_ns, numbers)
