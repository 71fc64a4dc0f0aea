"""Reads ULog files with pyulog within bounds: what a file may make pyulog read, keep and expand.

pyulog reads what a file tells it to: types within types that stand for any number of fields, and places to go back to.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pyulog import ULog

from deploy_kit.errors import FlightLogError

MAX_FILE_BYTES = 1 << 30
"""Largest ULog file that is read; pyulog holds all of it in memory."""

MAX_FIELDS = 1 << 18
"""Most numbers that the messages of all topics together hold, each topic's message once."""

MAX_NOTES = 1 << 20
"""Most messages beside the topics' own: texts, parameters, dropouts."""

_READS = 4
"""How many times the file's size pyulog may read, since it looks for a place to go on at after damage."""


class _Budget:
    def __init__(self, path: Path) -> None:
        self.path, self.fields, self.notes = path, 0, 0

    def spend_fields(self, count: int) -> None:
        self.fields += count
        if self.fields > MAX_FIELDS:
            raise FlightLogError(f"{self.path}: its topics have more than {MAX_FIELDS} fields; this is no flight's log")

    def spend_note(self) -> None:
        self.notes += 1
        if self.notes > MAX_NOTES:
            raise FlightLogError(f"{self.path} has more than {MAX_NOTES} texts and parameters; this is no flight's log")


class _BoundedFile:
    """The file as pyulog sees it."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._left = path, file, _READS * size
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        # What is read at the file's end counts too.
        self._left -= max(len(data), 1)
        if self._left < 0:
            raise FlightLogError(f"{self._path} is damaged: it sends its reader back again and again; copy it again")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_ulog(path: Path, topics: list[str] | None) -> Any:
    """Return pyulog's ULog of a file.

    Args:
        path: the file.
        topics: names of those to keep; None for all.

    Raises:
        FlightLogError: it is beyond a bound.
        Exception: whatever pyulog raises on what is no ULog file.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FlightLogError(f"{path} has {size} bytes; ULog files up to {MAX_FILE_BYTES} bytes are read: cut it")
    with _BoundedFile(path, path.open("rb"), size) as file:
        return _bounded(_Budget(path))(file, topics)


def _bounded(budget: _Budget) -> Any:
    """Return ULog with a budget; it makes each message by a class that it finds in itself."""

    class Subscription(ULog._MessageAddLogged):  # type: ignore[misc] # pyulog has no types
        def _parse_nested_type(self, prefix: str, name: str, formats: dict[str, Any]) -> None:
            budget.spend_fields(1 + sum(max(size, 1) for _, size, _ in formats[name].fields))
            super()._parse_nested_type(prefix, name, formats)

    def counted(base: Any) -> Any:
        def create(*arguments: Any, **options: Any) -> Any:
            budget.spend_note()
            return base(*arguments, **options)

        return staticmethod(create)

    names = ("_MessageInfo", "_MessageParameterDefault", "MessageLogging", "MessageLoggingTagged", "MessageDropout")
    return type(
        "BoundedULog",
        (ULog,),
        {"_MessageAddLogged": Subscription, **{name: counted(getattr(ULog, name)) for name in names}},
    )
