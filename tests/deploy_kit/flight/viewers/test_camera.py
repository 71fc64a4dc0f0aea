import numpy as np
import pytest

from deploy_kit.flight.viewers.camera import camera_pose, camera_rotation, coloured, vertical_fov
from deploy_kit.sim.rotations import matrix_from_quaternion, quaternion_from_euler
from deploy_kit.task.racing import RACING_TASK

TILT = RACING_TASK.camera.tilt


def test_the_camera_looks_ahead_and_up_with_the_ground_below():
    rotation = camera_rotation()
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    right, down, ahead = rotation.T
    assert np.allclose(ahead, [np.cos(TILT), 0.0, np.sin(TILT)])
    assert np.allclose(right, [0.0, -1.0, 0.0])
    assert down[2] < 0


def test_the_pose_turns_with_the_drone():
    attitude = quaternion_from_euler(0.2, -0.3, 1.2)
    centre, turned = camera_pose(np.array([1.0, 2.0, 3.0]), attitude)
    body = matrix_from_quaternion(attitude)
    assert np.allclose(centre, np.array([1.0, 2.0, 3.0]) + body @ RACING_TASK.camera.position)
    assert np.allclose(matrix_from_quaternion(turned), body @ camera_rotation())


def test_the_field_of_view_is_the_intrinsics():
    assert np.degrees(vertical_fov()) == pytest.approx(63.3, abs=0.2)


def test_near_is_red_and_far_is_blue():
    near, far, broken = coloured(np.array([0.05, 0.95, np.nan]), (1, 3))[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert broken.tolist() == coloured(np.array([0.0]), (1, 1))[0, 0].tolist()
