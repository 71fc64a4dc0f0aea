"""The reference policy flies the embedded simulator as well as where its authors trained it, on another simulator.

The shipped policy learned on our own task: a misreading of the task that our simulators share would not show with it.
"""

import pytest

from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.sim.registry import EnvOptions


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize(
    ("track", "obstacles", "episodes", "least_gates", "most_crashes"),
    [
        ("circular", False, 96, 6.8, 0.02),
        ("circular", True, 96, 4.9, 0.1),
        ("ellipse", False, 96, 5.8, 0.05),
        ("zigzag", False, 32, 6.8, 0.04),
    ],
)
def test_it_flies(reference_run, one_thread, track, obstacles, episodes, least_gates, most_crashes):
    # The nominal airframe, as the figures that the task's reference gives.
    env = EnvOptions(num_envs=episodes, tracks=(track,), obstacles=obstacles, randomisation=False)
    statistics = fly(FlyOptions(policy=reference_run / "model_7998.pt", env=env)).statistics
    assert statistics.episodes == episodes
    assert statistics.gates_per_episode.mean >= least_gates
    assert statistics.crash_rate.mean <= most_crashes
