"""The drone's camera as viewers take it: pose in the world, field of view, colours of its depth."""

import math

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps

from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.task.racing import RACING_TASK, Camera

_CAMERA = RACING_TASK.camera


def camera_rotation(camera: Camera = _CAMERA) -> npt.NDArray[np.float64]:
    """Return the matrix (3, 3) from camera axes (x right, y down, z ahead) to body axes (x ahead, y left, z up)."""
    cos, sin = math.cos(camera.tilt), math.sin(camera.tilt)
    return np.array([[0.0, sin, cos], [-1.0, 0.0, 0.0], [0.0, -cos, sin]])


def camera_pose(
    position: npt.NDArray[np.float64], quaternion: npt.NDArray[np.float64], camera: Camera = _CAMERA
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where the camera is and how it is turned.

    Args:
        position: of the drone, (3,), world frame, m.
        quaternion: attitude of the drone, (w, x, y, z), body to world.
        camera: of the drone.

    Returns:
        Its optical centre (3,), m, and its quaternion (w, x, y, z), camera axes to world.
    """
    body = matrix_from_quaternion(quaternion)
    return position + body @ np.array(camera.position), quaternion_from_matrix(body @ camera_rotation(camera))


def quaternion_from_matrix(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the unit quaternion (w, x, y, z) of a rotation matrix (3, 3)."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z])


def vertical_fov(camera: Camera = _CAMERA) -> float:
    """Return the angle from the image's upper to its lower edge, rad."""
    return math.atan(camera.cy / camera.fy) + math.atan((camera.height - camera.cy) / camera.fy)


def coloured(depth: npt.NDArray[np.floating], image_shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a depth image, scaled to [0, 1], as colours (rows, columns, 3): near is red, far is blue."""
    level = np.nan_to_num(np.asarray(depth, np.float32).reshape(image_shape)).clip(0, 1)
    return np.asarray(colormaps["turbo_r"](level)[:, :, :3] * 255).astype(np.uint8)
