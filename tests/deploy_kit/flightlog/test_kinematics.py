import numpy as np
import pytest

from deploy_kit.flightlog.kinematics import MIN_STEPS, Motion, judge_motion
from deploy_kit.onboard.axes import ALL_CHANGES, AxisChange, find_change
from helpers.flight_logs import turn

PERIOD = 0.03


def flight(steps=250, noise=0.0, seed=0):
    """A drone that sways and flies past gates: velocity, up, target (n, 3) and rates (n, 3), body axes."""
    rng = np.random.default_rng(seed)
    time = PERIOD * np.arange(steps)
    rates = np.stack([1.5 * np.sin(3 * time), 1.2 * np.cos(2.3 * time), 0.8 * np.sin(0.7 * time + 1)], axis=1)
    rotation, position, gate = np.eye(3), np.zeros(3), np.array([6.0, 2.0, 1.0])
    rows = []
    for step in range(steps):
        velocity = np.array([4.0, 1.5 * np.sin(time[step]), 0.8 * np.cos(2 * time[step])])
        rows.append((rotation.T @ velocity, rotation[2].copy(), rotation.T @ (gate - position)))
        position = position + PERIOD * velocity
        if gate[0] - position[0] < 0.3:
            gate = gate + np.array([6.0, rng.uniform(-2, 2), 0.0])
        rotation = rotation @ turn(rates[step], PERIOD)
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    columns[0] *= 1 + noise * rng.standard_normal(columns[0].shape)
    columns[1] += noise * rng.standard_normal(columns[1].shape)
    return (*columns, rates)


def motion(velocity, up, target, rates):
    pairs = [np.stack([values[:-1], values[1:]], axis=1) for values in (velocity, up, target)]
    return Motion(np.full(len(rates) - 1, PERIOD), *pairs, rates[:-1])


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("lag", [0, 2])
def test_right_numbers_fit_in_spite_of_noise_and_of_a_lag(noise, lag):
    velocity, up, target, rates = flight(noise=noise)
    found = judge_motion(motion(velocity[lag:], up[lag:], target[lag:], rates[: len(rates) - lag]))
    assert found.problems == ()
    assert found.scale == pytest.approx(1, abs=0.05)
    assert found.up_slope == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("change", [ALL_CHANGES[index] for index in (1, 2, 3, 4, 6, 8, 16, 31)], ids=str)
@pytest.mark.parametrize("name", ["base_lin_vel", "base_orientation", "target_position"])
def test_each_change_of_axes_is_told_by_name(name, change):
    terms = dict(zip(("base_lin_vel", "base_orientation", "target_position"), flight(noise=0.03), strict=False))
    rates = flight()[3]
    terms[name] = change.apply(terms[name])
    found = judge_motion(motion(*terms.values(), rates))
    assert [problem.split()[0] for problem in found.problems] == [name]
    assert f"; {change} would" in found.problems[0]


def test_all_three_in_another_convention_are_told_together():
    frd = AxisChange(sign=(1, -1, -1))
    velocity, up, target, rates = flight()
    found = judge_motion(motion(*map(frd.apply, (velocity, up, target)), rates))
    assert len(found.problems) == 3
    assert all("forward-right-down in place of forward-left-up" in problem for problem in found.problems)


def test_velocity_in_another_unit_is_told_by_its_factor():
    velocity, up, target, rates = flight()
    problems = judge_motion(motion(3.6 * velocity, up, target, rates)).problems
    assert len(problems) == 1
    assert "3.6 times as large" in problems[0]
    assert "km/h in place of m/s" in problems[0]


def test_too_few_steps_tell_nothing():
    assert judge_motion(motion(*(part[: MIN_STEPS - 2] for part in flight()))) is None


@pytest.mark.parametrize("change", ALL_CHANGES[::5], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1000.0, 0.25])
def test_change_of_vectors_is_found(change, scale):
    expected = np.random.default_rng(0).normal(size=(7, 3))
    found = find_change(expected, scale * change.apply(expected))
    assert (found.order, found.sign) == (change.order, change.sign)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.undo(scale * change.apply(expected)), expected)


def test_no_change_is_found_where_there_is_none():
    rng = np.random.default_rng(0)
    assert find_change(rng.normal(size=(9, 3)), rng.normal(size=(9, 3))) is None
    assert find_change(np.ones((2, 3)), np.zeros((2, 3))) is None
    assert find_change(np.ones((2, 3)), np.full((2, 3), np.nan)) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (AxisChange((1, 0, 2), (1, 1, -1)), "north-east-down in place of east-north-up"),
        (AxisChange((0, 1, 2), (1, -1, 1)), "y has the opposite sign"),
        (AxisChange((1, 0, 2), (1, -1, 1)), "order of the axes: y, x, z in place of x, y, z; y has the opposite sign"),
        (AxisChange(scale=180 / np.pi), "scaled by 57.3 (degrees in place of radians)"),
        (AxisChange(scale=1 / 9.80665), "scaled by 0.102 (divided by g)"),
        (AxisChange(), "nothing"),
    ],
)
def test_changes_in_words(change, text):
    assert str(change) == text
