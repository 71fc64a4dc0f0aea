"""ULog, which PX4 writes: topics by name and multi_id, times in microseconds since the autopilot's start."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.sources.message import Message, not_installed, unreadable


class UlogSource:
    """A ULog file.

    Args:
        path: the file.

    Raises:
        FlightLogError: it cannot be read.
        MissingDependencyError: pyulog is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            import pyulog  # noqa: F401 # asks whether it is there
        except ModuleNotFoundError as error:
            raise not_installed("pyulog") from error

    def topics(self) -> list[str]:
        """Return the names of its topics."""
        return sorted({data.name for data in self._read(None)})

    def messages(self, topics: set[str]) -> Iterator[Message]:
        """Yield the messages of these topics, topic by topic."""
        for data in self._read(sorted(topics)):
            columns = {str(name): np.asarray(values) for name, values in data.data.items()}
            get, times = _columns(columns), columns["timestamp"].astype(np.int64) * 1000
            for row, time_ns in enumerate(times.tolist()):
                yield Message(data.name, data.multi_id, time_ns, get(row))

    def _read(self, topics: list[str] | None) -> list[Any]:
        from deploy_kit.flightlog.sources.bounded_ulog import read_ulog

        try:
            # pyulog prints what it finds odd in a file; what matters is raised here.
            log = read_ulog(self._path, topics)
        except FlightLogError:
            raise
        # pyulog raises whatever a damaged file makes of it.
        except Exception as error:
            raise unreadable(self._path, error) from error
        if log.file_corruption:
            raise FlightLogError(f"{self._path} is damaged: pyulog finds corrupt packets; copy it again")
        return list(log.data_list)


def _columns(columns: dict[str, npt.NDArray[Any]]) -> Callable[[int], Callable[[str], Any]]:
    """Return what gives a row's getter: arrays, which ULog stores as name[0], name[1], …, are put together once."""
    arrays: dict[str, npt.NDArray[Any]] = {}

    def column(path: str) -> npt.NDArray[Any]:
        if path in columns:
            return columns[path]
        if path not in arrays:
            parts: list[npt.NDArray[Any]] = []
            while (part := columns.get(f"{path}[{len(parts)}]")) is not None:
                parts.append(part)
            if not parts:
                raise LookupError(path)
            arrays[path] = np.stack(parts, axis=1)
        return arrays[path]

    return lambda row: lambda path: column(path)[row]
