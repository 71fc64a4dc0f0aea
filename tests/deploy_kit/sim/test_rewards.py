import numpy as np
import pytest

from deploy_kit.sim.rewards import StepOutcome, reward_terms, total_reward
from deploy_kit.task.racing import STAGES


def outcome(**changes):
    values = {
        "velocity": np.array([[3.0, 4.0, 0.0]]),
        "to_gate": np.array([[0.3, 0.0, 0.0]]),
        "forward": np.array([[0.0, 0.6, 0.8]]),
        "command": np.array([[7.0, 3.0, 0.0, 4.0]]),
        "previous_command": np.array([[6.0, 3.0, 2.0, 4.0]]),
        "collided": np.array([False]),
        "flipped": np.array([False]),
        "passed": np.array([False]),
    }
    return StepOutcome(**{**values, **changes})


def test_terms_by_hand():
    terms = reward_terms(outcome(passed=np.array([True]), collided=np.array([True]), flipped=np.array([True])))
    assert {name: float(value[0]) for name, value in terms.items()} == pytest.approx(
        {
            "progress": 0.6,
            "body_rate": 5.0,
            "command_change": 5.0,
            "collision": 1.0,
            "perception": 0.0,
            "gate": 1 / 1.09,
            "flipped": 1.0,
        }
    )


@pytest.mark.parametrize(
    ("stage", "total"),
    [
        (0, 0.6 - 0.02 * 5 - 0.01 * 5 - 50 + 10 / 1.09),
        (1, 0.6 - 0.1 * 5 - 0.05 * 5 - 100 + 20 / 1.09 - 30),
        (2, 0.6 - 0.1 * 5 - 0.05 * 5 - 100 + 20 / 1.09),
    ],
)
def test_weights_of_the_stages(stage, total):
    everything = outcome(passed=np.array([True]), collided=np.array([True]), flipped=np.array([True]))
    assert total_reward(everything, STAGES[stage].rewards, 0.03)[0] == pytest.approx(0.03 * total)


def test_perception_looks_for_the_gate_along_body_x():
    ahead = outcome(to_gate=np.array([[0.0, 3.0, 4.0]]))
    assert reward_terms(ahead)["perception"][0] == pytest.approx(1.0)


def test_a_drone_at_rest_in_a_gates_centre_has_finite_terms():
    still = outcome(velocity=np.zeros((1, 3)), to_gate=np.zeros((1, 3)))
    assert all(np.isfinite(value).all() for value in reward_terms(still).values())
