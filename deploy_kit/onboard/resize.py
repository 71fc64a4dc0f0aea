"""From a depth camera's own image to the policy's, ray by ray: each pixel looks where it did in training."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .contract import OnboardContract
from .faults import Fault, OnboardFault
from .guards import is_finite


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera; pixel (row, column) covers [column, column + 1) × [row, row + 1), as in the contract.

    Attributes:
        width: columns.
        height: rows.
        fx: focal length, pixels.
        fy: focal length, pixels.
        cx: principal point, pixels from the left edge.
        cy: principal point, pixels from the top edge.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


class DepthResize:
    """Takes for each pixel of the policy's image the camera's pixel on the same ray.

    Nearest pixels, no means: the mean of a gate's bar and of what lies behind it is a depth at which nothing is.

    Args:
        contract: gives the policy's camera.
        camera: intrinsics of the rectified depth image, for example 640 × 480.

    Raises:
        OnboardFault: the contract knows no camera, the intrinsics make no sense, or the camera does not see all that
            the policy's does.
    """

    def __init__(self, contract: OnboardContract, camera: Intrinsics) -> None:
        wanted = contract.text.get("camera")
        if not isinstance(wanted, dict):
            raise OnboardFault(Fault.CONTRACT_INVALID, "the contract knows no camera: images cannot be resized by it")
        sizes, centre = (camera.width, camera.height, camera.fx, camera.fy), (camera.cx, camera.cy)
        if not (all(map(is_finite, (*sizes, *centre))) and min(sizes) > 0):
            raise OnboardFault(Fault.OPTIONS, f"no camera has {camera}")
        rows, columns = contract.image_shape
        if (rows, columns) != (wanted["height"], wanted["width"]):
            raise OnboardFault(Fault.CONTRACT_INVALID, "the contract's camera and its image differ in size")
        self._shape = camera.height, camera.width
        self._columns = _source(columns, wanted["fx"], wanted["cx"], camera.fx, camera.cx, camera.width, "columns")
        self._rows = _source(rows, wanted["fy"], wanted["cy"], camera.fy, camera.cy, camera.height, "rows")

    def __call__(self, depth: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the policy's image of a camera's image; type and unit stay.

        Raises:
            OnboardFault: the image has another size than the intrinsics say, or is no array.
        """
        if not isinstance(depth, np.ndarray):
            raise OnboardFault(Fault.DEPTH_TYPE, f"the camera's image is {type(depth).__name__}, give a numpy array")
        if depth.shape != self._shape:
            raise OnboardFault(Fault.DEPTH_SHAPE, f"the camera's image has shape {depth.shape}, expected {self._shape}")
        return depth[self._rows[:, None], self._columns]


def _source(
    count: int, focal: float, centre: float, camera_focal: float, camera_centre: float, size: int, name: str
) -> npt.NDArray[np.intp]:
    """Return the camera's index of each of the policy's columns, or rows."""
    slopes = (np.arange(count) + 0.5 - centre) / focal
    index: npt.NDArray[np.intp] = np.floor(camera_centre + camera_focal * slopes).astype(np.intp)
    if index[0] < 0 or index[-1] >= size:
        seen = [math.degrees(math.atan((edge - camera_centre) / camera_focal)) for edge in (0, size)]
        needed = [math.degrees(math.atan(slope)) for slope in (slopes[0], slopes[-1])]
        raise OnboardFault(
            Fault.OPTIONS,
            f"the camera's {name} see {seen[0]:.1f}° to {seen[1]:.1f}°, the policy's {needed[0]:.1f}° to "
            f"{needed[1]:.1f}°: this camera is too narrow, or its intrinsics are those of another resolution",
        )
    return index
