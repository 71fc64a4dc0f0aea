"""Each guard refuses its step with either engine; both name the same fault."""

import dataclasses

import numpy as np
import pytest

from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, RecordingOptions
from helpers.flight_inputs import FAULTS, sample

INF, NAN = np.inf, np.nan


def fly_blind(policy, state, depth):
    for _ in range(40):
        policy.step(state, np.full_like(depth, INF))


def step_at(*times):
    def fly(policy, state, depth):
        policy.step(state, depth, 1.0, 0.96, 0.96)
        policy.step(state, depth, *times)

    return fly


def step_while_another_does(policy, state, depth):
    policy._within.add("another")
    try:
        policy.step(state, depth)
    finally:
        policy._within.discard("another")


def step_where_the_log_has_ended(policy, state, depth):
    policy.recorder._writer.ended = "the disk is full"
    policy.step(state, depth)


IN_FLIGHT = {
    Fault.STATE_SHAPE: "state-shape",
    Fault.STATE_TYPE: "state-list",
    Fault.STATE_NOT_FINITE: "state-nan",
    Fault.STATE_OUT_OF_RANGE: "state-low",
    Fault.DEPTH_SHAPE: "depth-shape",
    Fault.DEPTH_TYPE: "depth-type",
    Fault.DEPTH_NOT_A_NUMBER: "depth-nan",
    Fault.DEPTH_OUT_OF_RANGE: "depth-negative",
    Fault.DEPTH_UNIT: "depth-millimetres",
    Fault.DEPTH_BLIND: fly_blind,
    Fault.STATE_STALE: step_at(1.03, 0.97, 1.03),
    Fault.DEPTH_STALE: step_at(1.05, 1.05, 0.97),
    Fault.CLOCK: step_at(1.03, 1.04, 1.03),
    Fault.STEP_EARLY: step_at(1.014, 1.014, 1.014),
    Fault.STEP_LATE: step_at(1.161, 1.161, 1.161),
    Fault.CONCURRENT: step_while_another_does,
    Fault.COMMAND: lambda policy, *_: policy.hold([0.0, 0.0, 0.0, NAN]),
    # Numbers that the range lets through, and whose sums float32 does not hold.
    Fault.OUTPUT_NOT_FINITE: lambda policy, state, depth: policy.step(np.full_like(state, 3e38), depth),
    Fault.LOG: step_where_the_log_has_ended,
}
AT_START = {
    *(fault for fault in Fault if fault.name.startswith(("BUNDLE_", "CONTRACT_", "SIGNATURE_"))),
    *(Fault.NOT_SIGNED, Fault.UNSIGNED_FILE, Fault.RUNTIME, Fault.NOT_VERIFIED, Fault.GOLDEN_MISMATCH),
    *(Fault.OPTIONS, Fault.ASSEMBLY),
}


@pytest.mark.parametrize("engine", ["onnxruntime", "cpp"])
def test_each_guard_refuses_a_step_with_either_engine_and_lets_the_next_one_fly(native, engine, tmp_path):
    assert set(IN_FLIGHT) | AT_START == set(Fault), "a fault that no test raises in flight"
    usual = {} if engine == "onnxruntime" else native.options
    strict = OnboardOptions(**usual, max_state_age_s=0.05, max_depth_age_s=0.07, allow_unverified=True)
    loose = dataclasses.replace(strict, range_margin=1e39)
    policies = {
        "usual": OnboardPolicy(native.plain, strict),
        Fault.OUTPUT_NOT_FINITE: OnboardPolicy(native.plain, loose),
        Fault.LOG: OnboardPolicy(native.plain, strict, tmp_path / "log", RecordingOptions(at_limit="fault")),
    }
    for fault, spoil in IN_FLIGHT.items():
        policy = policies.get(fault, policies["usual"])
        policy.reset()
        state, depth = sample(1)
        with pytest.raises(OnboardFault) as raised:
            policy.step(*FAULTS[spoil](state, depth)) if isinstance(spoil, str) else spoil(policy, state, depth)
        assert raised.value.fault is fault
        if fault is not Fault.LOG:
            policy.reset()
            assert np.isfinite(policy.step(*sample(1)).command).all(), fault
    policies[Fault.LOG].close()
