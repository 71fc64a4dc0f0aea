"""``deploy-kit collect``."""

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
from deploy_kit.cli.progress import duration, progress_bars
from deploy_kit.collection.options import CollectOptions

if TYPE_CHECKING:
    from deploy_kit.collection.estimate import CollectEstimate

LONG_S = 30 * 60
"""From here on, the command that collects less is named."""

_rows, _video = under("What to store"), under("Video")

_STOPPED = {
    "full": "Complete",
    "max_steps": "Stopped at --max-steps",
    "video": "Stopped after the video",
    "interrupt": "Interrupted; what was collected is kept",
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
    type=click.Path(path_type=Path),
    default=CollectOptions.feature_file,
    help="Feature file to write (.h5). A bare name goes to datasets/, a path is taken as it is.",
)
@_rows(
    "--num-positive",
    metavar="N",
    type=click.IntRange(min=0),
    default=CollectOptions.num_positive,
    help="Training rows that pass a gate.",
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
@_rows("--overwrite", is_flag=True, help="Replace an existing feature file, once the new one is whole.")
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
    """Fly a policy in simulation; store its features with gate labels in an HDF5 file.

    Held-out episodes come first, then training rows. Stops when both classes are full, at --max-steps, or on Ctrl-C;
    the rows so far are then in a valid file.
    """
    if not options["video"]:
        refuse_given("without --video", "video_length", "keep_collecting")
    elif not options["keep_collecting"]:
        refuse_given("with --video, which stops before; give --keep-collecting too", "heldout_episodes")
    if options["heldout_episodes"] == 0 or (options["video"] and not options["keep_collecting"]):
        refuse_given("without held-out episodes, from which observations are kept", "keep_observations")
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
    stdout.print(
        f"{_STOPPED[result.stopped_by]}: {result.path} holds {result.num_positive:,} positive and "
        f"{result.num_negative:,} negative training rows, {result.heldout_episodes} held-out episodes and "
        f"{result.observations} whole observations ({result.env_steps:,} env steps in {result.seconds:.0f} s)."
    )
    if result.video is not None:
        stdout.print(f"Video: {result.video}")
    if result.num_positive and result.num_negative:
        files = ("--checkpoint", settings.checkpoint, "--feature-file", result.path)
        stdout.print(next_command("finetune", *files, *policy_words(settings.hints)))
    if result.stopped_by == "interrupt":
        raise click.exceptions.Exit(130)


def _say_how_long(estimate: "CollectEstimate") -> None:
    if estimate.seconds is None:
        stderr.print(
            f"No gate was passed in {estimate.env_steps:,} env steps, so nobody knows how long "
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
