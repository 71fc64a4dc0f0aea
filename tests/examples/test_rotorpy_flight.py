"""The policy that comes with deploy-kit flies RotorPy's drone, and the log of the flight holds up."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.onboard import OnboardPolicy, RecordingOptions

pytestmark = pytest.mark.usefixtures("pictures")

EXAMPLE = Path(__file__).parents[2] / "examples" / "rotorpy_flight.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("rotorpy_flight", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo_policy_passes_gates_with_rotorpys_dynamics(example, demo_bundle, tmp_path):
    policy = OnboardPolicy(demo_bundle, log=tmp_path / "flight.dklog", recording=RecordingOptions(lossless=True))
    result = example.fly(policy, 0, example.vehicle_parameters("hummingbird"), 4.0, ("circular",), False)
    policy.close()
    assert result.ended == "time"
    assert result.gates == result.announced >= 2
    assert result.rate_error < 1.0
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert len(log.flown) == 133
        first = log.inputs(log.flown[0])
        # It starts at rest, level, and looks at the gate.
        np.testing.assert_allclose(first.state[:6], [0, 0, 0, 0, 0, 1], atol=1e-9)
        assert first.state[6] > 1
        assert abs(first.state[7]) < 1e-9


def test_drone_of_rotorpy_turns_and_climbs_as_commanded(example):
    """Frames and signs: body rates x, y, z roll right side down, pitch nose down and yaw left."""
    for axis, (column, row, sign) in enumerate(((1, 2, 1), (0, 2, -1), (0, 1, 1))):
        drone = example.RotorpyDrone(example.vehicle_parameters("task"), np.array([0.0, 0.0, 5.0]), 0.0)
        command = np.array([9.81, 0.0, 0.0, 0.0])
        command[1 + axis] = 1.0
        drone.fly(command, 0.3)
        assert drone.rates[axis] == pytest.approx(1.0, abs=0.1)
        assert sign * drone.rotation[row, column] > 0.1
    drone = example.RotorpyDrone(example.vehicle_parameters("task"), np.array([0.0, 0.0, 5.0]), 0.0)
    drone.fly(np.array([9.81 + 2.0, 0.0, 0.0, 0.0]), 1.0)
    assert 1.0 < drone.velocity[2] < 2.0
