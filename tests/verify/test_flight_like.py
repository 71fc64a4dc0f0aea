import numpy as np
import pytest

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.verify.flight_like import flight_like_samples, near_samples, observation_range


@pytest.fixture(scope="module")
def contract(run):
    return open_bundle(run.bundle).contract


@pytest.fixture(scope="module")
def base(contract):
    return flight_like_samples(contract, 40, 99).observation


def term(contract, name):
    found = next(term for term in contract.observation.terms if term.quantity == name)
    return slice(found.start, found.stop)


def test_flight_like_inputs_are_upright_slow_and_near(contract):
    rows = flight_like_samples(contract, 500, 0).observation
    low, high = observation_range(contract)
    assert rows.dtype == np.float32
    assert rows.shape == (500, contract.observation.size)
    assert (rows >= low - 1e-6).all()
    assert (rows <= high + 1e-6).all()
    attitude = rows[:, term(contract, "base_orientation")]
    assert np.linalg.norm(attitude, axis=1) == pytest.approx(np.ones(500), abs=1e-6)
    assert (attitude[:, 2] > 0.5).mean() > 0.85
    speed = np.linalg.norm(rows[:, term(contract, "base_lin_vel")], axis=1)
    assert 3.0 < speed.mean() < 7.0
    assert speed.max() < 25.0
    target = rows[:, term(contract, "target_position")]
    assert np.linalg.norm(target, axis=1).max() <= 15.0 + 1e-4
    assert (target[:, 0] > 0).mean() > 0.9
    thrust = rows[:, term(contract, "last_action")][:, 0]
    assert thrust.mean() == pytest.approx(9.81, abs=1.0)
    images = rows[:, contract.observation.state_size :]
    assert images.min() < 0.1
    assert images.max() == 1.0
    # Images differ from row to row, and are not noise.
    assert images.mean(axis=1).std() > 0.1
    assert np.abs(np.diff(images, axis=1)).mean() < 0.15


def test_near_inputs_stay_near_and_mix(contract, base):
    samples = near_samples(base, contract, 600, 0, "recorded rows")
    split, rows = contract.observation.state_size, samples.observation
    low, high = observation_range(contract)
    origin = base[[int(samples.where(row).rsplit(" ", 1)[1]) for row in range(600)]]
    moved = np.abs(rows - origin) / (high - low)
    state, image = moved[:, :split].max(axis=1), moved[:, split:].max(axis=1)
    assert (np.median(moved[:, :split]), np.median(moved[:, split:])) < (0.1, 0.1)
    # Some images are another row's, some states are as recorded (but for an attitude put to length 1), some are not.
    assert (image > 0.3).mean() > 0.25
    assert (state < 1e-6).mean() > 0.05
    assert (state > 1e-4).mean() > 0.5
    assert (rows >= low - 1e-6).all()
    assert (rows <= high + 1e-6).all()
    attitude = rows[:, term(contract, "base_orientation")]
    assert np.linalg.norm(attitude, axis=1) == pytest.approx(np.ones(600), abs=1e-6)


def test_a_recorded_number_beyond_the_range_is_kept(contract, base):
    wide = base.copy()
    wide[:, 0] = 40.0
    rows = near_samples(wide, contract, 300, 0, "recorded rows").observation
    assert rows[:, 0].max() == 40.0


@pytest.mark.parametrize("draw", [flight_like_samples, lambda *given: near_samples(given_base(*given), *given, "x")])
def test_draws_follow_the_seed(contract, draw):
    first, again, other = (draw(contract, 5, seed).observation for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def given_base(contract, rows, seed):
    return flight_like_samples(contract, 20, 7).observation
