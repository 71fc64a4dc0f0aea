"""Rotations as arrays: quaternions (w, x, y, z) and matrices that take body axes to world axes."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def matrix_from_quaternion(quaternion: Array) -> Array:
    """Return matrices (..., 3, 3), body to world, of unit quaternions (..., 4)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
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
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a / 2), np.sin(a / 2)) for a in (roll, pitch, yaw))
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


def product(a: Array, b: Array) -> Array:
    """Return the quaternion of the rotation by b followed by that by a; both (4,)."""
    w, x, y, z = a
    return np.array(
        [
            w * b[0] - x * b[1] - y * b[2] - z * b[3],
            w * b[1] + x * b[0] + y * b[3] - z * b[2],
            w * b[2] - x * b[3] + y * b[0] + z * b[1],
            w * b[3] + x * b[2] - y * b[1] + z * b[0],
        ]
    )


def to_body(matrix: Array, vector: Array) -> Array:
    """Return world vectors (N, 3) in the body axes of matrices (N, 3, 3)."""
    rotated: Array = np.einsum("nji,nj->ni", matrix, vector)
    return rotated
