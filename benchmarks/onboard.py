"""Time the onboard runner's step beside onnxruntime's run of the same graph, in turns, on one thread.

Inference evicts Python from the caches, so both are also measured at the policy's rate, one step each 30 ms, where
everything takes longer. The recorder's log is written to a temporary folder; "lost" are records that the disk was too
slow for.

    python benchmarks/onboard.py BUNDLE [--paced 300]
    python benchmarks/onboard.py BUNDLE --engine cpp
    python benchmarks/onboard.py BUNDLE --provider CUDAExecutionProvider

The runner flies what the options name; `session.run` is always the bundle's graph on the CPU, and on the provider too
where that is another one.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from deploy_kit.onboard import OnboardOptions, OnboardPolicy
from deploy_kit.onboard.options import ENGINES, MAX_TOLERANCE
from deploy_kit.timing import Plan, Step, latency, measure, timer

CPU = "CPUExecutionProvider"


def make_steps(bundle: Path, options: OnboardOptions, recorded: OnboardPolicy) -> dict[str, Step]:
    """Return one step of each candidate: the graph alone, and the runner with and without times and recorder.

    Args:
        bundle: what runs.
        options: how the runner flies it.
        recorded: the runner with a recorder.
    """
    policy, timed = OnboardPolicy(bundle, options), OnboardPolicy(bundle, options)
    contract = policy.contract
    state = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    metres = np.random.default_rng(0).uniform(0.5, 12.0, contract.image_shape).astype(np.float32)
    whole = np.concatenate([state, contract.offset]).astype(np.float32)[None]
    image = (np.minimum(metres, contract.clip_m) / contract.divisor_m).astype(np.float32)[None, None]
    inputs = dict(zip(contract.inputs, (whole, image), strict=True))

    def graph(provider: str, provider_options: dict[str, str]) -> Step:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        providers = [(provider, provider_options)]
        session = onnxruntime.InferenceSession(bundle / "policy.onnx", settings, providers=providers)
        session.disable_fallback()
        assert session.get_providers()[0] == provider
        return lambda: session.run(None, inputs)

    def with_times(policy: OnboardPolicy) -> Step:
        now = 0.0

        def step() -> object:
            nonlocal now
            now += contract.policy_period_s
            return policy.step(state, metres, now, now - 0.01, now - 0.02)

        return step

    provider = options.provider
    elsewhere = {} if provider == CPU else {f"session.run, {provider}": graph(provider, options.all_provider_options)}
    return {
        "session.run": graph(CPU, {}),
        **elsewhere,
        "step, state of 12 numbers": lambda: policy.step(state, metres),
        "step, state of 12 numbers and times": with_times(timed),
        "the same with recorder": with_times(recorded),
    }


def show(title: str, steps: dict[str, Step], plan: Plan) -> None:
    """Measure and print one table; the ratio is that of the medians."""
    durations = measure({name: timer(step) for name, step in steps.items()}, plan)
    base = latency(durations["session.run"]).p50_us
    print(f"{title:40}{'p50 µs':>9}{'p99 µs':>10}{'ratio':>8}")
    for name, values in durations.items():
        figures = latency(values)
        print(f"{name:40}{figures.p50_us:9.1f}{figures.p99_us:10.1f}{figures.p50_us / base:7.2f}x")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default=OnboardOptions.engine)
    parser.add_argument("--provider", default=CPU, help="onnxruntime's execution provider")
    parser.add_argument("--tf32", action="store_true", help="let CUDA round to TF32")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--paced", type=int, default=200, help="steps of each candidate at one a period")
    given = parser.parse_args()
    options = OnboardOptions(
        engine=given.engine,
        provider=given.provider,
        tf32=given.tf32,
        tolerance=MAX_TOLERANCE if given.tf32 else OnboardOptions.tolerance,
        allow_unverified=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        recorded = OnboardPolicy(given.bundle, options, log=folder)
        print(f"batch 1, the runner on {recorded.engine}, onnxruntime {onnxruntime.__version__}")
        print(f"golden samples: worst at {recorded.self_check:.2f} of the tolerance")
        steps = make_steps(given.bundle, options, recorded)
        show("back to back", steps, Plan(given.rounds, given.repeats))
        if given.paced:
            show("one step each 30 ms", steps, Plan(given.paced, 1, 0.03))
        recorded.close()
        assert recorded.recorder is not None
        print(f"lost: {recorded.recorder.lost}")


if __name__ == "__main__":
    main()
