"""Depth images of another stack's log, as our flight log holds them."""

import base64
import binascii
import tempfile
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.mapping import DepthSignal

_ENCODINGS = {"32FC1": "f4", "16UC1": "u2", "mono16": "u2", "64FC1": "f8"}
"""Of sensor_msgs/Image and foxglove.RawImage: what a pixel is."""

_MAX_PIXELS = 1 << 24

Image = npt.NDArray[Any]


def decode_image(value: Any, depth: DepthSignal, shape: tuple[int, int]) -> Image:
    """Return an image (rows, columns): float metres, or uint16 millimetres.

    Args:
        value: an image message, or an array of numbers.
        depth: says what the numbers mean.
        shape: (rows, columns) of an array that does not say.

    Raises:
        FlightLogError: it is no image, or its numbers cannot be in that unit.
    """
    if depth.camera is not None:
        shape = depth.camera["height"], depth.camera["width"]
    image = _from_message(value) if _member(value, "encoding") is not None else _from_numbers(value, shape)
    if image.shape != shape:
        hint = "" if depth.camera is not None else "; give the camera's intrinsics in the mapping to resize them"
        raise FlightLogError(f"the images have shape {image.shape}, expected {shape}{hint}")
    if depth.signal.unit == "m":
        if image.dtype.kind != "f":
            raise FlightLogError(f"the images are {image.dtype}, which are no metres: give the unit mm")
        return image
    return image if image.dtype == np.uint16 else _in_millimetres(image)


def _in_millimetres(image: Image) -> Image:
    if image.dtype.kind == "f":
        metres: Image = (image * np.float32(1e-3)).astype(np.float32)
        return metres
    if image.min(initial=0) < 0 or image.max(initial=0) > np.iinfo(np.uint16).max:
        raise FlightLogError("an image has millimetres below 0 or above 65535")
    return image.astype(np.uint16)


def _from_message(message: Any) -> Image:
    encoding = str(_member(message, "encoding"))
    if encoding not in _ENCODINGS:
        raise FlightLogError(f"images are encoded as {encoding[:40]!r}; {', '.join(_ENCODINGS)} are read")
    kind = np.dtype(_ENCODINGS[encoding])
    try:
        height, width, step = (int(_member(message, name)) for name in ("height", "width", "step"))
        data = _bytes(_member(message, "data"))
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise FlightLogError(f"an image's height, width, step or data is unusable ({error})") from error
    if min(height, width) < 1 or height * width > _MAX_PIXELS or step < width * kind.itemsize:
        raise FlightLogError(f"an image has {height} rows of {width} pixels in {step} bytes")
    if len(data) != height * step:
        raise FlightLogError(f"an image has {len(data)} bytes, its height and step mean {height * step}")
    big = bool(_member(message, "is_bigendian"))
    rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * kind.itemsize]
    return np.ascontiguousarray(rows).view(kind.newbyteorder(">" if big else "<")).astype(kind)


def _bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return base64.b64decode(data, validate=True)
    return np.asarray(data, np.uint8).tobytes()


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _from_numbers(value: Any, shape: tuple[int, int]) -> Image:
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "fiu":
            numbers = numbers.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise FlightLogError(f"the image is neither an image message nor an array of numbers ({error})") from error
    if numbers.ndim == 2:
        return numbers
    if numbers.size != shape[0] * shape[1]:
        raise FlightLogError(f"the images have {numbers.size} numbers, expected {shape[0]} rows of {shape[1]}")
    return numbers.reshape(shape)


class ImageStore:
    """Keeps images of one shape and type in a temporary file, with their times in memory. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 # closed by __exit__
        self._kind: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._size = 0
        self.times_ns: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, time_ns: int, image: Image) -> None:
        """Keep an image.

        Raises:
            FlightLogError: it is of another shape or type than those before.
        """
        kind = (image.shape, image.dtype)
        if self._kind is None:
            self._kind, self._size = kind, image.nbytes
        if kind != self._kind:
            raise FlightLogError(f"the images change from {self._kind} to {kind} within the log")
        self._file.write(np.ascontiguousarray(image).tobytes())
        self.times_ns.append(time_ns)

    def __getitem__(self, index: int) -> Image:
        assert self._kind is not None
        shape, kind = self._kind
        self._file.seek(index * self._size)
        return np.frombuffer(self._file.read(self._size), kind).reshape(shape).copy()
