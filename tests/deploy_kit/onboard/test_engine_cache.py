"""TensorRT on board as far as it goes without TensorRT: a session stands in for it that keeps engines as it does."""

import json
import os
from pathlib import Path

import onnxruntime
import pytest

from deploy_kit.onboard import OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard import graph as room
from deploy_kit.onboard.options import TENSORRT

ENGINE = "TensorrtExecutionProvider_TRTKernel_0.engine"


class StandIn(onnxruntime.InferenceSession):
    """The CPU's session that says it is TensorRT's, and keeps an engine at its first run."""

    given: dict[str, str]
    found: list[str]

    def __init__(self, model, settings, providers, provider_options):
        super().__init__(model, settings, providers=["CPUExecutionProvider"])
        assert providers == [TENSORRT]
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
        (StandIn.given,) = provider_options
        self.path = provider_options[0].get("trt_engine_cache_path")
        StandIn.found = sorted(path.name for path in Path(self.path).iterdir()) if self.path else []

    def get_providers(self):
        return [TENSORRT, "CPUExecutionProvider"]

    def run(self, *arguments):
        if self.path and not (Path(self.path) / ENGINE).exists():
            (Path(self.path) / ENGINE).write_bytes(b"engine")
        return super().run(*arguments)


@pytest.fixture
def fly(bundles, tmp_path, monkeypatch):
    """Start the runner on the stand-in; return the folder of the graph's engines."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setattr(room.onnxruntime, "InferenceSession", StandIn)
    monkeypatch.setattr(room.onnxruntime, "get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])

    def start(bundle=bundles.plain):
        options = OnboardOptions(provider=TENSORRT, engine_cache=str(tmp_path / "engines"), allow_unverified=True)
        assert OnboardPolicy(bundle, options).self_check < 1
        assert StandIn.given["trt_engine_cache_enable"] == "1"
        return Path(StandIn.given["trt_engine_cache_path"])

    return start


def test_engines_are_kept_with_their_hashes(fly):
    folder = fly()
    assert StandIn.found == []
    assert list(json.loads((folder / "engines.json").read_text())) == [ENGINE]
    assert folder.stat().st_mode & 0o077 == 0
    assert fly() == folder
    assert StandIn.found == [ENGINE, "engines.json"]


@pytest.mark.parametrize("name", [ENGINE, "another.engine"])
def test_an_engine_that_was_not_recorded_is_refused(fly, name):
    folder = fly()
    (folder / name).write_bytes(b"another policy's")
    with pytest.raises(OnboardFault, match=f"{name} in .* is not the engine that was recorded: remove the folder"):
        fly()


def test_a_record_that_cannot_be_read_is_refused(fly):
    folder = fly()
    (folder / "engines.json").write_text("[" * 100_000)
    with pytest.raises(OnboardFault, match="cannot be checked"):
        fly()


def test_engines_of_a_start_that_ended_early_are_built_anew(fly):
    folder = fly()
    (folder / "engines.json").rename(folder / "engines.json.new")
    (folder / ENGINE).write_bytes(b"half")
    fly()
    assert (folder / ENGINE).read_bytes() == b"engine"


def test_each_graph_has_a_folder_of_its_own(fly, bundles):
    # onnxruntime's names of engines do not tell the weights.
    assert fly() != fly(bundles.ready)


def test_tf32_is_off_or_nothing_flies(fly, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(OnboardFault, match="NVIDIA_TF32_OVERRIDE is '1', and TensorRT would round to TF32"):
        fly()


def test_options_that_change_what_was_verified_are_refused():
    for name in ("trt_fp16_enable", "trt_int8_enable", "trt_extra_plugin_lib_paths", "trt_engine_cache_path"):
        with pytest.raises(OnboardFault, match=f"{name}: TensorRT was verified without it"):
            OnboardOptions(provider=TENSORRT, provider_options={name: "1"})
    OnboardOptions(provider=TENSORRT, provider_options={"trt_fp16_enable": "1"}, allow_unverified=True)
    OnboardOptions(provider=TENSORRT, provider_options={"device_id": "1"})
    with pytest.raises(OnboardFault, match="engine_cache is the name of a folder, and goes with Tensorrt"):
        OnboardOptions(engine_cache="engines")
