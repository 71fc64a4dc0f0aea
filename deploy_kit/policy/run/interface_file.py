"""``params/interface.yaml``: a task's own description of what its policies read and command.

`docs/policies.md` shows one. A task that deploy-kit flies may give the same mapping from a method `interface()`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.run.env_file import finite
from deploy_kit.policy.run.task_meaning import (
    INTERFACE_FILE,
    ActionMeaning,
    SourcedNumber,
    TaskTiming,
    TermMeaning,
)
from deploy_kit.text import did_you_mean

LAST_ACTION = "last_action"
"""Quantity of the term that holds the action of the step before, as the network gave it."""

TIMING_UNITS = {
    "policy_period_s": "s",
    "physics_period_s": "s",
    "decimation": "1",
    "action_latency_steps": "policy steps",
}

_ROOT = (*TIMING_UNITS, "observations", "actions")
_TERM = (
    *("name", "size", "history", "quantity", "unit", "frame", "description"),
    *("components", "joints", "offset", "clip", "scale", "low", "high"),
)
_ACTIONS = (
    *("names", "joints", "quantity", "unit", "scale", "offset", "clip"),
    *("default_positions", "stiffness", "damping"),
)
_MOST = 1 << 20
"""Larger sizes are mistakes."""


@dataclass(frozen=True)
class TaskInterface:
    """What an interface file says.

    Attributes:
        groups: terms by observation group, in order.
        actions: what the actions do; None where the file does not say.
        timing: the task's clock.
    """

    groups: Mapping[str, tuple[TermMeaning, ...]]
    actions: ActionMeaning | None
    timing: TaskTiming


def read_interface(data: Mapping[str, Any], where: str = INTERFACE_FILE) -> TaskInterface:
    """Return what an interface file says.

    Args:
        data: the parsed file.
        where: what to call it in messages and as a source.

    Raises:
        CheckpointError: a key is unknown, or a value is not what it should be.
    """
    reader = _Reader(where)
    reader.require_keys("the file", data, _ROOT)
    observations = reader.mapping("observations", data.get("observations", {}))
    groups = {str(name): reader.terms(f"observations.{name}", terms) for name, terms in observations.items()}
    actions = data.get("actions")
    timing = {
        name: None if data.get(name) is None else SourcedNumber(reader.positive(name, data[name]), unit, where)
        for name, unit in TIMING_UNITS.items()
    }
    return TaskInterface(
        groups, None if actions is None else reader.actions(reader.mapping("actions", actions)), TaskTiming(**timing)
    )


class _Reader:
    """Reads values and names their place where they do not fit."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _fault(self, place: str, value: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: {place} is {value!r:.80}, not {wanted}")

    def require_keys(self, place: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in data:
            if key not in known:
                raise CheckpointError(
                    f"{self._where}: {place} has the unknown key {key!r}{did_you_mean(str(key), known)}"
                )

    def mapping(self, place: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._fault(place, value, "a mapping")
        return value

    def positive(self, place: str, value: Any) -> float:
        number = finite(value)
        zero_fits = place == "action_latency_steps"
        if number is None or number < 0 or (number == 0 and not zero_fits):
            raise self._fault(place, value, "a number above 0")
        if place in ("decimation", "action_latency_steps") and not number.is_integer():
            raise self._fault(place, value, "a whole number")
        return number

    def count(self, place: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise self._fault(place, value, "a whole number of at least 1")
        return value

    def text(self, place: str, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise self._fault(place, value, "a text")
        return value

    def names(self, place: str, value: Any, size: int | None = None) -> tuple[str, ...] | None:
        if value is None:
            return None
        fits = isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)
        if not fits or len(set(value)) != len(value) or (size is not None and len(value) != size):
            wanted = "a list of different names" if size is None else f"a list of {size} different names"
            raise self._fault(place, value, wanted)
        return tuple(value)

    def numbers(self, place: str, value: Any, size: int) -> tuple[float, ...] | None:
        if value is None:
            return None
        several = isinstance(value, (list, tuple))
        found = [finite(item) for item in (value if several else [value] * size)]
        if len(found) != size or None in found:
            raise self._fault(place, value, f"a finite number, or {size} of them")
        return tuple(number for number in found if number is not None)

    def pair(self, place: str, value: Any) -> tuple[float, float]:
        found = self.numbers(place, value if isinstance(value, (list, tuple)) else [value], 2)
        assert found is not None
        low, high = found
        if low >= high:
            raise self._fault(place, value, "two numbers in rising order")
        return low, high

    def terms(self, place: str, value: Any) -> tuple[TermMeaning, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise self._fault(place, value, "a list of terms")
        terms: list[TermMeaning] = []
        for index, item in enumerate(value):
            entry = self.mapping(f"{place}[{index}]", item)
            terms.append(self._term(f"{place}[{index}]", entry, terms[-1].stop if terms else 0))
        if len({term.name for term in terms}) != len(terms):
            raise self._fault(place, [term.name for term in terms], "a list of terms with different names")
        return tuple(terms)

    def _term(self, place: str, item: Mapping[str, Any], start: int) -> TermMeaning:
        self.require_keys(place, item, _TERM)
        name = self.text(f"{place}.name", item.get("name"))
        if not name:
            raise self._fault(f"{place}.name", name, "a name")
        place = place.rpartition("[")[0] + f".{name}"
        joints = self.names(f"{place}.joints", item.get("joints"))
        components = self.names(f"{place}.components", item.get("components"))
        if joints is not None and components is not None:
            raise self._fault(place, "both joints and components", "one of them")
        named = joints or components
        size = self.count(f"{place}.size", item.get("size", None if named is None else len(named)))
        if named is not None and len(named) != size:
            raise self._fault(f"{place}.size", size, f"{len(named)}, as many as it names")
        history = self.count(f"{place}.history", item.get("history", 1))
        scale = self.numbers(f"{place}.scale", item.get("scale"), size)
        if scale is not None and 0.0 in scale:
            raise self._fault(f"{place}.scale", item.get("scale"), "other than 0, which would hide the quantity")
        low, high = (self.numbers(f"{place}.{key}", item.get(key), size) for key in ("low", "high"))
        if (low is None) != (high is None) or (low and high and any(a > b for a, b in zip(low, high, strict=True))):
            raise self._fault(place, f"low {low}, high {high}", "a range")
        return TermMeaning(
            name=name,
            start=start,
            stop=start + size * history,
            history=history,
            quantity=self.text(f"{place}.quantity", item.get("quantity")),
            unit=self.text(f"{place}.unit", item.get("unit")),
            frame=self.text(f"{place}.frame", item.get("frame")),
            description=self.text(f"{place}.description", item.get("description")),
            components=named,
            joints=joints is not None,
            offset=self.numbers(f"{place}.offset", item.get("offset"), size),
            clip=None if item.get("clip") is None else self.pair(f"{place}.clip", item["clip"]),
            scale=scale,
            low=low,
            high=high,
            source=f"{self._where}: {place}",
        )

    def actions(self, item: Mapping[str, Any]) -> ActionMeaning:
        self.require_keys("actions", item, _ACTIONS)
        joints, names = (self.names(f"actions.{key}", item.get(key)) for key in ("joints", "names"))
        if joints is not None and names is not None:
            raise self._fault("actions", "both joints and names", "one of them")
        named = joints or names
        if named is None:
            raise self._fault("actions", "without joints and names", "complete: give joints, or names")
        numbers = {
            key: self.numbers(f"actions.{key}", item.get(key), len(named))
            for key in ("scale", "offset", "default_positions", "stiffness", "damping")
        }
        if (numbers["scale"] is None) != (numbers["offset"] is None):
            raise self._fault("actions", "scale and offset", "both given, or neither")
        return ActionMeaning(
            names=named,
            joints=joints is not None,
            quantity=self.text("actions.quantity", item.get("quantity")),
            unit=self.text("actions.unit", item.get("unit")),
            limit=None,
            limit_source=None,
            clip=self._clips(item.get("clip"), len(named)),
            source=f"{self._where}: actions",
            **numbers,
        )

    def _clips(self, value: Any, size: int) -> tuple[tuple[float, float], ...] | None:
        if value is None:
            return None
        each = (
            value
            if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple))
            else [value] * size
        )
        if len(each) != size:
            raise self._fault("actions.clip", value, f"a pair, or {size} of them")
        return tuple(self.pair("actions.clip", item) for item in each)
