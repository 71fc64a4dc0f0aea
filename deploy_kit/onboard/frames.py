"""Frames of flight stacks and of the contract: the one place where they are converted.

The contract's axes are x forward, y left, z up for the body (FLU) and, for a world, x east, y north, z up (ENU), as in
ROS (REP 103). MAVLink, PX4 and ArduPilot have forward-right-down (FRD) and north-east-down (NED). Quaternions have the
real part first (w, x, y, z), turn body vectors into world ones, and are Hamilton's.
"""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_HALF = np.sqrt(0.5)
_ENU_FROM_NED = np.array([0.0, _HALF, _HALF, 0.0])
"""Half a turn about the axis midway between north and east."""

_FRD_FROM_FLU = np.array([0.0, 1.0, 0.0, 0.0])
"""Half a turn about the forward axis."""


def flu_from_frd(vector: npt.ArrayLike) -> Float64:
    """Return body vectors (..., 3) in forward-left-up axes; velocities, accelerations and body rates alike."""
    return np.asarray(vector, np.float64) * (1.0, -1.0, -1.0)


def frd_from_flu(vector: npt.ArrayLike) -> Float64:
    """Return body vectors (..., 3) in forward-right-down axes."""
    return flu_from_frd(vector)


def enu_from_ned(vector: npt.ArrayLike) -> Float64:
    """Return world vectors (..., 3) in east-north-up axes."""
    return np.asarray(vector, np.float64)[..., [1, 0, 2]] * (1.0, 1.0, -1.0)


def ned_from_enu(vector: npt.ArrayLike) -> Float64:
    """Return world vectors (..., 3) in north-east-down axes."""
    return enu_from_ned(vector)


def flu_to_enu_from_frd_to_ned(quaternion: npt.ArrayLike) -> Float64:
    """Return the attitude FLU → ENU (w, x, y, z) of an attitude FRD → NED, as ATTITUDE_QUATERNION gives it."""
    return multiply(multiply(_ENU_FROM_NED, np.asarray(quaternion, np.float64)), _FRD_FROM_FLU)


def frd_to_ned_from_flu_to_enu(quaternion: npt.ArrayLike) -> Float64:
    """Return the attitude FRD → NED (w, x, y, z) of an attitude FLU → ENU, as SET_ATTITUDE_TARGET takes it."""
    return flu_to_enu_from_frd_to_ned(quaternion)


def real_first(quaternion: npt.ArrayLike) -> Float64:
    """Return (w, x, y, z) of (x, y, z, w), which ROS and scipy have."""
    return np.roll(np.asarray(quaternion, np.float64), 1, axis=-1)


def real_last(quaternion: npt.ArrayLike) -> Float64:
    """Return (x, y, z, w) of (w, x, y, z)."""
    return np.roll(np.asarray(quaternion, np.float64), -1, axis=-1)


def multiply(a: Float64, b: Float64) -> Float64:
    """Return the product of two quaternions (4,): b's turn first, then a's."""
    w, v, t, u = a[0], a[1:], b[0], b[1:]
    return np.concatenate([[w * t - v @ u], w * u + t * v + np.cross(v, u)])


def rotation_matrix(quaternion: npt.ArrayLike) -> Float64:
    """Return the matrix (3, 3) that turns body vectors into world ones; the quaternion may be of any length above 0.

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    q = np.asarray(quaternion, np.float64)
    length = float(np.linalg.norm(q))
    if not 0 < length < np.inf:
        raise ValueError(f"the quaternion {q.tolist()} has no direction")
    w, x, y, z = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
