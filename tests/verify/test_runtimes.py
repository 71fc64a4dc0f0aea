"""Providers, optimisation levels and threads: each that may fly is verified, and what really ran is asserted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.bundle.runtime import Runtime, runtimes
from deploy_kit.errors import OptionError
from deploy_kit.verify.matrix import by_arithmetic, provider_check
from deploy_kit.verify.report import Status, VerifiedRuntime
from deploy_kit.verify.verifier import verify_bundle

BARE = {"feature_file": None, "replay": False, "random_rows": 4, "search_evaluations": 8, "torchscript": False}
CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_every_combination_is_verified_and_named(run, tmp_path):
    report = verify_bundle(
        run.verify(
            **BARE, optimisation_levels=("all", "disabled"), onnx_threads=(1, 2), report=tmp_path / "report.json"
        )
    )
    assert report.passed
    assert report.runtimes == tuple(
        VerifiedRuntime("CPUExecutionProvider", level, threads, False)
        for level in ("all", "disabled")
        for threads in (1, 2)
    )
    for name in ("cpu-all-2", "cpu-disabled-1", "cpu-disabled-2"):
        assert report.verdict(f"onnx/provider@{name}").status is Status.PASSED
        for samples in ("golden", "near", "flight-like", "random", "extreme"):
            assert report.verdict(f"replay/{samples}/onnx@{name}").status is Status.PASSED


def test_wrong_level_fails_alone(run, tmp_path, monkeypatch):
    call = OnnxRunner.__call__

    def wrong(self, rows):
        outputs = call(self, rows)
        if self.runtime.level == "basic":
            outputs["action"] = outputs["action"] + np.float32(1e-3)
        return outputs

    monkeypatch.setattr(OnnxRunner, "__call__", wrong)
    report = verify_bundle(run.verify(**BARE, optimisation_levels=("all", "basic"), report=tmp_path / "report.json"))
    failed = {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}
    assert failed == {f"replay/{s}/onnx@cpu-basic-1" for s in ("golden", "near", "flight-like", "random", "extreme")}


@pytest.mark.skipif(CUDA, reason="CUDA is there")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_that_is_not_there_fails_plainly(run, tmp_path, provider):
    report = verify_bundle(run.verify(**BARE, providers=(provider,), report=tmp_path / "report.json"))
    assert not report.passed
    assert report.runtimes == ()
    assert "onnxruntime has no " in report.verdict("onnx/provider").reasons[0]
    assert 'pip install "deploy-kit[gpu]"' in report.verdict("onnx/provider").reasons[0]
    report = verify_bundle(run.verify(**BARE, providers=("cpu", provider), report=tmp_path / "report.json"))
    assert not report.passed
    assert [item.provider for item in report.runtimes] == ["CPUExecutionProvider"]
    assert "onnxruntime has no " in report.verdict(f"onnx/provider@{provider}-all-1").reasons[0]


class Fallback:
    """A runner whose convolutions ran elsewhere than asked for."""

    runtime = Runtime("cuda")

    def __init__(self, **found):
        self.found = {f"{name}ExecutionProvider": Counter(operators) for name, operators in found.items()}

    def executed(self, rows):
        return self.found


def test_arithmetic_that_falls_back_is_named(shared_bundle):
    def problems(**found):
        return provider_check("onnx/provider", Fallback(**found), shared_bundle.contract).problems

    assert problems(CUDA=["Conv", "Gemm"], CPU=["Shape", "Gather"]) == ()
    assert problems(CUDA=["Gemm"], CPU=["Conv", "Shape"]) == ("Conv ran on CPUExecutionProvider",)
    assert problems(CPU=["Shape"]) == ("nothing ran on CUDAExecutionProvider",)
    assert problems(CUDA=["Gemm"], CPU=["FusedConv"]) == ("FusedConv ran on CPUExecutionProvider",)


def test_what_ran_comes_from_the_profiler(shared_bundle):
    runner = OnnxRunner(shared_bundle.onnx_path, shared_bundle.contract, runtime=Runtime())
    found = runner.executed(np.zeros((1, shared_bundle.contract.observation.size), np.float32))
    assert set(found) == {"CPUExecutionProvider"}
    assert any("Conv" in operator for operator in found["CPUExecutionProvider"])


def test_tf32_is_off_unless_asked_for_and_has_limits_of_its_own(run, tmp_path):
    assert Runtime("cuda").provider_options == {"use_tf32": "0"}
    assert Runtime("cuda", tf32=True).provider_options == {"use_tf32": "1"}
    report = verify_bundle(run.verify(**BARE, report=tmp_path / "report.json"))
    check = next(check for check in report.checks if check.name == "replay/golden/onnx")
    assert by_arithmetic(check, Runtime("cuda")).profile is None
    assert by_arithmetic(check, Runtime("cuda", tf32=True)).profile == "tf32"


def test_combinations():
    assert runtimes(("cpu", "cuda", "cpu"), ("all",), (1,), tf32=True) == (Runtime(), Runtime("cuda", tf32=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"providers": ("gpu",)}, "unknown provider 'gpu'"),
        ({"optimisation_levels": ("most",)}, "unknown graph optimisation level 'most'"),
        ({"onnx_threads": (0,)}, "--onnx-threads 0"),
        ({"onnx_threads": (-1,)}, "-1 threads"),
        ({"onnx_threads": (100_000,)}, "100000 threads: give a number from 1 to 1024"),
        ({"providers": ()}, "no provider"),
        ({"tf32": True}, "--tf32 has no effect without --provider cuda"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(run, changes, message):
    with pytest.raises(OptionError, match=message):
        replace(run.verify(), **changes).check()


@pytest.mark.skipif(not CUDA, reason="onnxruntime has no CUDAExecutionProvider here")
@pytest.mark.parametrize("tf32", [False, True])
def test_cuda(run, tmp_path, tf32):
    report = verify_bundle(run.verify(**BARE, providers=("cuda",), tf32=tf32, report=tmp_path / "report.json"))
    assert report.passed, [verdict for verdict in report.verdicts if verdict.reasons]
    assert report.runtimes == (VerifiedRuntime("CUDAExecutionProvider", "all", 1, tf32),)
