"""The reference policy, which another simulator trained, flies the embedded one.

The shipped policy learned on our own task: a misreading of the task that our simulators share would not show with it.
`benchmarks/` flies more episodes; whatever is misread costs most of the gates here.
"""

import numpy as np
import pytest

from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.sim.registry import EnvOptions


def fly_reference(run, **env):
    # The nominal airframe, as the figures that the task's reference gives.
    options = FlyOptions(policy=run / "model_7998.pt", env=EnvOptions(randomisation=False, **env))
    return fly(options).flights[0].episodes


@pytest.mark.reference
@pytest.mark.slow
def test_it_flies_every_kind_of_track(reference_run, one_thread):
    episodes = fly_reference(reference_run, num_envs=24, obstacles=False)
    for kind, least_gates in (("circular", 6.5), ("ellipse", 5.8), ("zigzag", 6.8)):
        gates = [row.gates for row in episodes if row.track_kind == kind]
        assert len(gates) >= 5
        assert np.mean(gates) >= least_gates, kind
    assert sum(row.crashed for row in episodes) <= 1


@pytest.mark.reference
@pytest.mark.slow
def test_it_flies_among_obstacles(reference_run, one_thread):
    episodes = fly_reference(reference_run, num_envs=16, tracks=("circular",))
    assert np.mean([row.gates for row in episodes]) >= 4.9
    assert sum(row.crashed for row in episodes) <= 4
