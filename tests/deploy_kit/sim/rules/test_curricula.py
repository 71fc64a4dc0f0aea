import numpy as np
import pytest

from deploy_kit.sim.rules.curricula import next_gate_noise, next_levels
from deploy_kit.task.racing import RACING_TASK, STAGES


def test_gate_noise_grows_from_4_gates_and_shrinks_below_3():
    noise = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 3.0])
    scaled = next_gate_noise(noise, np.array([0, 2, 3, 4, 9, 9]), STAGES[1].curriculum)
    np.testing.assert_allclose(scaled, [0.098, 0.098, 0.1, 0.101, 0.101, 3.03], rtol=1e-12)


@pytest.mark.parametrize("stage", [0, 2])
def test_stages_0_and_2_have_no_curriculum_on_noise(stage):
    noise = np.array([0.3, 0.4])
    np.testing.assert_array_equal(next_gate_noise(noise, np.array([0, 9]), STAGES[stage].curriculum), noise)


def test_a_level_up_from_3_gates_and_down_below_2():
    level = np.array([4, 4, 4, 4, 4, 0, 9, 9])
    gates = np.array([0, 1, 2, 3, 8, 1, 3, 2])
    moved = next_levels(level, gates, np.full(8, 6), RACING_TASK.levels)
    # Never below 0; past level 9 the drone goes to any level, here 6.
    np.testing.assert_array_equal(moved, [3, 3, 4, 5, 5, 0, 6, 9])


def test_a_drone_that_always_rises_flies_level_k_with_a_chance_of_k_plus_1_in_55():
    rng = np.random.default_rng(0)
    level, seen = rng.integers(6, size=2000), []
    for _ in range(120):
        level = next_levels(level, np.full(2000, 5), rng.integers(10, size=2000), RACING_TASK.levels)
        seen.append(np.bincount(level, minlength=10))
    shares = np.sum(seen[40:], axis=0) / np.sum(seen[40:])
    np.testing.assert_allclose(shares, np.arange(1, 11) / 55, atol=0.004)
