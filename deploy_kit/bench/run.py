"""Time a bundle: static checks, then all candidates side by side in one run."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from deploy_kit import __version__
from deploy_kit.bench.candidates import Bench, Candidate
from deploy_kit.bench.options import TURN, BenchOptions
from deploy_kit.bench.report import BenchReport, Row, Start, machine
from deploy_kit.bundle.reader import Bundle, open_bundle
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import CheckFailedError
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.progress import Progress, silent
from deploy_kit.timing import Latency, Plan, latency, measure
from deploy_kit.verify.artifacts import open_artifacts
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, pair_bundle
from deploy_kit.verify.opening import manifest_sha256
from deploy_kit.verify.report import NotRun, Status, judge

__all__ = ["BenchOptions", "BenchReport", "bench_bundle"]


def bench_bundle(options: BenchOptions, progress: Callable[[Progress], None] = silent) -> BenchReport:
    """Time a bundle's artifacts in the engines that run them, and what is to stand beside them.

    Args:
        options: what to run, and how often.
        progress: told what is being done.

    Raises:
        OptionError: an option is out of range, or a graph that it names cannot be run.
        BundleError: the bundle cannot be opened.
        CheckpointError: the checkpoint cannot be read.
        CheckFailedError: an artifact is not proven to compute the network, or cannot be run.
        MissingDependencyError: onnxruntime is not installed.
    """
    options.check()
    load_before = os.getloadavg()
    bundle = open_bundle(options.bundle)
    progress(Progress("static checks", 0))
    network = load_checkpoint(options.checkpoint or bundle.safetensors_path, options.hints)
    torchscript = _require_proven(bundle, network, options)
    period_s = _period_s(bundle) if options.rate_hz is None else 1 / options.rate_hz
    with tempfile.TemporaryDirectory(prefix="deploy-kit-bench.") as name, _one_thread():
        bench = Bench(bundle, network.network, options, Path(name))
        candidates = list(bench.candidates(torchscript))
        quick = _measured(candidates, Plan(options.rounds(options.steps), TURN), "back to back", progress)
        paced = _measured(candidates, Plan(options.paced_steps, 1, period_s), "one step a period", progress)
        starts: list[Start | None] = [None] * len(candidates)
        if options.start:
            for index, candidate in enumerate(candidates):
                progress(Progress("fresh processes", index, len(candidates)))
                starts[index] = candidate.start()
    rows = tuple(
        Row(item.artifact, item.engine, item.runtime, back_to_back, at_rate, start, item.bytes)
        for item, back_to_back, at_rate, start in zip(candidates, quick, paced, starts, strict=True)
    )
    return BenchReport(
        bundle=str(options.bundle),
        manifest_sha256=manifest_sha256(options.bundle) or "",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        environment={
            **machine(),
            "load_before": load_before,
            "load_after": os.getloadavg(),
            "deploy_kit": __version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "onnxruntime": str(import_onnxruntime().__version__),
        },
        rate_hz=1 / period_s if options.paced_steps else None,
        turn=TURN,
        rows=rows,
        left_out=bench.left_out,
    )


def _period_s(bundle: Bundle) -> float:
    value = bundle.contract.timing.policy_period_s.value
    assert not isinstance(value, tuple)  # the contract was checked when it was opened
    return value


def _require_proven(bundle: Bundle, checkpoint: Checkpoint, options: BenchOptions) -> str | None:
    """Run the static checks of verify, and return why TorchScript must not run; None if it may.

    Raises:
        CheckFailedError: one failed.
    """
    subject = pair_bundle(bundle, checkpoint, NamedVehicle(None, wanted=False))
    _, checks = open_artifacts(subject, options.torchscript, cpp=False)
    reason = None if options.torchscript else "--no-torchscript"
    for check in checks:
        verdict = judge(check, Thresholds())
        if verdict.status is Status.FAILED:
            raise CheckFailedError(f"{verdict.name}: {verdict.reasons[0]}; nothing was run, see deploy-kit verify")
        if isinstance(check, NotRun) and check.name == "torchscript/run":
            reason = check.reason
    return reason


def _measured(
    candidates: Sequence[Candidate], plan: Plan, phase: str, progress: Callable[[Progress], None]
) -> list[Latency | None]:
    if not plan.rounds:
        return [None] * len(candidates)
    done, total = 0, (plan.rounds + 1) * plan.turn * len(candidates)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        # Drawing takes time from the next step, so it is done seldom.
        if done % (total // 20 + 1) < count:
            progress(Progress(phase, done, total))

    progress(Progress(phase, 0, total))
    timers = {str(index): candidate.timer for index, candidate in enumerate(candidates)}
    return [latency(durations) for durations in measure(timers, plan, advance).values()]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
