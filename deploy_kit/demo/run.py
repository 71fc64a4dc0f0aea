"""The whole job on one policy: collect, finetune, export, verify, and a flight with pictures. Some two minutes."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.demo.options import DemoOptions
from deploy_kit.demo.page import demo_page
from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.finetuning.run import FinetuneOptions, FinetuneResult, finetune
from deploy_kit.flight.fly import FlyOptions, FlyResult, fly
from deploy_kit.flight.pictures.index import PAGE_NAME
from deploy_kit.page.render import write_page
from deploy_kit.policy.checkpoint import save_checkpoint
from deploy_kit.policy.shipped import with_known_vehicle
from deploy_kit.policy.vehicle_checkpoint import load_with_vehicle
from deploy_kit.progress import Progress, silent
from deploy_kit.verify.report import VerifyReport
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

__all__ = ["EPOCHS", "STEPS", "DemoOptions", "DemoResult", "run_demo"]

logger = logging.getLogger(__name__)

STEPS = ("collect", "finetune", "export", "verify", "fly")

FEATURES = "features.h5"
"""Name of the feature file in the output."""

EPOCHS, LEARNING_RATE, BATCH_SIZE = 20, 3e-3, 64
"""Made for some hundred rows: finetune's own defaults are for millions."""

MOST_ENV_STEPS = 50_000
"""Training rows are collected no longer than this, so that a policy that hardly passes a gate ends too."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo gave.

    Attributes:
        finetuned: the trained gate head, with its figures before and after.
        bundle: folder with what flies on the drone.
        report: report of the verification.
        flight: statistics and pictures of flights with the bundle in control.
        page: all of it to look at, one HTML file.
        seconds: wall time.
    """

    finetuned: FinetuneResult
    bundle: Path
    report: VerifyReport
    flight: FlyResult
    page: Path
    seconds: float


def run_demo(options: DemoOptions, progress: Callable[[Progress], None] = silent) -> DemoResult:
    """Do the whole job on one policy, each step from the files of the one before, as the commands do.

    A verification that fails does not raise: it is in the report.

    Args:
        options: which policy, where to, how much.
        progress: called about ten times a second.

    Raises:
        OptionError: the output exists, or the vehicle's numbers are unknown or contradict each other.
        CheckpointError: the checkpoint cannot be read, has no gate head, or passes no gate.
        InputError: whatever else a step refuses.
        CheckFailedError: an exported artifact does not give what the checkpoint gives.
        KeyboardInterrupt: Ctrl-C; what was finished is kept.
    """
    try:
        options.output.mkdir(parents=True)
    except FileExistsError as error:
        advice = "; a checkpoint is given with --checkpoint" if options.output.is_file() else ""
        raise OptionError(f"{error.filename} exists and is kept; remove it, or name another folder{advice}") from error
    try:
        return _run(options, progress)
    except BaseException:
        _tidy(options.output)
        raise


def _tidy(output: Path) -> None:
    """Remove the folder if nothing in it is finished, since it would be in the way of the next try; else say so."""
    if not (output / FEATURES).exists():
        shutil.rmtree(output, ignore_errors=True)
        return
    kept = ", ".join(sorted(path.name for path in output.iterdir()))
    logger.warning(
        "what was finished is kept in %s (%s); for the next try remove it, or name another folder", output, kept
    )


def _run(options: DemoOptions, progress: Callable[[Progress], None]) -> DemoResult:
    started = time.monotonic()
    features, bundle = options.output / FEATURES, options.output / "bundle"
    policy = _begin(options)
    _collect(options, policy, features, _step(progress, "collect"))
    finetuned = finetune(
        FinetuneOptions(
            feature_files=features,
            checkpoint=policy,
            output=options.output / "finetune",
            epochs=EPOCHS,
            lr=LEARNING_RATE,
            batch_size=BATCH_SIZE,
            seed=options.env.seed,
            hints=options.hints,
        ),
        _step(progress, "finetune"),
    )
    if finetuned.interrupted:
        raise KeyboardInterrupt
    checkpoint = finetuned.checkpoint
    export_bundle(
        ExportOptions(
            checkpoint,
            bundle,
            use_auxiliary_head=True,
            feature_file=features,
            vehicle_file=options.vehicle_file,
            task=options.task,
        ),
        _step(progress, "export"),
    )
    report = verify_bundle(
        VerifyOptions(
            bundle=bundle,
            checkpoint=checkpoint,
            feature_file=features,
            episodes=options.live_episodes,
            env=options.env,
            task=options.task,
            seed=options.env.seed,
            vehicle_file=options.vehicle_file,
        ),
        _step(progress, "verify"),
    )
    flight = fly(
        FlyOptions(
            policy=bundle,
            env=replace(options.env, num_envs=options.flights),
            task=options.task,
            pictures=options.output / "pictures",
            picture_env=None,
        ),
        _step(progress, "fly"),
    )
    page = options.output / PAGE_NAME
    write_page(page, demo_page(options.checkpoint.name, finetuned, report, flight))
    return DemoResult(finetuned, bundle, report, flight, page, time.monotonic() - started)


def _step(progress: Callable[[Progress], None], name: str) -> Callable[[Progress], None]:
    """Return a callback that says which step of how many a moment belongs to."""
    place = f"{STEPS.index(name) + 1}/{len(STEPS)} {name}"
    return lambda moment: progress(replace(moment, phase=f"{place} · {moment.phase}"))


def _begin(options: DemoOptions) -> Path:
    """Return the policy to begin with: one whose gate head deploy-kit has not trained yet."""
    # The vehicle is what export refuses; asked for before any flight.
    checkpoint, _ = load_with_vehicle(options.checkpoint, options.hints, options.task, options.vehicle_file)
    checkpoint = with_known_vehicle(checkpoint)
    head = checkpoint.network.aux_decoder
    if head is None:
        raise CheckpointError(
            f"{options.checkpoint}: aux_decoder.weight is missing, so this policy was trained without the gate head, "
            "which the demo trains; give a policy trained with its auxiliary head"
        )
    if checkpoint.calibration is None:
        return options.checkpoint
    logger.info(
        '%s: its trained gate head is set aside and a new, random one is trained; that one is "before" in the figures',
        checkpoint.path,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.env.seed)
        head.reset_parameters()
    path = options.output / f"untrained{options.checkpoint.suffix}"
    save_checkpoint(path, checkpoint, checkpoint.network)
    return path


def _collect(options: DemoOptions, policy: Path, features: Path, progress: Callable[[Progress], None]) -> None:
    collected = collect(
        CollectOptions(
            checkpoint=policy,
            feature_file=features,
            env=options.env,
            task=options.task,
            num_positive=options.num_rows,
            num_negative=options.num_rows,
            heldout_episodes=options.heldout_episodes,
            max_steps=MOST_ENV_STEPS // options.env.num_envs,
            hints=options.hints,
        ),
        progress,
    )
    if collected.stopped_by == "interrupt":
        raise KeyboardInterrupt
    if collected.num_positive == 0:
        raise CheckpointError(
            f"{options.checkpoint} passed no gate in {collected.env_steps:,} env steps, so its gate head has nothing "
            "to learn from; give a policy that flies the racing task"
        )
