"""The contract's JSON schema, and the page that explains it."""

import json
import re
from pathlib import Path

import pytest

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.schema import SCHEMA_PATH, build_schema, schema_problem, schema_text
from deploy_kit.policy.shipped import DEMO_POLICY

PAGE = Path(__file__).parents[3] / "docs" / "contract.md"
HEADINGS = {
    "TensorSpec": "Inputs and outputs",
    "ObservationSpec": "Observation",
    "StateTerm": "Terms of the state",
    "DepthSpec": "Depth image",
    "NormalizerSpec": "Normaliser",
    "ActionSpec": "Action",
    "GateSpec": "Gate",
    "DetectorSpec": "Detector",
    "TimingSpec": "Timing",
    "SourcedValue": "Sourced value",
    "CameraSpec": "Camera",
    "CameraMount": "Camera mount",
    "NetworkSpec": "Network",
    "Provenance": "Provenance",
    "Versions": "Versions",
}
"""Section of the page about each part."""


@pytest.fixture(scope="module")
def shipped() -> dict:
    return json.loads(DEMO_POLICY.with_name("contract.json").read_text(encoding="utf-8"))


def test_the_shipped_schema_is_that_of_the_dataclasses():
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()


def test_the_demos_contract_fits(shipped):
    assert schema_problem(shipped) is None
    assert json.loads(Contract.from_json(json.dumps(shipped)).to_json()) == shipped


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d["gate"]["detector"].update(threshold_logit="x"),
            r"contract\.gate\.detector\.threshold_logit: 'x'",
        ),
        (lambda d: d["gate"]["detector"].pop("refractory_steps"), "'refractory_steps' is a required property"),
        (lambda d: d["action"].update(more=1), r"contract\.action: .*'more' was unexpected"),
        (lambda d: d["observation"]["terms"][1].update(start=0.5), r"contract\.observation\.terms\[1\]\.start"),
        (lambda d: d["camera"]["mount"].update(position_m=[1.0]), r"contract\.camera\.mount\.position_m"),
        (lambda d: d.update(schema_version=1), r"contract\.schema_version: 2 was expected"),
    ],
)
def test_what_does_not_fit_is_named(shipped, edit, message):
    data = json.loads(json.dumps(shipped))
    edit(data)
    assert re.search(message, schema_problem(data))


def test_every_field_is_described():
    schema = build_schema()
    for name, part in {"Contract": schema, **schema["$defs"]}.items():
        for field, kind in part["properties"].items():
            assert kind.get("description") or field == "schema_version", f"{name}.{field}"


def test_the_page_explains_exactly_the_schemas_fields():
    schema = build_schema()
    assert set(schema["$defs"]) == set(HEADINGS)
    sections = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S))
    parts = {"The contract": schema, **{HEADINGS[name]: part for name, part in schema["$defs"].items()}}
    for heading, part in parts.items():
        table = sections[heading].partition("| field |")[2]
        rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", table, re.M))
        told = {field: kind.get("description", rows.get(field)) for field, kind in part["properties"].items()}
        assert rows == told, heading
