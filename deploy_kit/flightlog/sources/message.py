"""A message of another stack's log, and how a path finds a value in it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deploy_kit.errors import FlightLogError, MissingDependencyError
from deploy_kit.text import one_line

_INDEX = re.compile(r"^(\w+)(?:\[(\d+)\])?$")


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        topic: its name in the log.
        instance: ULog's multi_id, 0 elsewhere.
        time_ns: the log's own time of it.
        get: returns the value under a path, the message itself under an empty one; raises LookupError.
    """

    topic: str
    instance: int
    time_ns: int
    get: Callable[[str], Any]


class Source(Protocol):
    """A log of another stack."""

    def topics(self) -> list[str]:
        """Return the names of its topics."""

    def messages(self, topics: set[str]) -> Iterator[Message]:
        """Yield the messages of these topics, in the log's order within each topic."""


def getter(root: Any) -> Callable[[str], Any]:
    """Return what finds values in nested objects: mappings, sequences, attributes."""

    def get(path: str) -> Any:
        value = root
        for part in path.split(".") if path else ():
            match = _INDEX.match(part)
            if match is None:
                raise LookupError(part)
            name, index = match.groups()
            value = _member(value, name)
            if index is not None:
                value = value[int(index)]
        return value

    return get


def _member(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value[name]
    if name.startswith("__") or not hasattr(value, name):
        raise LookupError(name)
    return getattr(value, name)


def unreadable(path: Path, error: Exception) -> FlightLogError:
    """Return the error for a file that its library cannot read."""
    return FlightLogError(f"{path} cannot be read: {type(error).__name__}: {one_line(error)}")


def not_installed(package: str) -> MissingDependencyError:
    """Return the error for a library that is not there."""
    return MissingDependencyError(f'{package} is not installed: pip install "deploy-kit[logs]"')
