"""Verify a bundle against the checkpoint that it claims to come from."""

import dataclasses
import platform
import time
from collections.abc import Callable
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
from deploy_kit.bundle.runners import PROVIDERS, import_onnxruntime
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import OptionError
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.progress import Progress, silent
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.artifacts import Artifacts
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, find_vehicle, pair_bundle
from deploy_kit.verify.checks import ReplayOptions, run_checks
from deploy_kit.verify.dataset import Dataset, open_dataset
from deploy_kit.verify.live import LIVE_MODES, LiveTest
from deploy_kit.verify.report import VerifyReport

if TYPE_CHECKING:
    from deploy_kit.sim.options import EnvOptions

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify_bundle`.

    Attributes:
        bundle: folder that `export` wrote.
        checkpoint: the truth: the file that the bundle claims to come from.
        feature_file: feature file of that policy, for replay.
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
        vehicle: whether to hold the contract against the vehicle's numbers; they come from `vehicle_file`, else from
            the run beside the checkpoint, else from the task.
        vehicle_file: the vehicle's numbers, where export was given such a file.
        hints: what the checkpoint's weights do not tell.
        thresholds: limits of the verdicts.
    """

    bundle: Path
    checkpoint: Path
    feature_file: Path | None = None
    replay: bool = True
    live: bool = True
    live_modes: tuple[str, ...] = LIVE_MODES
    episodes: int = 32
    env: "EnvOptions | None" = None
    task: str = TASK_ID
    backend: str = "mujoco"
    seed: int = ReplayOptions.seed
    random_rows: int = ReplayOptions.random_rows
    max_rows: int | None = ReplayOptions.max_rows
    max_observations: int | None = ReplayOptions.max_observations
    report: Path | None = None
    vehicle: bool = True
    vehicle_file: Path | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def replayed(self) -> ReplayOptions:
        """Which inputs to replay."""
        return ReplayOptions(self.seed, self.random_rows, self.max_rows, self.max_observations)

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is out of range, or two contradict each other.
        """
        if self.replay and self.feature_file is None:
            raise OptionError("there is no feature file to replay: give --feature-file FILE, or --no-replay")
        if not self.replay and self.feature_file is not None:
            raise OptionError(f"--feature-file {self.feature_file} contradicts --no-replay; leave one out")
        if unknown := [mode for mode in self.live_modes if mode not in LIVE_MODES]:
            raise OptionError(f"unknown live mode {unknown[0]!r}; known: {', '.join(LIVE_MODES)}")
        if not self.vehicle and self.vehicle_file is not None:
            raise OptionError(f"--vehicle {self.vehicle_file} and --no-vehicle contradict each other; leave one out")
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
    import_onnxruntime()
    started = time.monotonic()
    with ExitStack() as stack:
        bundle = open_bundle(options.bundle)
        checkpoint = load_checkpoint(options.checkpoint, options.hints)
        vehicle = NamedVehicle(None, wanted=False)
        if options.vehicle:
            vehicle = find_vehicle(checkpoint, options.task, options.vehicle_file)
        subject = pair_bundle(bundle, checkpoint, vehicle)
        dataset = None
        if options.feature_file is not None:
            dataset = stack.enter_context(open_dataset(options.feature_file, checkpoint.network))
        live = None
        if options.live:
            live = LiveTest(
                options.live_modes, options.episodes, options.env, options.seed, options.task, options.backend
            )
            stack.enter_context(live)
            live.prepare(checkpoint)
        checks, artifacts = run_checks(subject, dataset, live, options.replayed, progress)
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
        "onnxruntime": str(import_onnxruntime().__version__),
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
