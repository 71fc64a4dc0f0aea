"""Check a bundle on this computer and measure it: ``python -m onboard BUNDLE``."""

import argparse
import platform
import sys
import time

import numpy as np
import onnxruntime

from .faults import OnboardFault
from .runner import OnboardOptions, OnboardPolicy


def main(arguments: list[str] | None = None) -> int:
    """Run the self-check and print the latency; return the exit code (0 fit to fly, 1 refused)."""
    parser = argparse.ArgumentParser(prog="python -m onboard", description="Check a bundle on this computer.")
    parser.add_argument("bundle", help="folder that deploy-kit export wrote")
    parser.add_argument("--provider", default=OnboardOptions.provider, help="onnxruntime's execution provider")
    parser.add_argument("--threads", type=int, default=OnboardOptions.threads, help="threads of one inference")
    parser.add_argument("--steps", type=int, default=2000, help="steps to measure")
    options = parser.parse_args(arguments)
    try:
        policy = OnboardPolicy(options.bundle, OnboardOptions(provider=options.provider, threads=options.threads))
    except OnboardFault as fault:
        sys.stderr.write(f"refused, {fault}\n")
        return 1
    sys.stdout.write(f"golden samples: passed, worst at {policy.self_check:.2f} of the tolerance\n")
    period = policy.contract.policy_period_s * 1e6
    p50, p99 = np.percentile(measure(policy, options.steps), [50, 99])
    sys.stdout.write(
        f"one step: {p50:.0f} µs (p50), {p99:.0f} µs (p99), {100 * p99 / period:.1f} % of the policy period\n"
        f"{options.provider}, threads: {options.threads}, onnxruntime {onnxruntime.__version__}, {platform.machine()}\n"
    )
    return 0


def measure(policy: OnboardPolicy, steps: int) -> list[float]:
    """Return the duration of each step in µs, guards and transforms included, after a short warm-up."""
    contract = policy.contract
    middle = 0.5 * (contract.state_low + contract.state_high)
    state = np.where(np.isfinite(middle), middle, 0.0)
    depth = np.random.default_rng(0).uniform(0.5, contract.clip_m, contract.image_shape).astype(np.float32)
    durations = []
    for _ in range(steps + 100):
        start = time.perf_counter_ns()
        policy.step(state, depth)
        durations.append((time.perf_counter_ns() - start) / 1e3)
    policy.reset()
    return durations[100:]


if __name__ == "__main__":
    sys.exit(main())
