"""Variants of the graph on board: what they must have been verified by, and how closely they are checked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deploy_kit.bundle.reader import CPP_NAME, HEADERS, ONNX_NAME
from deploy_kit.bundle.variants import VARIANT_ENGINES, VARIANTS
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, runner
from deploy_kit.onboard.verification import MODELS
from helpers.bundles import rewrite_manifest
from helpers.reports import write_report
from helpers.variants import narrowed, shift_number

CHECKS = ("int8/graph", "replay/golden/int8", "live/driving@int8")
CPU = {"provider": "CPUExecutionProvider", "level": "all", "threads": 1, "tf32": False}
INT8 = OnboardOptions(engine="onnxruntime-int8")


def passed(*names):
    return [{"name": name, "status": "passed"} for name in names]


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    return narrowed(run, tmp_path_factory.mktemp("narrow")).bundle


def refuse(bundle, fault, words, options=INT8):
    with pytest.raises(OnboardFault, match=words) as raised:
        OnboardPolicy(bundle, options)
    assert raised.value.fault is fault


def test_engines_are_named_as_on_the_host():
    files = {
        "onnxruntime": ONNX_NAME,
        **{engine: VARIANTS[kind] for engine, kind in VARIANT_ENGINES.items()},
        **HEADERS,
    }
    assert files == MODELS
    assert HEADERS["cpp"] == CPP_NAME


def test_a_variant_flies_only_as_it_was_flown_before(bundle):
    refuse(bundle, Fault.NOT_VERIFIED, r"policy\.int8\.onnx was verified and flown .*beside the bundle is absent")
    for missing in CHECKS:
        left = passed(*(name for name in CHECKS if name != missing))
        write_report(bundle, runtimes=[CPU], verdicts=[*left, {"name": missing, "status": "not run"}])
        refuse(bundle, Fault.NOT_VERIFIED, r"policy\.int8\.onnx was verified and flown")
    write_report(bundle, runtimes=[CPU, {**CPU, "threads": 2}], verdicts=passed(*CHECKS))
    refuse(bundle, Fault.NOT_VERIFIED, "level basic, 1 threads was not verified", replace(INT8, level="basic"))
    refuse(bundle, Fault.NOT_VERIFIED, "level all, 1 threads alone, not on .* 2 threads", replace(INT8, threads=2))
    write_report(bundle, runtimes=[CPU], verdicts=passed(*CHECKS), passed=False)
    refuse(bundle, Fault.NOT_VERIFIED, "these very files failed")
    write_report(bundle, runtimes=[CPU], verdicts=passed(*CHECKS))
    policy = OnboardPolicy(bundle, INT8)
    assert policy.engine.endswith("variant policy.int8.onnx, golden samples within 0.15")
    plain = OnboardPolicy(bundle, OnboardOptions(allow_unverified=True))
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(10):
        state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
        depth = rng.uniform(0.2, 14.0, plain.contract.image_shape)
        share = (policy.step(state, depth).command - plain.step(state, depth).command) / plain.contract.scale
        largest = max(largest, float(np.abs(share).max()))
    assert 1e-4 < largest < 0.05, "other weights fly, and near ones"


def test_it_needs_its_own_file_alone(run, tmp_path):
    bundle = narrowed(run, tmp_path, "fp16").bundle
    (bundle / ONNX_NAME).unlink()
    options = OnboardOptions(engine="onnxruntime-fp16", allow_unverified=True)
    assert 0 < OnboardPolicy(bundle, options).self_check < 1
    loose = replace(INT8, allow_unverified=True)
    refuse(bundle, Fault.BUNDLE_INCOMPLETE, r"has no policy\.int8\.onnx: export it with --variant int8; ", loose)
    file = bundle / VARIANTS["fp16"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    refuse(bundle, Fault.BUNDLE_ALTERED, r"policy\.fp16\.onnx has another sha256", options)


@pytest.mark.parametrize("error", [0.02, np.nan])
def test_narrow_arithmetic_that_is_not_the_graphs_is_refused(bundle, monkeypatch, error):
    """By far less than rounding takes from the golden samples, as where a processor saturates sums."""
    options = replace(INT8, allow_unverified=True)
    OnboardPolicy(bundle, options)
    opened = runner.open_engine

    def saturating(*given):
        engine = opened(*given)
        run = engine.run

        def wrong():
            run()
            engine.first[1] += np.float32(error)

        monkeypatch.setattr(engine, "run", wrong)
        return engine

    monkeypatch.setattr(runner, "open_engine", saturating)
    words = "golden sample 0: off" if np.isnan(error) else "this computer's narrow arithmetic is off by"
    refuse(bundle, Fault.GOLDEN_MISMATCH, words, options)


def test_a_variant_of_other_numbers_is_refused(run, tmp_path):
    wrong = narrowed(run, tmp_path, change=shift_number("actor.4.bias", 0.5)).bundle
    refuse(wrong, Fault.GOLDEN_MISMATCH, "off by", replace(INT8, allow_unverified=True))


def test_a_variant_loosens_no_check_of_the_contract(run, tmp_path):
    other = narrowed(run, tmp_path).bundle
    contract = json.loads((other / "contract.json").read_text())
    contract["action"]["scale"][1] *= 1.001
    (other / "contract.json").write_text(json.dumps(contract))
    rewrite_manifest(other)
    refuse(other, Fault.BUNDLE_ALTERED, r"policy\.int8\.onnx carries another", replace(INT8, allow_unverified=True))
