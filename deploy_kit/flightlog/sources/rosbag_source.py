"""rosbag2: a folder with metadata.yaml, or a database file of one, by the message definitions inside or ROS 2's own."""

from collections.abc import Iterator
from pathlib import Path

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.sources.message import Message, getter, not_installed, unreadable


class RosbagSource:
    """A rosbag2.

    Args:
        path: folder, or .db3 file.

    Raises:
        FlightLogError: it cannot be read.
        MissingDependencyError: rosbags is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            import rosbags.highlevel  # noqa: F401 # asks whether it is there
        except ModuleNotFoundError as error:
            raise not_installed("rosbags") from error

    def topics(self) -> list[str]:
        """Return the names of its topics."""
        from rosbags.rosbag2 import Reader

        try:
            with Reader(self._path) as reader:
                return sorted({connection.topic for connection in reader.connections})
        # rosbags raises whatever a damaged file makes of it.
        except Exception as error:
            raise unreadable(self._path, error) from error

    def messages(self, topics: set[str]) -> Iterator[Message]:
        """Yield the messages of these topics by their log time."""
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        try:
            # Bags of ROS 2 Humble and before hold no definitions.
            with AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
                connections = [connection for connection in reader.connections if connection.topic in topics]
                for connection, time_ns, data in reader.messages(connections=connections) if connections else ():
                    message = reader.deserialize(data, connection.msgtype)
                    yield Message(connection.topic, 0, time_ns, getter(message))
        except FlightLogError:
            raise
        except Exception as error:
            raise unreadable(self._path, error) from error
