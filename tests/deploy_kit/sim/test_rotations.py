import math

import numpy as np
import pytest

from deploy_kit.sim.rotations import (
    matrix_from_euler,
    matrix_from_quaternion,
    quaternion_about_own_axes,
    quaternion_from_euler,
    to_body,
)
from helpers.rotations import random_quaternion


def test_a_quarter_turn_about_z_takes_body_x_to_world_y():
    matrix = matrix_from_quaternion(np.array([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]))
    np.testing.assert_allclose(matrix @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], atol=1e-12)


def test_positive_pitch_lowers_the_nose_and_positive_roll_lifts_the_left():
    pitched = matrix_from_quaternion(quaternion_from_euler(0.0, 0.3, 0.0))
    np.testing.assert_allclose(pitched[:, 0], [math.cos(0.3), 0.0, -math.sin(0.3)], atol=1e-12)
    rolled = matrix_from_quaternion(quaternion_from_euler(0.3, 0.0, 0.0))
    np.testing.assert_allclose(rolled[:, 1], [0.0, math.cos(0.3), math.sin(0.3)], atol=1e-12)


def test_euler_angles_are_roll_then_pitch_then_yaw_about_fixed_axes():
    roll, pitch, yaw = 0.4, -0.7, 2.1
    x = np.array([[1, 0, 0], [0, math.cos(roll), -math.sin(roll)], [0, math.sin(roll), math.cos(roll)]])
    y = np.array([[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]])
    z = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    np.testing.assert_allclose(matrix_from_euler(np.array([roll, pitch, yaw])), z @ y @ x, atol=1e-12)
    np.testing.assert_allclose(matrix_from_quaternion(quaternion_from_euler(roll, pitch, yaw)), z @ y @ x, atol=1e-12)


def test_to_body_undoes_the_rotation():
    rng = np.random.default_rng(0)
    matrices = matrix_from_quaternion(np.stack([random_quaternion(rng) for _ in range(5)]))
    vectors = rng.normal(size=(5, 3))
    world = np.stack([matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)])
    np.testing.assert_allclose(to_body(matrices, world), vectors, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_angles_about_the_bodys_own_axes_are_x_then_y_then_z(seed):
    x, y, z = np.random.default_rng(seed).uniform(-math.pi, math.pi, 3)
    about = [matrix_from_euler(np.array(angles)) for angles in ((x, 0, 0), (0, y, 0), (0, 0, z))]
    matrix = matrix_from_quaternion(np.array(quaternion_about_own_axes(x, y, z)))
    np.testing.assert_allclose(matrix, about[0] @ about[1] @ about[2], atol=1e-12)
