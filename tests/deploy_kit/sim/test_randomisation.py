import dataclasses

import numpy as np
import pytest

from deploy_kit.errors import TaskError
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.randomisation import draw_conditions, draw_start, draw_vehicle
from deploy_kit.sim.tracks import START_CLEARANCE
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


def test_vehicles_are_drawn_within_the_tasks_ranges(rng):
    vehicles = [draw_vehicle(rng, RACING_TASK) for _ in range(DRAWS)]
    assert_uniform([v.mass for v in vehicles], 0.48, 0.52)
    assert_uniform([v.inertia_factor for v in vehicles], 0.9, 1.1)
    gains = np.array([v.rate_gain for v in vehicles])
    lags = np.array([v.time_constant for v in vehicles])
    for axis in range(3):
        assert_uniform(gains[:, axis], 35 * 0.9, 35 * 1.1)
    for axis in range(4):
        assert_uniform(lags[:, axis], 0.03 * 0.8, 0.03 * 1.3)
    assert abs(np.corrcoef(gains[:, 0], gains[:, 1])[0, 1]) < 0.1


def test_drag_is_added_to_the_products_before_the_factor_on_z(rng):
    conditions = [draw_conditions(rng, RACING_TASK) for _ in range(DRAWS)]
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


def test_nominal_values(rng):
    vehicle = draw_vehicle(rng, RACING_TASK, randomised=False)
    assert (vehicle.mass, vehicle.inertia_factor) == (0.5, 1.0)
    np.testing.assert_array_equal(vehicle.rate_gain, 35.0)
    np.testing.assert_array_equal(vehicle.time_constant, 0.03)
    conditions = draw_conditions(rng, RACING_TASK, randomised=False)
    np.testing.assert_allclose(conditions.drag_linear, [0.09, 0.09, 0.36])
    np.testing.assert_allclose(conditions.drag_quadratic, [0.005, 0.005, 0.02])
    assert conditions.thrust_factor == 1.0


def test_starts_are_spread_as_the_task_says(rng):
    starts = [draw_start(rng, track_of(), RACING_TASK) for _ in range(DRAWS)]
    offsets = np.array([s.position for s in starts]) - [0.0, 0.0, 1.5]
    for axis in range(3):
        assert_uniform(offsets[:, axis], -0.5, 0.5)
        assert_uniform([s.velocity[axis] for s in starts], -0.1, 0.1)
        assert_uniform([s.angular_velocity[axis] for s in starts], -0.1, 0.1)


def test_starts_keep_clear_of_solids(rng):
    ball = Primitive("sphere", (0.3,), (0.4, 0.0, 1.5))
    starts = [draw_start(rng, track_of(ball), RACING_TASK).position for _ in range(300)]
    assert min(ball.distance(position) for position in starts) >= START_CLEARANCE
    assert max(position[0] for position in starts) > 0.3


def test_a_start_without_a_free_place_is_an_error(rng):
    task = dataclasses.replace(RACING_TASK, start=dataclasses.replace(RACING_TASK.start, position=0.1))
    with pytest.raises(TaskError, match="no free place"):
        draw_start(rng, track_of(Primitive("sphere", (1.0,), (0.0, 0.0, 1.5))), task)
