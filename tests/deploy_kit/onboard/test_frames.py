import numpy as np
import pytest

from deploy_kit.onboard import frames

ROOT = np.sqrt(0.5)


def turned(quaternion, vector):
    return frames.rotation_matrix(quaternion) @ np.array(vector)


def test_vectors_by_name():
    """Forward, right, down and north, east, down: what each axis is in the contract's."""
    np.testing.assert_array_equal(frames.flu_from_frd([1, 2, 3]), [1, -2, -3])
    np.testing.assert_array_equal(frames.enu_from_ned([1, 2, 3]), [2, 1, -3])
    np.testing.assert_array_equal(
        frames.ned_from_enu(frames.enu_from_ned([[1, 2, 3], [4, 5, 6]])), [[1, 2, 3], [4, 5, 6]]
    )
    np.testing.assert_array_equal(frames.frd_from_flu(frames.flu_from_frd([1, 2, 3])), [1, 2, 3])


@pytest.mark.parametrize(
    ("attitude", "forward", "left", "up"),
    [
        # FRD → NED identity: level, nose to the north.
        ([1, 0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]),
        # Yaw of +90° in NED turns the nose from north to east.
        ([ROOT, 0, 0, ROOT], [1, 0, 0], [0, 1, 0], [0, 0, 1]),
        # Pitch of +90° in FRD lifts the nose.
        ([ROOT, 0, ROOT, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0]),
        # Roll of +90° in FRD lowers the right side: left points up.
        ([ROOT, ROOT, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]),
    ],
)
def test_attitudes_point_where_they_should(attitude, forward, left, up):
    quaternion = frames.flu_to_enu_from_frd_to_ned(attitude)
    for axis, expected in zip(np.eye(3), (forward, left, up), strict=True):
        np.testing.assert_allclose(turned(quaternion, axis), expected, atol=1e-12)


def test_attitude_there_and_back_is_the_same_turn():
    for quaternion in np.random.default_rng(0).normal(size=(20, 4)):
        there = frames.flu_to_enu_from_frd_to_ned(quaternion)
        back = frames.frd_to_ned_from_flu_to_enu(there)
        np.testing.assert_allclose(frames.rotation_matrix(back), frames.rotation_matrix(quaternion), atol=1e-12)
        vector = np.array([0.3, -1.2, 2.0])
        np.testing.assert_allclose(
            turned(there, frames.flu_from_frd(vector)), frames.enu_from_ned(turned(quaternion, vector)), atol=1e-12
        )


def test_order_of_the_real_part():
    np.testing.assert_array_equal(frames.real_first([1, 2, 3, 4]), [4, 1, 2, 3])
    np.testing.assert_array_equal(frames.real_last(frames.real_first([[1, 2, 3, 4]])), [[1, 2, 3, 4]])


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]])
def test_quaternion_without_a_direction_is_refused(bad):
    with pytest.raises(ValueError, match="no direction"):
        frames.rotation_matrix(bad)
