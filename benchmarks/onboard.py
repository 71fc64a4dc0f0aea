"""Time the onboard runner's step beside onnxruntime's run of the same graph, in turns, on one thread.

Inference evicts Python from the caches, so both are also measured at the policy's rate, one step each 30 ms, where
everything takes longer. The recorder's log is written to a temporary folder; "lost" are records that the disk was too
slow for.

    python benchmarks/onboard.py BUNDLE [--paced 300]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from deploy_kit.onboard import OnboardPolicy
from deploy_kit.timing import Plan, Step, latency, measure, timer


def make_steps(bundle: Path, recorded: OnboardPolicy) -> dict[str, Step]:
    """Return one step of each candidate: the graph alone, and the runner with and without times and recorder.

    Args:
        bundle: what runs.
        recorded: the runner with a recorder.
    """
    policy, timed = OnboardPolicy(bundle), OnboardPolicy(bundle)
    contract = policy.contract
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(bundle / "policy.onnx", options, providers=["CPUExecutionProvider"])
    state = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    metres = np.random.default_rng(0).uniform(0.5, 12.0, contract.image_shape).astype(np.float32)
    whole = np.concatenate([state, contract.offset]).astype(np.float32)[None]
    image = (np.minimum(metres, contract.clip_m) / contract.divisor_m).astype(np.float32)[None, None]
    inputs = dict(zip(contract.inputs, (whole, image), strict=True))

    def with_times(policy: OnboardPolicy) -> Step:
        now = 0.0

        def step() -> object:
            nonlocal now
            now += contract.policy_period_s
            return policy.step(state, metres, now, now - 0.01, now - 0.02)

        return step

    return {
        "session.run": lambda: session.run(None, inputs),
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
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--paced", type=int, default=200, help="steps of each candidate at one a period")
    options = parser.parse_args()
    print(f"batch 1, one thread, onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        recorded = OnboardPolicy(options.bundle, log=folder)
        steps = make_steps(options.bundle, recorded)
        show("back to back", steps, Plan(options.rounds, options.repeats))
        if options.paced:
            show("one step each 30 ms", steps, Plan(options.paced, 1, 0.03))
        recorded.close()
        assert recorded.recorder is not None
        print(f"lost: {recorded.recorder.lost}")


if __name__ == "__main__":
    main()
