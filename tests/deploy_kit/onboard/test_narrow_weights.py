"""The C++ engine with narrow weights: what it must have been verified by, and how closely it is checked."""

import json

import numpy as np
import pytest

from deploy_kit.bundle.reader import HEADERS
from deploy_kit.files import file_sha256
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy
from helpers.cpp_headers import first_number, with_header

CHECKS = ("cpp-int8/text", "cpp-int8/run", "replay/golden/cpp-int8", "live/driving@cpp-int8")


def write_report(bundle, passed):
    report = {
        "schema_version": 3,
        "subject": {"manifest_sha256": file_sha256(bundle / "manifest.json")},
        "passed": True,
        "complete": True,
        "runtimes": [],
        "verdicts": [{"name": name, "status": "passed"} for name in passed],
    }
    (bundle / "report.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {"engine": "cpp-int8", "cpp_cache": str(tmp_path_factory.mktemp("builds"))}


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    return with_header(run, tmp_path_factory.mktemp("narrow"), forms=("cpp-int8",)).bundle


def test_it_flies_only_where_it_was_flown_before(bundle, options):
    for missing in CHECKS:
        write_report(bundle, [name for name in CHECKS if name != missing])
        with pytest.raises(OnboardFault, match=r"policy\.int8\.hpp was verified and flown") as raised:
            OnboardPolicy(bundle, OnboardOptions(**options))
        assert raised.value.fault is Fault.NOT_VERIFIED
    write_report(bundle, CHECKS)
    policy = OnboardPolicy(bundle, OnboardOptions(**options))
    assert policy.engine.startswith("C++ int8 weights, golden samples within 0.15, ")
    plain = OnboardPolicy(bundle, OnboardOptions(allow_unverified=True))
    shape, rng = plain.contract.image_shape, np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
        depth = rng.uniform(0.2, 14.0, shape)
        share = (policy.step(state, depth).command - plain.step(state, depth).command) / plain.contract.scale
        largest = max(largest, float(np.abs(share).max()))
    # Other weights flew, and near ones.
    assert 1e-5 < largest < 0.05


def test_its_own_samples_are_held_to_the_tolerance_of_float32(run, options, tmp_path):
    """By a thousandth, which the bundle's samples would let pass."""
    change = first_number("kGoldenAction", lambda value: value + np.float32(1e-3))
    wrong = with_header(run, tmp_path, change, ("cpp-int8",)).bundle
    with pytest.raises(OnboardFault, match="golden samples in the header fail") as raised:
        OnboardPolicy(wrong, OnboardOptions(**options, allow_unverified=True))
    assert raised.value.fault is Fault.GOLDEN_MISMATCH


def test_narrow_weights_loosen_no_check_of_the_contract(run, options, bundle, tmp_path):
    other = with_header(run, tmp_path, forms=("cpp-int8",)).bundle
    contract = json.loads((other / "contract.json").read_text())
    contract["action"]["scale"][1] *= 1.001
    (other / "contract.json").write_text(json.dumps(contract))
    listed = json.loads((other / "manifest.json").read_text())
    path = other / "contract.json"
    listed["files"]["contract.json"] = {"sha256": file_sha256(path), "size": path.stat().st_size}
    (other / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(OnboardFault, match="this contract makes"):
        OnboardPolicy(other, OnboardOptions(**options, allow_unverified=True))


def test_a_header_that_the_bundle_lacks(bundle, options):
    assert HEADERS["cpp-fp16"] == "policy.fp16.hpp"
    with pytest.raises(OnboardFault, match=r"has no policy\.fp16\.hpp: export it with --format cpp-fp16"):
        OnboardPolicy(bundle, OnboardOptions(**options | {"engine": "cpp-fp16"}))
