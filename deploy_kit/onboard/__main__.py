"""Check a bundle on this computer and measure it: ``python -m onboard BUNDLE``."""

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .assembly import check_assembly, load_function
from .bundle import load_bundle, read_files
from .faults import Fault, OnboardFault
from .options import ENGINES, LEVELS, OnboardOptions
from .policy_contract import is_policy_contract, parse_policy_contract
from .runner import OnboardPolicy
from .verification import Verification

if TYPE_CHECKING:
    from .policy_runner import TermPolicy

WARM_UP_STEPS = 100
MIN_STEPS = 100
"""Fewer steps have no 99th percentile."""


@dataclass(frozen=True)
class Fitness:
    """Whether a step fits into the policy's period on this computer; apart from whether it computes the right thing.

    Attributes:
        steps: measured steps.
        p50_us: median duration of a step, µs.
        p99_us: 99th percentile, µs.
        period_us: policy period, µs.
    """

    steps: int
    p50_us: float
    p99_us: float
    period_us: float

    @property
    def fit(self) -> bool:
        """Whether the 99th percentile lies below the period; NaN does not."""
        return self.p99_us < self.period_us


def main(arguments: list[str] | None = None, clock: Callable[[], int] = time.perf_counter_ns) -> int:
    """Run the self-check and judge the duration of a step; return the exit code (0 fit to fly, 1 refused or too slow).

    Args:
        arguments: arguments of the command line.
        clock: gives ns.
    """
    parser = argparse.ArgumentParser(
        prog="python -m onboard",
        description="Check a bundle on this computer.",
        epilog="Exit code: 0 fit to fly; 1 refused, or a step takes longer than the policy period; 2 bad usage.",
    )
    parser.add_argument("bundle", help="folder that deploy-kit export wrote")
    parser.add_argument(
        "--engine", choices=ENGINES, default=OnboardOptions.engine, help="what computes the network (%(default)s)"
    )
    parser.add_argument(
        "--cpp-cache", metavar="FOLDER", help="where builds of the C++ header are kept (~/.cache/deploy-kit/cpp)"
    )
    parser.add_argument(
        "--provider", default=OnboardOptions.provider, help="onnxruntime's execution provider (%(default)s)"
    )
    parser.add_argument("--engine-cache", metavar="FOLDER", help="where TensorRT's engines are kept")
    parser.add_argument(
        "--threads", type=int, default=OnboardOptions.threads, help="threads of one inference (%(default)s)"
    )
    parser.add_argument(
        "--level",
        default=OnboardOptions.level,
        help=f"graph optimisation of onnxruntime: {', '.join(LEVELS)} (%(default)s)",
    )
    parser.add_argument("--tf32", action="store_true", help="let CUDA round to TF32")
    parser.add_argument(
        "--tolerance", type=float, default=OnboardOptions.tolerance, help="of the golden samples (%(default)s)"
    )
    parser.add_argument(
        "--allow-unverified", action="store_true", help="run what no report beside the bundle says was verified"
    )
    parser.add_argument("--trust", metavar="FILE", help="public key whose signature the bundle must bear")
    parser.add_argument("--steps", type=int, default=2000, help=f"steps to measure, at least {MIN_STEPS} (%(default)s)")
    parser.add_argument(
        "--assemble", metavar="MODULE:FUNCTION", help="test your code that puts state and depth together"
    )
    options = parser.parse_args(arguments)
    if options.steps < MIN_STEPS:
        parser.error(f"--steps {options.steps} is below {MIN_STEPS}")
    try:
        settings = OnboardOptions(
            engine=options.engine,
            cpp_cache=options.cpp_cache,
            provider=options.provider,
            engine_cache=options.engine_cache,
            threads=options.threads,
            level=options.level,
            tf32=options.tf32,
            tolerance=options.tolerance,
            trust=options.trust,
            allow_unverified=options.allow_unverified,
        )
        policy = open_any(Path(options.bundle), settings)
        if options.assemble is not None:
            if not isinstance(policy, OnboardPolicy):
                raise OnboardFault(Fault.OPTIONS, "--assemble tests the racing policy's inputs; leave it out")
            function = load_function(options.assemble)
            golden = load_bundle(Path(options.bundle), settings.trusted, options.engine).golden
            count = check_assembly(policy.contract, golden, function)
            sys.stdout.write(f"{options.assemble}: right on {count} samples\n")
        if isinstance(policy, OnboardPolicy):
            fitness = measure(policy, options.steps, clock)
        else:
            fitness = measure_terms(policy, options.steps, clock)
    except OnboardFault as fault:
        sys.stderr.write(f"refused, {fault}\n")
        return 1
    share = 100 * fitness.p99_us / fitness.period_us
    sys.stdout.write(
        f"golden samples: passed, worst at {policy.self_check:.2f} of the tolerance\n"
        f"one step: {fitness.p50_us:.0f} µs (p50), {fitness.p99_us:.0f} µs (p99 of {fitness.steps} steps), "
        f"{share:.1f} % of the policy period\n"
        f"{policy.engine}, {platform.machine()}\n"
        f"report beside the bundle: {_known(policy.verification)}\n"
        f"signature: {'not checked (--trust)' if options.trust is None else f'of {options.trust}'}\n"
    )
    if not isinstance(policy, OnboardPolicy):
        sys.stdout.write(f"terms: {', '.join(policy.terms)}\njoints: {', '.join(policy.contract.joints) or 'none'}\n")
    if not fitness.fit:
        sys.stderr.write(
            f"not fit to fly: a step takes {fitness.p99_us:.0f} µs (p99), the policy period is {_period(fitness)}; "
            "use a faster computer or execution provider\n"
        )
        return 1
    return 0


