"""The policy that comes with deploy-kit flies the embedded simulator on board; the log of the flight is verified."""

import importlib.util
from pathlib import Path

import pytest

from deploy_kit.onboard import OnboardPolicy, RecordingOptions
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.flight_checks import failures

pytestmark = pytest.mark.usefixtures("pictures")

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulator_flight.py"

MACHINE = {"timing"}
"""Checks that look at how long a step took on this machine."""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("simulator_flight", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Knots(OnboardPolicy):
    """Is given velocities in knots, with which the drone still flies."""

    def step(self, state, *rest):
        return super().step(state * [*[1.94] * 3, *[1] * (len(state) - 3)], *rest)


def flown(example, kind, bundle, checkpoint, folder):
    policy = kind(bundle, log=folder / "flight.dklog", recording=RecordingOptions(lossless=True))
    gates = example.fly(policy, 3.0)
    policy.close()
    report = verify_bundle(
        VerifyOptions(
            bundle,
            checkpoint,
            flight=folder / "flight.dklog",
            task=TASK_ID,
            replay=False,
            live=False,
            report=folder / "report.json",
        )
    )
    return gates, failures(report)


def test_log_of_a_simulated_flight_is_verified(example, demo_bundle, shipped_policy, tmp_path):
    (passed, announced), failed = flown(example, OnboardPolicy, demo_bundle, shipped_policy, tmp_path)
    assert passed == announced >= 3
    assert set(failed) <= MACHINE


def test_wrong_unit_of_the_velocity_is_named(example, demo_bundle, shipped_policy, tmp_path):
    _, failed = flown(example, Knots, demo_bundle, shipped_policy, tmp_path)
    assert set(failed) - MACHINE == {"motion"}
    assert "base_lin_vel is 1.9" in failed["motion"]
