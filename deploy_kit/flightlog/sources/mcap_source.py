"""MCAP files: JSON messages, and ROS 2 messages by the definitions that the file holds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy_kit.errors import DeployKitError, FlightLogError
from deploy_kit.flightlog.sources.mcap_bounds import open_mcap
from deploy_kit.flightlog.sources.message import Message, getter, not_installed, unreadable


class McapSource:
    """An MCAP file.

    Args:
        path: the file.

    Raises:
        FlightLogError: it cannot be read.
        MissingDependencyError: mcap is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoders: dict[int, Callable[[bytes], Any]] = {}
        try:
            import mcap.reader  # noqa: F401 # asks whether it is there
        except ModuleNotFoundError as error:
            raise not_installed("mcap") from error

    def topics(self) -> list[str]:
        """Return the names of its topics."""
        return sorted({channel.topic for _, channel, _ in self._records(None, headers_alone=True)})

    def messages(self, topics: set[str]) -> Iterator[Message]:
        """Yield the messages of these topics by their log time."""
        for schema, channel, message in self._records(topics):
            try:
                if channel.id not in self._decoders:
                    self._decoders[channel.id] = self._decoder(schema, channel)
                content = self._decoders[channel.id](message.data)
            except DeployKitError:
                raise
            # A decoder raises whatever a stranger's message makes of it.
            except Exception as error:
                raise FlightLogError(
                    f"{self._path}: a message of {channel.topic} cannot be decoded ({type(error).__name__})"
                ) from error
            yield Message(channel.topic, 0, message.log_time, getter(content))

    def _records(self, topics: set[str] | None, headers_alone: bool = False) -> Iterator[tuple[Any, Any, Any]]:
        try:
            with self._path.open("rb") as file:
                reader = open_mcap(self._path, file)
                summary = reader.get_summary() if headers_alone else None
                if summary is not None:
                    yield from ((None, channel, None) for channel in summary.channels.values())
                    return
                yield from reader.iter_messages(topics=None if topics is None else sorted(topics))
        except FlightLogError:
            raise
        # So does mcap on a damaged file.
        except Exception as error:
            raise unreadable(self._path, error) from error

    def _decoder(self, schema: Any, channel: Any) -> Callable[[bytes], Any]:
        if channel.message_encoding == "json":
            return json.loads
        if channel.message_encoding == "cdr" and schema is not None and schema.encoding == "ros2msg":
            return _ros_decoder(schema)
        encoding = f"{channel.message_encoding} by {schema.encoding if schema is not None else 'no schema'}"
        raise FlightLogError(
            f"{self._path}: messages of {channel.topic} are encoded as {encoding}; json, and cdr by ros2msg, are read"
        )


def _ros_decoder(schema: Any) -> Callable[[bytes], Any]:
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ModuleNotFoundError as error:
        raise not_installed("rosbags") from error
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(schema.data.decode(), schema.name))
    return lambda data: store.deserialize_cdr(data, schema.name)