def _period(fitness: Fitness) -> str:
    return "unknown" if math.isnan(fitness.period_us) else f"{fitness.period_us:.0f} µs"


def _known(verification: Verification) -> str:
    """Return what the report beside the bundle says, in words."""
    if verification.state != "verified":
        return verification.state
    return f"these very files were verified{'' if verification.complete else ', but for what was switched off'}"


def open_any(bundle: Path, options: OnboardOptions) -> "OnboardPolicy | TermPolicy":
    """Return a bundle's policy, whichever kind it is; one that names joints takes its own order of them.

    Raises:
        OnboardFault: the bundle is refused.
    """
    text = read_files(bundle, options.trusted, options.engine).content["contract.json"].decode("utf-8", "replace")
    if not is_policy_contract(text):
        return OnboardPolicy(bundle, options)
    from .policy_runner import TermPolicy  # needs onnxruntime, without which the C++ engine flies

    joints = parse_policy_contract(text).joints
    return TermPolicy(bundle, replace(options, joint_order=joints) if joints else options)


def measure_terms(policy: "TermPolicy", steps: int, clock: Callable[[], int] = time.perf_counter_ns) -> Fitness:
    """Return how long a step of any other policy takes, guards and terms included, after a short warm-up.

    Args:
        policy: it is reset afterwards.
        steps: how many to measure.
        clock: gives ns.
    """
    contract = policy.contract
    values = {name: np.zeros(shape) for name, shape in contract.groups.items() if name in policy.terms}
    for term in contract.terms:
        ends = np.stack([term.low, term.high])
        values[term.name] = np.where(np.isfinite(ends).all(axis=0), np.nan_to_num(ends).mean(axis=0), 0.0)
    given = {name: values[name] for name in policy.terms}
    durations = []
    for _ in range(steps + WARM_UP_STEPS):
        start = clock()
        policy.step(given)
        durations.append((clock() - start) / 1e3)
    policy.reset()
    p50, p99 = np.percentile(durations[WARM_UP_STEPS:], [50, 99])
    period = contract.policy_period_s
    return Fitness(steps, float(p50), float(p99), math.nan if period is None else period * 1e6)


def measure(policy: OnboardPolicy, steps: int, clock: Callable[[], int] = time.perf_counter_ns) -> Fitness:
    """Return how long a step takes, guards and transforms included, after a short warm-up.

    Args:
        policy: it is reset afterwards.
        steps: how many to measure.
        clock: gives ns.
    """
    contract = policy.contract
    middle = 0.5 * (contract.state_low + contract.state_high)
    state = np.where(np.isfinite(middle), middle, 0.0)
    far = 1e3 * contract.clip_m if policy.options.depth_in_millimetres else contract.clip_m
    depth = np.random.default_rng(0).uniform(0.05 * far, far, contract.image_shape)
    image = depth.astype(np.uint16 if policy.options.depth_in_millimetres else np.float32)
    durations = []
    for _ in range(steps + WARM_UP_STEPS):
        start = clock()
        policy.step(state, image)
        durations.append((clock() - start) / 1e3)
    policy.reset()
    p50, p99 = np.percentile(durations[WARM_UP_STEPS:], [50, 99]) if steps else (math.nan, math.nan)
    return Fitness(steps, float(p50), float(p99), contract.policy_period_s * 1e6)


if __name__ == "__main__":
    sys.exit(main())
