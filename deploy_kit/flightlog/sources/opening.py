"""Tells what kind of log a file or folder is."""

from pathlib import Path

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.sources.mcap_source import McapSource
from deploy_kit.flightlog.sources.message import Source
from deploy_kit.flightlog.sources.rosbag_source import RosbagSource
from deploy_kit.flightlog.sources.ulog_source import UlogSource

MCAP_MAGIC = b"\x89MCAP0\r\n"
_ULOG_MAGIC = b"ULog\x01\x12\x35"
_SQLITE_MAGIC = b"SQLite format 3\x00"


def open_source(path: Path) -> Source:
    """Open a log of another stack, by its content.

    Raises:
        FlightLogError: it cannot be read, or is of an unknown kind.
        MissingDependencyError: the library that reads it is not installed.
    """
    if path.is_dir():
        if (path / "metadata.yaml").is_file():
            return RosbagSource(path)
        raise FlightLogError(f"{path} is a folder without metadata.yaml, so that it is no rosbag2")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise FlightLogError(f"{path} cannot be read: {error.strerror}") from error
    for magic, kind in ((MCAP_MAGIC, McapSource), (_ULOG_MAGIC, UlogSource), (_SQLITE_MAGIC, RosbagSource)):
        if head.startswith(magic):
            source: Source = kind(path)
            return source
    raise FlightLogError(f"{path} is neither MCAP, nor ULog, nor a rosbag2 (a folder with metadata.yaml, or .db3)")
