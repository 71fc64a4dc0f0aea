import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_kit.bundle.codec import DecodeError, decode, encode
from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import SourcedValue
from deploy_kit.errors import BundleError
from helpers.checkpoints import CALIBRATION


def test_round_trip_is_exact(shared_bundle):
    contract = shared_bundle.contract
    text = contract.to_json()
    assert Contract.from_json(text) == contract
    assert Contract.from_json(text).to_json() == text
    assert contract.gate.threshold_logit == 0.1 + 0.2


@given(st.floats(allow_nan=False, allow_infinity=False), st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_keep_every_bit(number, several):
    for value in (SourcedValue(number, "1", "x"), SourcedValue(tuple(several), "1", "x")):
        assert decode(SourcedValue, json.loads(json.dumps(encode(value))), "value") == value


def test_says_what_this_policy_is(shared_bundle):
    contract = shared_bundle.contract
    assert [(spec.name, spec.shape) for spec in contract.inputs] == [
        ("state", ("batch", 16)),
        ("depth", ("batch", 1, 24, 32)),
    ]
    assert [(spec.name, spec.shape) for spec in contract.outputs] == [
        ("action", ("batch", 4)),
        ("gate_logit", ("batch", 1)),
    ]
    assert [(term.name, term.start, term.stop) for term in contract.observation.terms] == [
        ("base_lin_vel", 0, 3),
        ("base_orientation", 3, 6),
        ("target_position", 6, 9),
        ("next_target_offset", 9, 12),
        ("last_action", 12, 16),
    ]
    assert contract.observation.terms[-1].high == (3 * 9.81, 6.0, 6.0, 6.0)
    assert (contract.observation.depth.clip_m, contract.observation.depth.divisor_m) == (10.0, 10.0)
    assert contract.observation.normalizer.eps == 0.01
    assert contract.action.scale == (1.5 * 9.81, 6.0, 6.0, 6.0)
    assert contract.action.offset == (1.5 * 9.81, 0.0, 0.0, 0.0)
    assert contract.timing.policy_period_s == SourcedValue(0.03, "s", "task")
    assert contract.timing.action_latency_steps.value == 1
    assert contract.gate.rule == CALIBRATION.rule
    assert (contract.gate.label_distance_m, contract.gate.policy_period_s) == (0.35, 0.03)
    detector = contract.gate.detector
    assert (detector.threshold_logit, detector.release_logit) == (0.1 + 0.2, -1.7)
    assert detector.release_probability == pytest.approx(1 / (1 + math.exp(1.7)), rel=1e-15)
    assert (detector.refractory_steps, detector.tolerance_steps) == (10, 5)
    assert (detector.refractory_s, detector.tolerance_s) == pytest.approx((0.3, 0.15))
    assert (contract.action.clip, contract.action.clip_source, contract.action.source) == (None, "task", "task")
    assert contract.vehicle["mass_kg"].source == "assumed"
    assert {term.source for term in contract.observation.terms} == {"task"}
    assert contract.observation.depth.range_source == "task"
    assert contract.gate.threshold_probability == pytest.approx(1 / (1 + math.exp(-0.3)), rel=1e-15)
    assert contract.provenance.checkpoint == "model_7.safetensors"
    assert contract.provenance.iteration == 7
    assert contract.camera is None  # the task's camera has another image shape than this small policy


def test_another_schema_version_says_what_to_do(shared_bundle):
    data = json.loads(shared_bundle.contract.to_json())
    data["schema_version"] = 99
    with pytest.raises(BundleError, match=r"schema version 99, .* version 2; make the bundle anew: deploy-kit export"):
        Contract.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema_version": NaN}', "[" * 100_000])
def test_no_contract(text):
    with pytest.raises(BundleError, match=r"contract\.json"):
        Contract.from_json(text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("action"), "lacks the field 'action'"),
        (lambda d: d.update(extra=1), "unknown field 'extra'"),
        (lambda d: d["action"].update(scale="14"), r"contract\.action\.scale is str"),
        (lambda d: d["action"]["scale"].pop(), "differ in length"),
        (lambda d: d["action"].update(inside_graph=1), r"inside_graph is int 1, expected bool"),
        (lambda d: d["action"].update(inside_graph=True), "outputs do not fit"),
        (lambda d: d["gate"].update(output="odds"), "expected one of logit, probability"),
        (lambda d: d["inputs"].reverse(), "inputs do not fit"),
        (lambda d: d["outputs"][1].update(name="action"), "not unique"),
        (lambda d: d["observation"].update(size=5), "not state plus image"),
        (lambda d: d["observation"]["terms"].pop(1), "do not tile"),
        (lambda d: d["observation"]["terms"][0]["low"].pop(), "do not fit the term"),
        (lambda d: d["observation"]["terms"][0].update(low=[99.0] * 3), "do not fit the term"),
        (lambda d: d["observation"]["terms"][0].update(low=None), "do not fit the term"),
        (lambda d: d["observation"]["terms"][0].update(scale=[1.0]), "do not fit the term"),
        (lambda d: d["observation"]["depth"].update(divisor_m=None), "must be positive, or both null"),
        (lambda d: d["gate"].update(detector=None), "a threshold needs a detector"),
        (lambda d: d["gate"]["detector"].update(release_logit=0.4), "a threshold needs a detector"),
        (lambda d: d["gate"]["detector"].update(refractory_steps=-1), "a threshold needs a detector"),
        (lambda d: d["observation"]["depth"].update(divisor_m=0.0), "must be positive"),
        (lambda d: d["timing"]["policy_period_s"].update(value=0.0), "periods"),
        (lambda d: d["timing"]["action_latency_steps"].update(value=0.5), "latency"),
    ],
)
def test_unusable_fields_are_named(shared_bundle, edit, message):
    data = json.loads(shared_bundle.contract.to_json())
    edit(data)
    with pytest.raises(BundleError, match=message):
        Contract.from_json(json.dumps(data))


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN"])
def test_numbers_that_are_not_finite(shared_bundle, number):
    text = shared_bundle.contract.to_json().replace("0.30000000000000004", number, 1)
    with pytest.raises(BundleError, match=r"expected a finite number|is not a JSON number"):
        Contract.from_json(text)


def test_decode_names_the_place():
    with pytest.raises(DecodeError, match=r"place\.value\[1\] is bool True, expected float"):
        decode(SourcedValue, {"value": [1.0, True], "unit": "1", "source": "x"}, "place")
