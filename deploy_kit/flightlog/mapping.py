"""Names which topics and fields of another stack's log are our flight log's inputs, in which unit, axes and clock.

A YAML or JSON file, validated by `mapping.schema.json`; docs/flight-log.md explains it.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from deploy_kit.errors import FlightLogError
from deploy_kit.yaml_file import read_yaml

SCHEMA_PATH = Path(__file__).with_name("mapping.schema.json")

_GROUPS = ("terms", "quantities", "outputs")


@dataclass(frozen=True)
class Clock:
    """When a message was measured.

    Attributes:
        field: path to its time; None for the log's own time of the message.
        unit: of that field; "stamp" for an object with sec and nanosec.
        offset_ns: added, to come to the clock of the others.
    """

    field: str | None = None
    unit: str = "ns"
    offset_ns: int = 0


@dataclass(frozen=True)
class Topic:
    """A topic of the log.

    Attributes:
        name: in the log.
        instance: ULog's multi_id.
        clock: when its messages were measured.
    """

    name: str
    instance: int
    clock: Clock

    def __str__(self) -> str:
        return f"{self.name}[{self.instance}]" if self.instance else self.name


@dataclass(frozen=True)
class Signal:
    """What numbers a field of a topic holds.

    Attributes:
        name: ours, as in the mapping.
        topic: name of the topic in the mapping.
        fields: paths; one to an array or object, or one to each number. Empty for the message itself.
        unit: as in the mapping; None for SI.
        axes: as in the mapping; None where it has none.
        order: of a quaternion in an array.
    """

    name: str
    topic: str
    fields: tuple[str, ...]
    unit: str | None
    axes: str | None
    order: str | None


@dataclass(frozen=True)
class DepthSignal:
    """Where the images are.

    Attributes:
        signal: topic, field and unit.
        no_return: "inf", "zero" or "nan": what stands where nothing returned.
        camera: intrinsics of images that are larger than the policy's, as in the mapping; None for the policy's own.
    """

    signal: Signal
    no_return: str
    camera: dict[str, Any] | None


@dataclass(frozen=True)
class Mapping:
    """From another stack's log to ours.

    Attributes:
        text: the whole mapping, as parsed.
        topics: by their name in the mapping.
        steps: name of the topic of which each message is a step.
        signals: by our name: "state", terms, quantities and outputs.
        depth: the images.
        at_reset: whether the first step followed a reset of the policy.
        mass_kg: divides a thrust in newtons; None where the mapping gives none.
    """

    text: dict[str, Any]
    topics: dict[str, Topic]
    steps: str
    signals: dict[str, Signal]
    depth: DepthSignal
    at_reset: bool
    mass_kg: float | None


def read_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        FlightLogError: it cannot be read, or is none by its schema.
    """
    return parse_mapping(read_yaml(path, FlightLogError), str(path))


def parse_mapping(data: dict[str, Any], where: str) -> Mapping:
    """Return a mapping of parsed YAML or JSON.

    Args:
        data: the mapping.
        where: it comes from, for messages.

    Raises:
        FlightLogError: it is none by its schema, or contradicts itself.
    """
    worst = best_match(_validator().iter_errors(data))
    if worst is not None:
        place = worst.json_path.replace("$", "mapping", 1)
        raise FlightLogError(f"{where}: {place}: {' '.join(worst.message.split())[:200]}")
    try:
        # YAML has .nan, which no bound of a schema excludes.
        json.dumps(data, allow_nan=False)
    except ValueError as error:
        raise FlightLogError(f"{where}: a number in it is not finite; give a finite one") from error
    signals = {
        name: _signal(name, entry)
        for group in (*[data.get(group, {}) for group in _GROUPS], {"state": data["state"]} if "state" in data else {})
        for name, entry in group.items()
    }
    depth = data["depth"]
    mapping = Mapping(
        text=data,
        topics={name: _topic(entry) for name, entry in data["topics"].items()},
        steps=data["steps"]["from"],
        signals=signals,
        depth=DepthSignal(_signal("depth", depth), depth["no_return"], depth.get("camera")),
        at_reset=data.get("begins") == "at reset",
        mass_kg=data.get("mass_kg"),
    )
    _check(mapping, where)
    return mapping


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def _topic(entry: dict[str, Any]) -> Topic:
    clock = entry.get("clock", {})
    offset = round(1e9 * clock.get("offset_s", 0.0))
    return Topic(entry["topic"], entry.get("instance", 0), Clock(clock.get("field"), clock.get("unit", "ns"), offset))


def _signal(name: str, entry: dict[str, Any]) -> Signal:
    field = entry.get("field", ())
    fields = (field,) if isinstance(field, str) else tuple(field)
    return Signal(name, entry["from"], fields, entry.get("unit"), entry.get("axes"), entry.get("order"))


def _check(mapping: Mapping, where: str) -> None:
    used = {"steps": mapping.steps, **{name: signal.topic for name, signal in mapping.signals.items()}}
    for name, topic in {**used, "depth": mapping.depth.signal.topic}.items():
        if topic not in mapping.topics:
            known = ", ".join(sorted(mapping.topics))
            raise FlightLogError(f"{where}: {name} comes from {topic!r}, which is none of its topics ({known})")
    thrust = mapping.signals.get("thrust")
    if thrust is not None and thrust.unit == "N" and mapping.mass_kg is None:
        raise FlightLogError(f"{where}: thrust is in newtons; give mass_kg, by which it is divided")
    if "command" in mapping.signals and thrust is not None:
        raise FlightLogError(f"{where}: it names both command and thrust; leave one of them out")
