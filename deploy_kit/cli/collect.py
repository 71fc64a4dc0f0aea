"""``deploy-kit collect``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stderr, stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    command_line,
    env_from,
    hints_from,
    next_command,
    num_envs_option,
    policy_words,
    refuse_given,
    run_options,
    task_options,
)
from deploy_kit.cli.parameter_types import FeatureFile
from deploy_kit.cli.progress import duration, progress_bars
from deploy_kit.collection.options import CollectOptions
from deploy_kit.data.cadence import DEFAULT_CADENCE, CheckpointEvery
from deploy_kit.errors import OptionError

if TYPE_CHECKING:
    from deploy_kit.collection.estimate import CollectEstimate
    from deploy_kit.collection.run import CollectResult

LONG_S = 30 * 60
"""From here on, the command that collects less is named."""

_rows, _video, _processes = under("What to store"), under("Video"), under("Several processes")


class Cadence(click.ParamType[CheckpointEvery]):
    """How often a shard is closed: a number of rows, or a time such as ``30s``."""

    name = "CADENCE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> CheckpointEvery:
        """Parse ``50000``, ``30s``, ``5m`` or ``1h``."""
        if isinstance(value, CheckpointEvery):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
        if found is None or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
            self.fail(f"{value!r} is neither a number of rows nor a time, for example 50000 or 30s", param, ctx)
        if found[2]:
            return CheckpointEvery(seconds=float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]])
        return CheckpointEvery(rows=int(found[1]))


_STOPPED = {
    "full": "Complete",
    "max_steps": "Stopped at --max-steps",
    "video": "Stopped after the video",
    "interrupt": "Interrupted; what was collected is kept",
    "failure": "Ended by a process that failed; what was collected is kept",
}


@click.command(
    "collect",
    cls=Command,
    examples={
        "deploy-kit collect --checkpoint demo --num-positive 2000 --num-negative 2000": "a few minutes, a small file",
        "deploy-kit collect --experiment_name racing --feature-file racer.h5 --num-envs 64": "the latest run of an "
        "experiment",
        "deploy-kit collect --checkpoint model_7998.pt --video": "what the drone sees, as an mp4",
    },
)
@run_options
@_rows(
    "--feature-file",
    "feature_file",
    metavar="FILE",
    type=FeatureFile(),
    default=CollectOptions.feature_file,
    help="Feature file to write (.h5). A bare name goes to datasets/, a path is taken as it is.",
)
@_rows(
    "--num-positive",
    metavar="N",
    type=click.IntRange(min=0),
    default=CollectOptions.num_positive,
    help="Positive training rows: those that pass a gate, or have your label.",
)
@_rows(
    "--num-negative",
    metavar="N",
    type=click.IntRange(min=0),
    default=CollectOptions.num_negative,
    help="Training rows that pass none.",
)
@_rows(
    "--heldout-episodes",
    metavar="N",
    type=click.IntRange(min=0),
    default=CollectOptions.heldout_episodes,
    help="Whole episodes on tracks of their own, half for validation and half for test.",
)
@_rows(
    "--keep-observations",
    metavar="N",
    type=click.IntRange(min=0),
    default=CollectOptions.keep_observations,
    help="Whole observations to keep, for replay through the exported network.",
)
@_rows(
    "--max-steps",
    metavar="N",
    type=click.IntRange(min=1),
    help="End the collecting of training rows after this many steps.",
)
@_rows(
    "--overwrite",
    is_flag=True,
    help="Replace an existing feature file, once the new one is whole; after Ctrl-C the old one stays.",
)
@_rows("--resume", is_flag=True, help="Go on with an interrupted collection into the same file.")
@_rows(
    "--recover",
    is_flag=True,
    help="Make the feature file of an interrupted collection's rows, without flying; they stay for --resume.",
)
@_rows(
    "--keep-shards",
    is_flag=True,
    help="Leave the rows in one file a shard, in a folder beside the feature file, which points to them.",
)
@_rows(
    "--checkpoint-every",
    metavar="N|TIME",
    type=Cadence(),
    default=DEFAULT_CADENCE,
    help="Bring rows to the disk for good after so many, or so much time, as in 30s or 5m.",
)
@_processes(
    "--num-processes",
    metavar="N",
    type=click.IntRange(min=1),
    default=CollectOptions.num_processes,
    help="Simulators side by side, each in a process of its own with --num-envs environments.",
)
@_processes(
    "--num-gpus",
    metavar="N",
    type=click.IntRange(min=1),
    help="One process for each of N GPUs of this machine, started with torchrun.",
)
@_processes("--log-all-ranks", is_flag=True, help="Show what every process prints, not only the first one's output.")
@_processes("--dry-run", is_flag=True, help="Print the torchrun command of --num-gpus and stop.")
@_rows(
    "--label",
    metavar="MODULE:FUNCTION",
    help="Function that judges the label of a step, environment in, (num_envs,) bool out. "
    "[default: the task's observation group auxiliary]",
)
@num_envs_option
@task_options
@_video("--video", is_flag=True, help="Write the depth view of environment 0 as an mp4, and stop after it.")
@_video(
    "--video-length",
    metavar="N",
    type=click.IntRange(min=1),
    default=CollectOptions.video_length,
    help="Policy steps of video.",
)
@_video("--keep-collecting", is_flag=True, help="Go on after the video.")
def collect_command(**options: Any) -> None:
    """Fly a policy in simulation; store its features with labels in an HDF5 file.

    Held-out episodes come first, then training rows. Stops when both classes are full, at --max-steps, or on Ctrl-C;
    the rows so far are then in a valid file, unless they would replace an older one. A killed process loses the rows
    since the last checkpoint.
    """
    num_gpus, dry_run, recovering = (options.pop(name) for name in ("num_gpus", "dry_run", "recover"))
    if recovering:
        _recover(options["feature_file"], options["overwrite"], options["keep_shards"])
        return
    if num_gpus is None:
        refuse_given("without --num-gpus", "dry_run")
    elif options["num_processes"] > 1:
        raise OptionError("--num-gpus starts a process a GPU, --num-processes some on the CPU; give one of them")
    if num_gpus is None and options["num_processes"] == 1:
        refuse_given("with one process", "log_all_ranks")
    if not options["video"]:
        refuse_given("without --video", "video_length", "keep_collecting")
    elif not options["keep_collecting"]:
        refuse_given("with --video, which stops before; give --keep-collecting too", "heldout_episodes")
    if options["heldout_episodes"] == 0 or (options["video"] and not options["keep_collecting"]):
        refuse_given("without held-out episodes, from which observations are kept", "keep_observations")
    if num_gpus is not None:
        _launch(num_gpus, dry_run, options)
        return
    env = env_from(options, options.pop("num_envs"))
    settings = CollectOptions(checkpoint=checkpoint_path_from(options), env=env, hints=hints_from(options), **options)

    from deploy_kit.collection.run import collect

    if settings.only_video:
        stdout.print(
            f"With --video, collecting stops after {settings.video_length} steps and stores no held-out episodes; "
            "pass --keep-collecting to go on."
        )
    with progress_bars() as progress:
        result = collect(settings, progress, _say_how_long)
    if result.worker:
        return
    _show(result)
    if result.num_positive and result.num_negative and result.kept_rows is None:
        files = ("--checkpoint", settings.checkpoint, "--feature-file", result.path)
        new_head = None if result.has_head else "--new-head"
        stdout.print(next_command("finetune", *files, new_head, *policy_words(settings.hints)))
    if result.stopped_by == "interrupt":
        raise click.exceptions.Exit(130)
    if result.failures:
        raise click.exceptions.Exit(1)


def _show(result: "CollectResult") -> None:
    if result.kept_rows is None:
        stdout.print(
            f"{_STOPPED[result.stopped_by]}: {result.path} holds {result.num_positive:,} positive and "
            f"{result.num_negative:,} negative training rows, {result.heldout_episodes} held-out episodes and "
            f"{result.observations} whole observations ({result.env_steps:,} env steps in {result.seconds:.0f} s)."
        )
    else:
        stdout.print(
            f"{result.path} is as it was: what was collected is not yet all that was asked for. The rows so far, "
            f"{result.num_positive:,} positive and {result.num_negative:,} negative training rows and "
            f"{result.heldout_episodes} held-out episodes, are in {result.kept_rows}."
        )
    for rank, problem in result.failures.items():
        stderr.print(f"Process {rank} failed: {problem}; its rows up to its last checkpoint are kept")
    if result.dropped_episodes:
        stdout.print(f"{result.dropped_episodes} episodes are left out: the simulator's numbers were not finite there.")
    if result.kept_rows is not None:
        stdout.print(
            "--resume, in place of --overwrite, goes on with them; --recover --overwrite replaces the file by them."
        )
    elif not result.complete and result.stopped_by in ("interrupt", "failure"):
        stdout.print("--resume, added to the same command, goes on with it.")
    if result.video is not None:
        stdout.print(f"Video: {result.video}")


def _recover(feature_file: Path, overwrite: bool, keep_shards: bool) -> None:
    from deploy_kit.collection.run import recover

    with progress_bars() as progress:
        result = recover(feature_file, overwrite, progress, keep_shards)
    stdout.print(
        f"Recovered: {result.path} holds {result.num_positive:,} positive and {result.num_negative:,} negative "
        f"training rows, {result.heldout_episodes} held-out episodes and {result.observations} whole observations. "
        f"--resume, added to the command that was interrupted, goes on with it."
    )


def _launch(num_gpus: int, dry_run: bool, options: dict[str, Any]) -> None:
    """Start a process for each GPU, and make the file where they were ended before they could."""
    from deploy_kit.cli.torchrun import launch

    try:
        launch(num_gpus, options["log_all_ranks"], dry_run)
    except click.exceptions.Exit:
        _recover_if_left(options["feature_file"], options["keep_shards"])
        raise


def _recover_if_left(feature_file: Path, keep_shards: bool) -> None:
    from deploy_kit.collection.run import feature_file_path
    from deploy_kit.data.shard_folder import folder_of

    path = feature_file_path(feature_file)
    if folder_of(path).is_dir() and not path.exists():
        _recover(feature_file, overwrite=False, keep_shards=keep_shards)


def _say_how_long(estimate: "CollectEstimate") -> None:
    if estimate.seconds is None:
        stderr.print(
            f"No row was positive in {estimate.env_steps:,} env steps, so nobody knows how long "
            "--num-positive takes; Ctrl-C keeps the rows so far"
        )
        return
    said = f"All rows that are asked for take about {duration(estimate.seconds)} at the pace so far"
    if estimate.seconds >= LONG_S:
        rows = estimate.rows_in(LONG_S / 3)
        said += (
            f"; Ctrl-C keeps the rows so far. About {duration(LONG_S / 3)}: "
            f"{command_line({'num_positive': rows, 'num_negative': rows})}"
        )
    stderr.print(said)
