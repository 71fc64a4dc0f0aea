"""What stands in a bound array when the graph runs is what it must compute on, on every device."""

import numpy as np
import onnxruntime
import pytest

from deploy_kit.onboard import OnboardOptions, OnboardPolicy, binding
from deploy_kit.onboard.binding import BoundSession

PROVIDERS = [
    "CPUExecutionProvider",
    pytest.param(
        "CUDAExecutionProvider",
        marks=pytest.mark.skipif(
            "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no CUDA provider"
        ),
    ),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("copies", [False, True])
def test_arrays_may_change_between_runs(bundles, monkeypatch, provider, copies):
    if copies:
        monkeypatch.setattr(binding, "SHARES_MEMORY", ())
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()
    options = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    session = onnxruntime.InferenceSession(bundles.plain / "policy.onnx", providers=[(provider, options)])
    rng = np.random.default_rng(0)
    names = [value.name for value in session.get_outputs()]
    inputs = {value.name: np.zeros((1, *value.shape[1:]), np.float32) for value in session.get_inputs()}
    outputs = [np.zeros_like(array) for array in session.run(names, inputs)]
    bound = BoundSession(session, inputs.items(), zip(names, outputs, strict=True))
    seen = []
    for _ in range(20):
        for array in inputs.values():
            array[...] = rng.uniform(0, 1, array.shape)
        bound.run()
        for found, wanted in zip(outputs, session.run(names, inputs), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        seen.append(outputs[0].copy())
    assert len({array.tobytes() for array in seen}) == 20


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_runner_flies_on_the_provider(bundles, provider):
    """Its golden samples hold there, step for step."""
    policy = OnboardPolicy(bundles.plain, OnboardOptions(provider=provider, allow_unverified=True))
    assert policy._graph.providers[0] == provider
