"""Verify a bundle against the checkpoint that it claims to come from."""

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from deploy_kit import __version__
from deploy_kit.bundle.reader import Bundle, open_bundle
from deploy_kit.bundle.runners import GATE_TERMS, ONNXRUNTIME_VERSION, PROVIDERS
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import OptionError
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.progress import Progress, silent
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.artifacts import Artifacts, open_artifacts
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint, pair_bundle
from deploy_kit.verify.dataset import Dataset, open_dataset
from deploy_kit.verify.live import LIVE_MODES, LiveTest
from deploy_kit.verify.replay import Advance, ParityComparison, reference_outputs, replay
from deploy_kit.verify.report import Check, NotRun, ParityCheck, VerifyReport
from deploy_kit.verify.samples import SampleSet, extreme_samples, golden_samples, random_samples

if TYPE_CHECKING:
    from deploy_kit.sim.options import EnvOptions

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify_bundle`.

    Attributes:
        bundle: folder that `export` wrote.
        checkpoint: the truth: the file that the bundle claims to come from.
        h5: feature file of that policy, for replay.
        replay: whether to replay the feature file; switch it off where there is none.
        live: whether to fly.
        live_modes: "shadow", "driving" or both.
        episodes: live episodes in each mode, flown side by side.
        env: options of the environment, None for the task's defaults; `episodes` sets its number of environments.
        task: task id, or ``module:factory``.
        backend: simulator.
        seed: of the random and extreme inputs, and of the flights unless `env` is given.
        random_rows: how many random inputs to replay.
        max_rows: most held-out rows to replay, spread evenly; None for all.
        max_observations: most kept observations to replay, spread evenly; None for all.
        report: where to write the report; None for report.json in the bundle's folder.
        vehicle_file: the vehicle's numbers, where export was given such a file.
        activation: see `load_checkpoint`.
        image_shape: see `load_checkpoint`.
        normalizer_eps: see `load_checkpoint`.
        thresholds: limits of the verdicts.
    """

    bundle: Path
    checkpoint: Path
    h5: Path | None = None
    replay: bool = True
    live: bool = True
    live_modes: tuple[str, ...] = LIVE_MODES
    episodes: int = 32
    env: "EnvOptions | None" = None
    task: str = TASK_ID
    backend: str = "mujoco"
    seed: int = 0
    random_rows: int = 512
    max_rows: int | None = None
    max_observations: int | None = 2000
    report: Path | None = None
    vehicle_file: Path | None = None
    activation: str | None = None
    image_shape: tuple[int, int] | None = None
    normalizer_eps: float | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is out of range, or two contradict each other.
        """
        if self.replay and self.h5 is None:
            raise OptionError("no feature file to replay: give --h5 FILE, or --no-replay to verify without one")
        if not self.replay and self.h5 is not None:
            raise OptionError(f"--h5 {self.h5} and --no-replay contradict each other; leave one out")
        if unknown := [mode for mode in self.live_modes if mode not in LIVE_MODES]:
            raise OptionError(f"unknown live mode {unknown[0]!r}; known: {', '.join(LIVE_MODES)}")
        if self.live and not self.live_modes:
            raise OptionError("no live mode is left; give shadow, driving or both, or --no-live")
        if self.live and self.episodes < 2:
            raise OptionError(f"--episodes {self.episodes}: paired statistics need at least 2")
        for name in ("random_rows", "max_rows", "max_observations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")


def verify_bundle(options: VerifyOptions, progress: Callable[[Progress], None] = silent) -> VerifyReport:
    """Run all checks of a bundle against its checkpoint and write the report.

    A failed check does not raise: it is in the report, whose `passed` is the overall verdict.

    Args:
        options: what to verify against what, and how.
        progress: told what is being done.

    Raises:
        OptionError: an option is out of range, or two contradict each other.
        BundleError: the bundle cannot be opened, or a file is not as its manifest says.
        CheckpointError: the checkpoint cannot be read.
        DatasetError: the feature file cannot be read, or was collected with another policy.
        TaskError: the task is unknown, or its environment does not fit the policy.
    """
    options.check()
    started = time.monotonic()
    with ExitStack() as stack:
        bundle = open_bundle(options.bundle)
        checkpoint = load_checkpoint(
            options.checkpoint,
            activation=options.activation,
            image_shape=options.image_shape,
            normalizer_eps=options.normalizer_eps,
        )
        subject = pair_bundle(bundle, checkpoint, options.task, options.vehicle_file)
        dataset = None if options.h5 is None else stack.enter_context(open_dataset(options.h5, checkpoint.network))
        live = LiveTest(options.live_modes, options.episodes, options.env, options.seed, options.task, options.backend)
        if options.live:
            stack.enter_context(live)
            live.prepare(checkpoint)
        progress(Progress("static checks", 0))
        artifacts, checks = open_artifacts(subject)
        if subject.misfit is None:
            checks += _dynamic_checks(options, subject, artifacts, dataset, live, progress)
        else:
            checks += [NotRun(name, subject.misfit) for name in ("replay", "live")]
    report = VerifyReport(
        subject=_describe(options, bundle, checkpoint, dataset),
        environment=_environment(artifacts),
        options=_plain(dataclasses.asdict(options)),
        checks=tuple(checks),
        thresholds=options.thresholds,
        elapsed_s=time.monotonic() - started,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    report.write(options.report or options.bundle / REPORT_NAME)
    return report


def _dynamic_checks(
    options: VerifyOptions,
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    dataset: Dataset | None,
    live: LiveTest,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    golden = golden_samples(subject.bundle)
    yield _stored_golden(subject)
    sets = [
        golden,
        random_samples(subject.contract, options.random_rows, options.seed),
        extreme_samples(subject.contract, options.seed),
    ]
    if dataset is None:
        for name in ("heldout/onnx-head", "kept", "stored-features"):
            yield NotRun(f"replay/{name}", "--no-replay: no feature file was given")
    else:
        yield from dataset.heldout_checks(subject, artifacts.head, options.max_rows, progress)
        kept = dataset.kept_samples(options.max_observations)
        if kept is None:
            reason = f"{dataset.path.name} holds no whole observations; collect with --keep-observations"
            yield from (NotRun(f"replay/{name}", reason) for name in ("kept", "stored-features"))
        else:
            yield dataset.stored_features_check(subject, kept)
            sets.append(kept.samples)
    for samples in sets:
        yield from _replay_set(subject, artifacts, samples, progress)
    if options.live:
        yield from live.run(subject, artifacts.onnx, progress)
    for mode in LIVE_MODES:
        if not options.live or mode not in options.live_modes:
            yield NotRun(f"live/{mode}", "--no-live" if not options.live else "not among the live modes asked for")


def _stored_golden(subject: BundleAndCheckpoint) -> ParityCheck:
    golden = subject.bundle.golden
    stored = {"action": golden.action, "features": golden.features}
    if golden.gate_logit is not None and golden.gate_terms is not None:
        stored |= {"gate_logit": golden.gate_logit, GATE_TERMS: golden.gate_terms}
    comparison = ParityComparison(
        "golden/stored-outputs", "outputs in golden.npz against the checkpoint", tuple(stored), subject.semantics
    )
    comparison.add(reference_outputs(subject.reference, golden.observation), stored)
    return comparison.result(lambda row: f"golden sample {row} ({golden.reason[row]})", subject.note)


def _replay_set(
    subject: BundleAndCheckpoint, artifacts: Artifacts, samples: SampleSet, progress: Callable[[Progress], None]
) -> Iterator[ParityCheck]:
    reference = reference_outputs(subject.reference, samples.observation)
    for artifact in artifacts.observed:
        comparison = ParityComparison(
            f"replay/{samples.name}/{artifact.name}", samples.described, artifact.roles, subject.semantics
        )
        advance = counter(progress, f"replay {samples.name}, {artifact.name}", len(samples.observation))
        yield replay(samples, reference, artifact.runner, comparison, advance)


def counter(progress: Callable[[Progress], None], phase: str, total: int) -> Advance:
    """Return a function that adds to a count and reports it as progress."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(Progress(phase, done, total))

    return advance


def _describe(
    options: VerifyOptions, bundle: Bundle, checkpoint: Checkpoint, dataset: Dataset | None
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "bundle": str(options.bundle),
        "files": bundle.files,
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "dataset": None,
        "dataset_sha256": None,
    }
    if dataset is not None:
        described |= {"dataset": str(dataset.path), "dataset_sha256": dataset.sha256}
    return described


def _environment(artifacts: Artifacts) -> dict[str, Any]:
    return {
        "deploy_kit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": ONNXRUNTIME_VERSION,
        "providers_asked": list(PROVIDERS),
        "providers_used": list(artifacts.providers),
    }


def _plain(value: Any) -> Any:
    """Return options as JSON values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
