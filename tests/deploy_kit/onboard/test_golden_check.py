"""The golden check at start is a rule of its own, since the folder flies alone: it must say what the judge says."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.bundle.contract_fields import GateOutput
from deploy_kit.bundle.parity import OutputSemantics, ParityComparison, judge_parity
from deploy_kit.bundle.runners import GATE_TERMS
from deploy_kit.bundle.thresholds import FP32_PARITY, Thresholds
from deploy_kit.onboard import OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard.golden import golden_share
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from helpers.bundles import edit_golden

SCALE, OFFSET = (14.7, 6.0, 6.0, 6.0), (14.7, 0.0, 0.0, 0.0)
TRANSFORM = ActionTransform(SCALE, OFFSET)
ACTION = np.array([0.5, -2.0, 0.0, 30.0])
TOLERANCE = OnboardOptions.tolerance

LIMITS = {"inside": 0.99, "outside": 1.01}
SHIFTS = {**LIMITS, "-inside": -0.99, "-outside": -1.01, "nan": np.nan, "-inf": -np.inf}
TERMS = (0.0, 11.0, 1e4, 1e9, np.inf, np.nan)
LOGITS = (0.0, 8.0, -500.0)


def sigmoid(logit):
    return 1.0 / (1.0 + np.exp(-logit))


def expected_outputs(logit, terms):
    command = np.tanh(ACTION) * SCALE + OFFSET
    reference = {"action": ACTION, "command": command, "gate_logit": logit, "gate_probability": sigmoid(logit)}
    return {role: np.atleast_1d(value)[None] for role, value in {**reference, GATE_TERMS: terms}.items()}


def judges_verdict(reference, outputs):
    semantics = OutputSemantics(ACTION_NAMES, ACTION_UNITS, TRANSFORM, None)
    comparison = ParityComparison("golden", "", tuple(outputs), semantics)
    comparison.add(reference, {role: values[None] for role, values in outputs.items()})
    _, reasons = judge_parity(comparison.result(str), Thresholds())
    return not reasons


def drones_verdict(physical, probability, outputs, logit, terms):
    contract = SimpleNamespace(
        scale=np.array(SCALE),
        offset=np.array(OFFSET),
        physical=physical,
        gate_probability=probability,
        command=TRANSFORM.apply,
    )
    first, gate = (values.astype(np.float64) for values in outputs.values())
    share = golden_share(contract, first, float(gate[0]), ACTION, (logit, terms), TOLERANCE)
    return bool(share <= 1.0)


@pytest.mark.parametrize("changed", ["action", "gate"])
@pytest.mark.parametrize("physical", [False, True], ids=["action", "command"])
@pytest.mark.parametrize("output", GateOutput)
def test_golden_check_says_what_the_judge_says(output, physical, changed):
    probability = output is GateOutput.PROBABILITY
    roles = ("command" if physical else "action", f"gate_{output}")
    role, channel = (roles[0], 2) if changed == "action" else (roles[1], 0)
    for (name, shift), logit, terms in itertools.product(SHIFTS.items(), LOGITS, TERMS):
        reference = expected_outputs(logit, terms)
        outputs = {role: reference[role][0].copy() for role in roles}
        # The limit as the documentation states it.
        slope = sigmoid(logit) * (1 - sigmoid(logit)) if probability else 1.0
        unit = SCALE[2] if physical else 1.0
        if changed == "gate":
            unit = max(1.0, 0.1 * terms * slope) if np.isfinite(terms) else 1.0
        outputs[role][channel] += shift * TOLERANCE * (unit + abs(outputs[role][channel]))
        verdict = drones_verdict(physical, probability, outputs, logit, terms)
        assert verdict == judges_verdict(reference, outputs), (name, logit, terms)
        assert verdict == (name.endswith("inside") and bool(np.isfinite(terms))), (name, logit, terms)


def test_tolerance_is_the_judges():
    assert FP32_PARITY.absolute == FP32_PARITY.relative == TOLERANCE


def test_commands_that_the_contract_makes_otherwise_are_refused(broken):
    """A thrust scale that differs between contract and samples: one of the two is not the vehicle's."""

    def weaken(folder):
        with np.load(folder / "golden.npz") as archive:
            edit_golden(folder, command=archive["command"] * np.array([0.9, 1, 1, 1], np.float32))

    with pytest.raises(OnboardFault, match=r"golden sample [0-9]: command 0 is .* do not fly"):
        OnboardPolicy(broken(weaken))


def test_samples_without_commands_are_refused(broken):
    with pytest.raises(OnboardFault, match="export the bundle anew"):
        OnboardPolicy(broken(lambda folder: edit_golden(folder, command=None)))
