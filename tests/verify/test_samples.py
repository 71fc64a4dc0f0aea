import numpy as np
import pytest

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.verify.dataset import spread
from deploy_kit.verify.samples import DENORMAL, extreme_samples, random_samples, state_range


@pytest.fixture(scope="module")
def contract(run):
    return open_bundle(run.bundle).contract


def test_random_inputs_fill_the_contracts_ranges(contract):
    samples = random_samples(contract, 400, seed=0)
    low, high = state_range(contract)
    state, image = samples.observation[:, :16], samples.observation[:, 16:]
    assert samples.observation.shape == (400, 784)
    assert samples.observation.dtype == np.float32
    assert (state >= low - 1e-5).all()
    assert (state <= high + 1e-5).all()
    assert (state.min(axis=0) < low + 0.05 * (high - low)).all()
    assert (state.max(axis=0) > high - 0.05 * (high - low)).all()
    assert image.min() == 0.0
    assert image.max() == 1.0
    # Images differ in brightness, not in noise alone.
    assert image.mean(axis=1).std() > 0.15
    assert samples.where(7) == "random input 7"


def test_random_inputs_follow_the_seed(contract):
    first, again, other = (random_samples(contract, 5, seed).observation for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_extreme_inputs_are_what_their_names_say(contract):
    samples = extreme_samples(contract, seed=0)
    rows = {samples.where(row): row for row in range(len(samples.observation))}
    observation = samples.observation
    low, high = state_range(contract)
    assert (observation[rows["all 1"]] == 1.0).all()
    assert (observation[rows["all 0"]] == 0.0).all()
    assert np.signbit(observation[rows["all -0"]]).all()
    denormal = observation[rows["all 1e-40"]]
    assert (denormal > 0).all()
    assert (denormal < np.finfo(np.float32).tiny).all()
    assert denormal[0] == np.float32(DENORMAL)
    assert (observation[rows["all 1e+06"]] == 1e6).all()
    saturated = observation[rows["highest state, farthest depth"]]
    assert saturated[:16] == pytest.approx(high)
    assert (saturated[16:] == 1.0).all()
    single = observation[rows["state[6] low, others 0"], :16]
    assert single[6] == pytest.approx(low[6])
    assert np.count_nonzero(single) == 1
    image = observation[rows["depth row 3 farthest"], 16:].reshape(24, 32)
    assert (image[3] == 1.0).all()
    assert (np.delete(image, 3, axis=0) == 0.5).all()
    assert {f"depth column {index} farthest" for index in range(32)} <= rows.keys()
    assert np.isfinite(observation).all()


def test_row_scale_is_one_within_the_ranges_and_grows_beyond(contract):
    samples = extreme_samples(contract, seed=0)
    rows = {samples.where(row): row for row in range(len(samples.observation))}
    assert samples.row_scale[rows["highest state, farthest depth"], 0] == 1.0
    assert samples.row_scale[rows["all 1000"], 0] == pytest.approx(1000.0)
    assert samples.row_scale[rows["depth ±1e+06"], 0] == pytest.approx(1e6)


def test_spread_is_even():
    assert spread(5, None).tolist() == spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(100, 4).tolist() == [0, 25, 50, 75]
