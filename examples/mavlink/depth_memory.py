"""Depth images from one process to another through a file in memory, since MAVLink carries none.

The camera's process writes, the companion reads the newest whole image. Two slots take turns; a checksum over image
and time tells a slot that is being written from a whole one, on every processor.
"""

import mmap
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

_HEADER = struct.Struct("<8sIIQ")
"""Magic, rows, columns, number of the newest image (0: none yet)."""

_SLOT = struct.Struct("<QdI")
"""Number of the image, its time, checksum of both and the pixels."""

_MAGIC = b"DKDEPTH1"
_NUMBER_AT = _HEADER.size - 8


class DepthMemory:
    """A file that holds the newest depth image.

    Args:
        path: of the file, best on a memory file system such as /dev/shm.
        shape: (rows, columns) to make the file anew; None to open one that is there.

    Attributes:
        shape: (rows, columns).

    Raises:
        ValueError: the file is not one of this kind.
    """

    def __init__(self, path: Path, shape: tuple[int, int] | None = None) -> None:
        if shape is not None:
            size = _HEADER.size + 2 * (_SLOT.size + 4 * shape[0] * shape[1])
            path.write_bytes(_HEADER.pack(_MAGIC, *shape, 0).ljust(size, b"\0"))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        if len(self._memory) < _HEADER.size:
            raise ValueError(f"{path} holds no depth images")
        magic, rows, columns, _ = _HEADER.unpack_from(self._memory)
        self.shape = (rows, columns)
        self._slot = _SLOT.size + 4 * rows * columns
        if magic != _MAGIC or len(self._memory) != _HEADER.size + 2 * self._slot:
            raise ValueError(f"{path} holds no depth images")

    def write(self, image: npt.NDArray[np.floating], time: float) -> None:
        """Put in an image.

        Args:
            image: (rows, columns) metres along the optical axis, +inf where nothing returned.
            time: when it was taken, s, on the clock of the companion.

        Raises:
            ValueError: the image has another shape.
        """
        if image.shape != self.shape:
            raise ValueError(f"the image has shape {image.shape}, this memory is for {self.shape}")
        number = self._newest() + 1
        pixels = np.ascontiguousarray(image, "<f4").tobytes()
        at = _HEADER.size + number % 2 * self._slot
        self._memory[at + _SLOT.size : at + self._slot] = pixels
        _SLOT.pack_into(self._memory, at, number, time, _checksum(number, time, pixels))
        struct.pack_into("<Q", self._memory, _NUMBER_AT, number)

    def read(self) -> tuple[Image, float] | None:
        """Return a copy of the newest image and its time, None if there is none yet.

        A writer that is quicker than two copies here leaves no whole image; then there is none either.
        """
        for _ in range(3):
            number = self._newest()
            if number == 0:
                return None
            at = _HEADER.size + number % 2 * self._slot
            found, time, checksum = _SLOT.unpack_from(self._memory, at)
            pixels = self._memory[at + _SLOT.size : at + self._slot]
            if found == number and checksum == _checksum(number, time, pixels):
                return np.frombuffer(pixels, "<f4").reshape(self.shape).astype(np.float32), time
        return None

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self._memory.close()

    def _newest(self) -> int:
        number: int = struct.unpack_from("<Q", self._memory, _NUMBER_AT)[0]
        return number


def _checksum(number: int, time: float, pixels: bytes) -> int:
    return zlib.crc32(pixels, zlib.crc32(struct.pack("<Qd", number, time)))
