import dataclasses
import math

import numpy as np
import pytest

from deploy_kit.sim.randomisation import draw_conditions, draw_start, draw_vehicle
from deploy_kit.sim.rotations import matrix_from_quaternion, quaternion_from_euler
from deploy_kit.task.racing import RACING_TASK
from helpers.tracks import track_of

DRAWS = 2000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def assert_uniform(values, low, high):
    """Check range and mean of uniform draws, the mean to four of its standard deviations."""
    values = np.asarray(values)
    width = high - low
    assert values.min() >= low - 1e-12
    assert values.max() <= high + 1e-12
    assert np.ptp(values) > 0.97 * width
    assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * values.size)


@pytest.fixture(scope="module")
def vehicles():
    rng = np.random.default_rng(1)
    return [draw_vehicle(rng, RACING_TASK) for _ in range(DRAWS)]


def test_the_mass_is_drawn_twice(vehicles):
    """The controller reckons with one draw, the body has another: thrust over weight is triangular, up to 8 %."""
    body, reckoned = np.array([[v.mass, v.reckoned_mass] for v in vehicles]).T
    assert_uniform(body, 0.48, 0.52)
    assert_uniform(reckoned, 0.48, 0.52)
    assert abs(np.corrcoef(body, reckoned)[0, 1]) < 0.1
    ratio = reckoned / body
    assert 0.07 < np.abs(ratio - 1).max() < 0.0834
    # Of the difference of two uniform draws of half width w: w · sqrt(2/3).
    assert ratio.std() == pytest.approx(0.04 * math.sqrt(2 / 3), rel=0.05)


def test_gains_of_both_kinds_and_lags_have_a_factor_for_each_axis(vehicles):
    """P and D gains ±10 %, lags from 0.8 to 1.3 times."""
    gains = np.array([v.rate_gain for v in vehicles]) / 35
    damping = np.array([v.acceleration_gain for v in vehicles]) / [0.0005, 0.0005, 0.0003]
    lags = np.array([v.time_constant for v in vehicles]) / 0.03
    for axis in range(3):
        assert_uniform(gains[:, axis], 0.9, 1.1)
        assert_uniform(damping[:, axis], 0.9, 1.1)
    for axis in range(4):
        assert_uniform(lags[:, axis], 0.8, 1.3)
    together = np.corrcoef(np.hstack([gains, damping, lags]).T)
    assert np.abs(together - np.eye(10)).max() < 0.1


def test_every_moment_of_inertia_has_a_factor_beside_the_masses_ratio(vehicles):
    """Nominal times the body's mass over the nominal one, times 0.9 to 1.1 for each moment."""
    inertia = np.array([v.inertia for v in vehicles]) / RACING_TASK.airframe.inertia
    factors = inertia / np.array([[v.mass / 0.5] for v in vehicles])
    for axis in range(3):
        assert_uniform(factors[:, axis], 0.9, 1.1)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.1


def test_drag_is_added_to_the_products_before_the_factor_on_z(rng):
    """One factor on z for both coefficients; the products are those of the mass that the controller reckons with."""
    conditions = [draw_conditions(rng, RACING_TASK, 0.5) for _ in range(DRAWS)]
    linear = np.array([c.drag_linear for c in conditions])
    quadratic = np.array([c.drag_quadratic for c in conditions])
    for axis in range(2):
        assert_uniform(linear[:, axis], 0.09, 0.19)
        assert_uniform(quadratic[:, axis], 0.005, 0.01)
    assert linear[:, 2].min() >= 0.09 * 4
    assert linear[:, 2].max() <= 0.19 * 4.4
    assert linear[:, 2].mean() == pytest.approx(0.14 * 4.2, rel=0.02)
    assert quadratic[:, 2].mean() == pytest.approx(0.0075 * 4.2, rel=0.02)
    thrust = np.array([c.thrust_factor for c in conditions])
    assert thrust.mean() == pytest.approx(1.0, abs=1e-3)
    assert thrust.std() == pytest.approx(0.01, rel=0.1)
    heavier = draw_conditions(rng, RACING_TASK, 0.52, randomised=False)
    np.testing.assert_allclose(heavier.drag_linear, 0.18 * 0.52 * np.array([1, 1, 4]))


