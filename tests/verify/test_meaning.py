"""Every field of the contract is compared with what checkpoint, run and vehicle imply."""

import dataclasses
import json
from pathlib import Path

import pytest

from deploy_kit.bundle.codec import encode
from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.implied import EXEMPT, OPTIONAL
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, find_vehicle
from deploy_kit.verify.meaning import contract_checks
from deploy_kit.verify.report import NotRun
from helpers.documentation import documented_block
from helpers.vehicles import write_vehicle

DOCS = Path(__file__).resolve().parents[2] / "docs" / "verify.md"


@pytest.fixture(scope="module")
def checkpoint(run):
    return load_checkpoint(run.checkpoint)


@pytest.fixture(scope="module")
def named(checkpoint):
    return find_vehicle(checkpoint, TASK_ID, None)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value * 1.001 + 0.5
    return "forged" if value is None else f"{value}x"


def forge(data, path):
    """Return a copy of the contract's JSON with one leaf changed."""
    data = json.loads(json.dumps(data))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = changed(place[path[-1]])
    return data


def dotted(path):
    return ".".join(key for key in path if isinstance(key, str))


def is_exempt(path):
    text = dotted(path)
    return any(text == exempt or text.startswith(f"{exempt}.") for exempt in EXEMPT)


def problems(bundle, checkpoint, named, data, monkeypatch):
    genuine = bundle.contract
    with monkeypatch.context() as patch:
        patch.setattr("deploy_kit.verify.meaning.encode", lambda value: data if value is genuine else encode(value))
        checks = contract_checks(bundle, checkpoint, named)
    return {check.name: check.problems for check in checks if check.problems}


def test_right_contract_has_no_problem(run, checkpoint, named):
    bundle = open_bundle(run.bundle)
    checks = contract_checks(bundle, checkpoint, named)
    assert all(check.problems == () for check in checks)
    assert {check.name.partition("/")[2] for check in checks} == {
        field.name for field in dataclasses.fields(Contract) if field.name not in EXEMPT
    }


def test_each_field_is_compared_but_for_the_exempt_ones(run, checkpoint, named, monkeypatch):
    bundle = open_bundle(run.bundle)
    data = encode(bundle.contract)
    paths = list(leaves(data))
    assert len(paths) > 150
    for path in paths:
        found = problems(bundle, checkpoint, named, forge(data, path), monkeypatch)
        if is_exempt(path):
            assert found == {}, path
        else:
            assert list(found) == [f"contract/{path[0]}"], path
            assert dotted(path) in dotted_text(found[f"contract/{path[0]}"][0])


def dotted_text(problem):
    return "".join(part.partition("]")[2] if index else part for index, part in enumerate(problem.split("[")))


def test_what_is_optional_may_be_left_out(run, checkpoint, named, monkeypatch):
    bundle = open_bundle(run.bundle)
    data = json.loads(json.dumps(encode(bundle.contract)))
    data["camera"] = None
    del data["vehicle"]["mass_kg"]
    assert problems(bundle, checkpoint, named, data, monkeypatch) == {}
    assert set(OPTIONAL) == {"camera", "vehicle.mass_kg"}


def test_added_field_of_a_mapping_is_named(run, checkpoint, named, monkeypatch):
    bundle = open_bundle(run.bundle)
    data = json.loads(json.dumps(encode(bundle.contract)))
    data["vehicle"]["arm_length_m"] = {"value": 0.1, "unit": "m", "source": "task"}
    data["gate"]["metrics"]["recall"] = 1.0
    found = problems(bundle, checkpoint, named, data, monkeypatch)
    assert sorted(found) == ["contract/gate", "contract/vehicle"]
    assert found["contract/gate"] == ("gate.metrics.recall is 1.0, expected None",)


def test_vehicle_that_is_not_known_fails_unless_it_was_not_wanted(run, checkpoint):
    bundle = open_bundle(run.bundle)
    checks = {c.name: c for c in contract_checks(bundle, checkpoint, NamedVehicle(None, problem="no numbers"))}
    dependent = [f"contract/{part}" for part in ("action", "timing", "vehicle")]
    assert [checks[name].problems for name in dependent] == [("no numbers",)] * 3
    assert checks["contract/observation"].problems == ()
    checks = {c.name: c for c in contract_checks(bundle, checkpoint, NamedVehicle(None, wanted=False))}
    assert [checks[name] for name in dependent] == [NotRun(name, "--no-vehicle", "--no-vehicle") for name in dependent]


def test_exempt_fields_are_those_in_the_docs():
    rows = [f"| `{path}` | {reason} |" for path, reason in EXEMPT.items()]
    rows += [f"| `{path}`, where left out | {reason} |" for path, reason in OPTIONAL.items()]
    documented_block(DOCS, "exempt", ["| field | why |", "|---|---|", *rows])


def quantities(named):
    return [term.quantity for term in named.meaning.terms]


def test_a_contract_that_knows_no_term_is_held_against_what_follows_without_a_task(checkpoint, shared_bundle, tmp_path):
    vehicle, contract = write_vehicle(tmp_path), shared_bundle.contract
    assert None not in [term.quantity for term in contract.observation.terms]

    def knowing(count):
        terms = [
            term if index < count else dataclasses.replace(term, quantity=None)
            for index, term in enumerate(contract.observation.terms)
        ]
        return dataclasses.replace(contract, observation=dataclasses.replace(contract.observation, terms=tuple(terms)))

    with_task = quantities(find_vehicle(checkpoint, TASK_ID, vehicle, contract))
    assert None not in with_task
    without = find_vehicle(checkpoint, TASK_ID, vehicle, knowing(0))
    assert set(quantities(without)) == {None}
    assert without.vehicle is not None
    # One known term, or no contract, and the task counts: a contract cannot choose term by term.
    assert quantities(find_vehicle(checkpoint, TASK_ID, vehicle, knowing(1))) == with_task
    assert quantities(find_vehicle(checkpoint, TASK_ID, vehicle)) == with_task
    # Without the task nothing tells this vehicle, so the task counts, and the unknown terms are differences.
    assert quantities(find_vehicle(checkpoint, TASK_ID, None, knowing(0))) == with_task
