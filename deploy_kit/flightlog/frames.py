"""The frames of a flight log's file: each whole record with its checksum, and what follows the last of them."""

import mmap
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from deploy_kit.onboard.log_format import FRAME, MAGIC, MARKER, checksum

MAX_JSON_BYTES = 4 << 20


class Frames:
    """Yields kind, payload and the payload's offset of each whole frame; then says what follows them.

    Args:
        memory: the file.

    Attributes:
        cut: what follows the last whole frame, None if nothing does.
        damaged: whether it is more than one torn frame.
        largest: bytes that no frame exceeds.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.cut: str | None = None
        self.damaged = False
        self.largest = MAX_JSON_BYTES
        self._memory, self._at = memory, len(MAGIC)

    def __iter__(self) -> Iterator[tuple[int, bytes, int]]:
        return self

    def __next__(self) -> tuple[int, bytes, int]:
        memory, start = self._memory, self._at
        left = len(memory) - start
        if left == 0:
            raise StopIteration
        if left < FRAME.size:
            self._stop(start, "a torn record", False)
        marker, kind, crc, size = FRAME.unpack_from(memory, start)
        begin, end = start + FRAME.size, start + FRAME.size + size
        if marker != MARKER:
            anything = self._anything_from(start)
            self._stop(start, "no record" if anything else "zeros", anything)
        if end > len(memory):
            self._stop(start, "a torn record", left > self.largest)
        payload = memory[begin:end]
        if checksum(kind, size, payload) != crc:
            self._stop(start, "a record with a wrong checksum", self._anything_from(end))
        self._at = end
        return kind, payload, begin

    def _anything_from(self, start: int) -> bool:
        """Return whether there is more than the zeros that a file system leaves which lost power."""
        return start < len(self._memory) and bool(np.frombuffer(self._memory[start:], np.uint8).any())

    def _stop(self, start: int, what: str, damaged: bool) -> NoReturn:
        left = len(self._memory) - start
        self.cut, self.damaged = f"{what} at byte {start}; the last {left} bytes were left out", damaged
        raise StopIteration
