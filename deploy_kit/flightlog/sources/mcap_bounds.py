"""Bounds of MCAP files: what their chunks may unpack to, checked before mcap unpacks any.

mcap takes a chunk's own word for its size, or no bound at all; a few kilobytes may stand for gigabytes.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from deploy_kit.errors import FlightLogError

MAX_RECORD_BYTES = 256 << 20
"""Largest record that is read, and largest size that a chunk may unpack to."""

MAX_RATIO = 200
"""How many times the file's size all chunks together may unpack to, beside one largest chunk."""

_CHUNK = 0x06
_RECORD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
"""First and last time, unpacked size, its CRC, length of the compression's name."""


def open_mcap(path: Path, file: BinaryIO) -> Any:
    """Return mcap's reader of a file whose chunks are within bounds.

    Args:
        path: the file, for messages.
        file: the open file.

    Raises:
        FlightLogError: a chunk is beyond them.
        Exception: whatever mcap raises on what is no MCAP file.
    """
    from mcap.reader import SeekingReader

    reader = SeekingReader(file, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES)
    size = os.fstat(file.fileno()).st_size
    summary = reader.get_summary()
    # What mcap goes by: the index where there is one, and the file from its beginning where there is none.
    indexed = [] if summary is None else [index.chunk_start_offset for index in summary.chunk_indexes]
    if len(set(indexed)) != len(indexed):
        raise FlightLogError(f"{path} is damaged: its index names a chunk twice; copy it again")
    total = 0
    for place in indexed or _chunks(file, size):
        total += _unpacked(path, file, place, size)
        if total > MAX_RATIO * size + MAX_RECORD_BYTES:
            raise FlightLogError(f"{path} has {size} bytes and unpacks to more than {total}; this is no flight's log")
    file.seek(0)
    return SeekingReader(file, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES)


def _chunks(file: BinaryIO, size: int) -> Iterator[int]:
    place = 8
    while place + _RECORD.size <= size:
        file.seek(place)
        kind, length = _RECORD.unpack(file.read(_RECORD.size))
        if kind == _CHUNK:
            yield place
        place += _RECORD.size + length


def _unpacked(path: Path, file: BinaryIO, place: int, size: int) -> int:
    """Return the size that a chunk unpacks to, which was checked."""
    damaged = FlightLogError(f"{path} is damaged: there is no whole chunk at byte {place}; copy it again")
    if not 0 <= place <= size:
        raise damaged
    file.seek(place)
    head = file.read(_RECORD.size + _CHUNK_HEAD.size)
    if len(head) < _RECORD.size + _CHUNK_HEAD.size or head[0] != _CHUNK:
        raise damaged
    _, _, claimed, _, name_length = _CHUNK_HEAD.unpack_from(head, _RECORD.size)
    if name_length > 64:
        raise damaged
    name = file.read(name_length)
    (length,) = struct.unpack("<Q", file.read(8))
    if file.tell() + length > size:
        raise damaged
    largest = max(claimed, _stored_size(name, file, length, min(claimed, MAX_RECORD_BYTES)))
    if largest > MAX_RECORD_BYTES:
        raise FlightLogError(
            f"{path}: the chunk at byte {place} unpacks to {largest} bytes or more, up to {MAX_RECORD_BYTES} are read"
        )
    return int(largest)


def _stored_size(name: bytes, file: BinaryIO, length: int, claimed: int) -> int:
    """Return what packed data says or shows of its size; for LZ4, which has no bound of its own, at most one more."""
    if name == b"zstd":
        import zstandard

        known = zstandard.get_frame_parameters(file.read(min(length, 32))).content_size
        # Without a size in the frame, mcap's call is bounded by what the chunk claims.
        return 0 if known == zstandard.CONTENTSIZE_UNKNOWN else int(known)
    if name == b"lz4":
        import lz4.frame  # type: ignore[import-untyped]  # it has no types

        unpacked = lz4.frame.LZ4FrameDecompressor().decompress(file.read(length), max_length=claimed + 1)
        return len(unpacked)
    return length
