"""Rotations as arrays: quaternions (w, x, y, z) and matrices that take body axes to world axes."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def matrix_from_quaternion(quaternion: Array) -> Array:
    """Return matrices (..., 3, 3), body to world, of unit quaternions (..., 4)."""
    w, x, y, z = quaternion[..., 0], quaternion[..., 1], quaternion[..., 2], quaternion[..., 3]
    matrix = np.empty((*quaternion.shape[:-1], 3, 3))
    matrix[..., 0, 0] = 1 - 2 * (y * y + z * z)
    matrix[..., 0, 1] = 2 * (x * y - w * z)
    matrix[..., 0, 2] = 2 * (x * z + w * y)
    matrix[..., 1, 0] = 2 * (x * y + w * z)
    matrix[..., 1, 1] = 1 - 2 * (x * x + z * z)
    matrix[..., 1, 2] = 2 * (y * z - w * x)
    matrix[..., 2, 0] = 2 * (x * z - w * y)
    matrix[..., 2, 1] = 2 * (y * z + w * x)
    matrix[..., 2, 2] = 1 - 2 * (x * x + y * y)
    return matrix


def quaternion_from_euler(roll: float, pitch: float, yaw: float) -> Array:
    """Return the quaternion of Rz(yaw) · Ry(pitch) · Rx(roll), angles in rad."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    return np.array(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ]
    )


def matrix_from_euler(angles: Array) -> Array:
    """Return matrices (..., 3, 3) of Rz(yaw) · Ry(pitch) · Rx(roll) for angles (..., 3) = (roll, pitch, yaw), rad."""
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    matrix = np.empty((*angles.shape[:-1], 3, 3))
    matrix[..., 0, 0] = cy * cp
    matrix[..., 0, 1] = cy * sp * sr - sy * cr
    matrix[..., 0, 2] = cy * sp * cr + sy * sr
    matrix[..., 1, 0] = sy * cp
    matrix[..., 1, 1] = sy * sp * sr + cy * cr
    matrix[..., 1, 2] = sy * sp * cr - cy * sr
    matrix[..., 2, 0] = -sp
    matrix[..., 2, 1] = cp * sr
    matrix[..., 2, 2] = cp * cr
    return matrix


def quaternion_about_own_axes(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Return the quaternion of Rx(x) · Ry(y) · Rz(z), angles in rad."""
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(a / 2), math.sin(a / 2)) for a in (x, y, z))
    return (
        cx * cy * cz - sx * sy * sz,
        sx * cy * cz + cx * sy * sz,
        cx * sy * cz - sx * cy * sz,
        cx * cy * sz + sx * sy * cz,
    )


def to_body(matrix: Array, vector: Array) -> Array:
    """Return world vectors (N, 3) in the body axes of matrices (N, 3, 3)."""
    rotated: Array = np.einsum("nji,nj->ni", matrix, vector)
    return rotated
