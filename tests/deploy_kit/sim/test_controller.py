import math

import numpy as np
import pytest

from deploy_kit.sim.controller import RateController, cross, drag_coefficients, drag_force


def update(controller, thrust=0.0, rates=(0, 0, 0), velocity=(0, 0, 0), acceleration=(0, 0, 0)):
    rows = (np.array([v], float) for v in (rates, velocity, acceleration))
    controller.update(np.array([thrust]), *rows)
    return controller.wrench[0]


def test_thrust_and_torque_follow_with_a_lag_of_one_period():
    controller = RateController(1)
    k = math.exp(-1)
    assert update(controller, 10.0, (1, 0, 0))[0] == pytest.approx(10 * (1 - k))
    wrench = update(controller, 10.0, (1, 0, 0))
    assert wrench[0] == pytest.approx(10 * (1 - k * k))
    assert wrench[1] == pytest.approx(0.0015 * 35 * (1 - k * k))


def test_torque_by_hand():
    controller = RateController(1)
    rates, velocity, acceleration = (1.0, -2.0, 0.5), (0.3, 0.6, -0.4), (10.0, -20.0, 5.0)
    wrench = update(controller, 0.0, rates, velocity, acceleration)
    # J = (0.0015, 0.002, 0.004), J·ω = (0.00045, 0.0012, -0.0016)
    gyroscopic = (
        0.6 * -0.0016 - -0.4 * 0.0012,
        -0.4 * 0.00045 - 0.3 * -0.0016,
        0.3 * 0.0012 - 0.6 * 0.00045,
    )
    target = (
        0.0015 * 35 * 0.7 + gyroscopic[0] - 0.0005 * 10,
        0.002 * 35 * -2.6 + gyroscopic[1] + 0.0005 * 20,
        0.004 * 35 * 0.9 + gyroscopic[2] - 0.0003 * 5,
    )
    np.testing.assert_allclose(wrench[1:], (1 - math.exp(-1)) * np.array(target), rtol=1e-12)


def test_time_constants_and_gains_are_per_drone_and_axis():
    controller = RateController(2)
    controller.time_constant[1] = [0.06, 0.03, 0.03, 0.015]
    controller.rate_gain[1] = [35.0, 70.0, 35.0]
    controller.update(np.array([1.0, 1.0]), np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))
    first, second = controller.wrench
    assert second[0] == pytest.approx(1 - math.exp(-0.5))
    assert second[1] == first[1]
    assert second[2] == pytest.approx(2 * first[2])
    assert second[3] == pytest.approx(0.004 * 35 * (1 - math.exp(-2)))


def test_damping_is_per_drone_and_axis():
    controller = RateController(2)
    controller.acceleration_gain[1] *= [2.0, 1.0, 0.5]
    controller.update(np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3)), np.full((2, 3), 10.0))
    first, second = controller.wrench[:, 1:]
    np.testing.assert_allclose(first, -(1 - math.exp(-1)) * 10 * np.array([0.0005, 0.0005, 0.0003]), rtol=1e-12)
    np.testing.assert_allclose(second / first, [2.0, 1.0, 0.5], rtol=1e-12)


def test_reset_starts_one_drone_from_zero():
    controller = RateController(2)
    controller.update(np.ones(2), np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))
    controller.reset(0)
    assert np.all(controller.wrench[0] == 0)
    assert np.all(controller.wrench[1] != 0)


def test_drag_by_hand():
    linear, quadratic = drag_coefficients(0.25)
    np.testing.assert_allclose(linear, [0.045, 0.045, 0.045])
    np.testing.assert_allclose(quadratic, [0.0025, 0.0025, 0.0025])
    linear, quadratic = np.array([[0.09, 0.09, 0.36], [0.005, 0.005, 0.02]])
    force = drag_force(np.array([[2.0, -3.0, 1.0]]), linear[None], quadratic[None])
    np.testing.assert_allclose(force, [[-(0.18 + 0.02), 0.27 + 0.045, -(0.36 + 0.02)]])


def test_cross_is_the_cross_product():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3))
    np.testing.assert_allclose(cross(a, b), np.cross(a, b), atol=1e-15)
