import numpy as np
import pytest
import torch

from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import DatasetError
from deploy_kit.export.samples import choose_recorded, draw_synthetic, make_golden
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.task.interface import ActionTransform
from helpers.feature_files import write_policy_file
from helpers.networks import SMALL_OBSERVATION, make_observations, small_network

TRANSFORM = ActionTransform((8.0, 9.0, 9.0, 3.0), (10.0, 0.0, 0.0, 0.0))


def term(name, start, stop, low, high):
    nothing = dict.fromkeys(("unit", "frame", "description", "clip", "scale", "range_source", "source"))
    return StateTerm(name, start, stop, quantity=name, low=low, high=high, **nothing)


TERMS = (
    term("base_lin_vel", 0, 3, (-1.0, -2.0, -3.0), (1.0, 2.0, 3.0)),
    term("base_orientation", 3, 6, (-1.0,) * 3, (1.0,) * 3),
    term("last_action", 6, 7, (5.0,), (6.0,)),
)


def test_synthetic_samples_fill_the_contracts_ranges():
    observation, reason = draw_synthetic(TERMS, (20, 30), 400, seed=3)
    assert observation.shape == (400, 7 + 600)
    assert observation.dtype == np.float32
    for column, (low, high) in {0: (-1, 1), 1: (-2, 2), 2: (-3, 3), 6: (5, 6)}.items():
        assert low <= observation[:, column].min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < observation[:, column].max() <= high
    np.testing.assert_allclose(np.linalg.norm(observation[:, 3:6], axis=1), 1.0, rtol=1e-6)
    image = observation[:, 7:].reshape(400, 20, 30)
    assert image.min() >= 0
    assert image.max() <= 1
    assert reason[:2] == ["synthetic patches", "synthetic noise"]
    assert (image[0, :12, :12] == image[0, 0, 0]).all()
    assert np.unique(image[1]).size > 500


def test_synthetic_samples_follow_the_seed():
    first, second, other = (draw_synthetic(TERMS, (4, 4), 5, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_recorded_samples_hold_every_reason(tmp_path):
    network = small_network()
    path = write_policy_file(tmp_path / "f.h5", network, kept=8)
    with open_feature_file(path) as file:
        observation, reason = choose_recorded(file, SMALL_OBSERVATION, 8)
        kept = file.observations.observation
        again, _ = choose_recorded(file, SMALL_OBSERVATION, 8)
        everything, _ = choose_recorded(file, SMALL_OBSERVATION, 1000)
    assert sorted(set(reason)) == ["first_step", "gate_pass", "ordinary", "stale_image"]
    assert len(observation) == 8
    rows = [int(np.flatnonzero((kept == row).all(axis=1))[0]) for row in observation]
    assert [["first_step", "gate_pass", "stale_image", "ordinary"][row % 4] for row in rows] == reason
    assert max(rows) > 30, "spread over the file, not its beginning"
    np.testing.assert_array_equal(observation, again)
    np.testing.assert_array_equal(everything, kept)


def test_recorded_samples_that_are_not_there(tmp_path):
    network = small_network()
    with (
        open_feature_file(write_policy_file(tmp_path / "f.h5", network, kept=0)) as file,
        pytest.raises(DatasetError, match=r"f\.h5 holds no whole observations .* --keep-observations"),
    ):
        choose_recorded(file, SMALL_OBSERVATION, 8)
    with (
        open_feature_file(write_policy_file(tmp_path / "g.h5", network)) as file,
        pytest.raises(DatasetError, match="observations have 784 numbers, the policy takes 6928"),
    ):
        choose_recorded(file, 6928, 8)


def test_golden_outputs_are_the_networks():
    network = small_network()
    observation = make_observations(network, 3)
    golden = make_golden(network, observation, ["a", "b", "c"], "recorded", TRANSFORM, gate=True)
    with torch.inference_mode():
        output = network(torch.from_numpy(observation))
    np.testing.assert_array_equal(golden.action, output.action)
    np.testing.assert_allclose(golden.command, np.tanh(output.action.numpy()) * [8, 9, 9, 3] + [10, 0, 0, 0], rtol=1e-5)
    np.testing.assert_array_equal(golden.gate_logit, output.gate_logit)
    np.testing.assert_array_equal(golden.features, output.features)
    assert make_golden(network, observation, ["a", "b", "c"], "recorded", TRANSFORM, gate=False).gate_logit is None