def test_one_factor_on_z_serves_both_coefficients(rng):
    ranges = dataclasses.replace(RACING_TASK.randomisation, drag_linear=0.0, drag_quadratic=0.0)
    task = dataclasses.replace(RACING_TASK, randomisation=ranges)
    conditions = [draw_conditions(rng, task, 0.5) for _ in range(DRAWS)]
    factors = np.array([[c.drag_linear[2] / 0.09, c.drag_quadratic[2] / 0.005] for c in conditions])
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-12)
    assert_uniform(factors[:, 0], 4.0, 4.4)


def test_nominal_values(rng):
    vehicle = draw_vehicle(rng, RACING_TASK, randomised=False)
    assert (vehicle.mass, vehicle.reckoned_mass) == (0.5, 0.5)
    np.testing.assert_array_equal(vehicle.inertia, [0.0015, 0.002, 0.0034])
    np.testing.assert_array_equal(vehicle.rate_gain, 35.0)
    np.testing.assert_array_equal(vehicle.acceleration_gain, [0.0005, 0.0005, 0.0003])
    np.testing.assert_array_equal(vehicle.time_constant, 0.03)
    conditions = draw_conditions(rng, RACING_TASK, 0.5, randomised=False)
    np.testing.assert_allclose(conditions.drag_linear, [0.09, 0.09, 0.36])
    np.testing.assert_allclose(conditions.drag_quadratic, [0.005, 0.005, 0.02])
    assert conditions.thrust_factor == 1.0


@pytest.fixture(scope="module")
def starts():
    rng = np.random.default_rng(2)
    return [draw_start(rng, track_of(start=(0.0, 1.0, 1.1)), RACING_TASK) for _ in range(DRAWS)]


def test_starts_are_half_a_metre_above_the_start_point(starts):
    """Position = start point + (0, 0, 0.5) + U(-0.5, 0.5) per axis."""
    offsets = np.array([s.position for s in starts]) - [0.0, 1.0, 1.6]
    for axis in range(3):
        assert_uniform(offsets[:, axis], -0.5, 0.5)
    assert np.abs(np.corrcoef(offsets.T) - np.eye(3)).max() < 0.1


def test_starts_face_the_first_gate_and_are_tilted(starts):
    """Yaw = horizontal direction from the noisy position to the first gate + U(-0.7, 0.7); roll, pitch U(-0.2, 0.2)."""
    gate = np.array([5.0, 0.0, 1.5])
    rolls, pitches, yaws = [], [], []
    for s in starts:
        matrix = matrix_from_quaternion(s.quaternion)
        to_gate = gate - s.position
        yaws.append(math.atan2(matrix[1, 0], matrix[0, 0]) - math.atan2(to_gate[1], to_gate[0]))
        pitches.append(-math.asin(matrix[2, 0]))
        rolls.append(math.atan2(matrix[2, 1], matrix[2, 2]))
        np.testing.assert_allclose(
            matrix,
            matrix_from_quaternion(quaternion_from_euler(0, 0, math.atan2(matrix[1, 0], matrix[0, 0])))
            @ matrix_from_quaternion(quaternion_from_euler(0, pitches[-1], 0))
            @ matrix_from_quaternion(quaternion_from_euler(rolls[-1], 0, 0)),
            atol=1e-12,
        )
    assert_uniform(yaws, -0.7, 0.7)
    assert_uniform(rolls, -0.2, 0.2)
    assert_uniform(pitches, -0.2, 0.2)


def test_starting_velocities_are_drawn_in_world_axes(starts):
    """U(-0.1, 0.1) for each world component, of the linear and of the angular velocity."""
    turning = [matrix_from_quaternion(s.quaternion) @ s.angular_velocity for s in starts]
    for axis in range(3):
        assert_uniform([s.velocity[axis] for s in starts], -0.1, 0.1)
        assert_uniform([rate[axis] for rate in turning], -0.1, 0.1)
