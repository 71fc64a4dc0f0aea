"""``deploy-kit collect``."""

from pathlib import Path
from typing import Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    env_from,
    hints_from,
    num_envs_option,
    run_options,
    task_options,
)


@click.command("collect", cls=Command)
@run_options
@num_envs_option
@task_options
@click.option(
    "--feature-file",
    "--dataset",
    "feature_file",
    type=click.Path(path_type=Path),
    default=Path("features.h5"),
    help="Feature file to write (.h5). A bare name goes to datasets/, a path is taken as it is.",
)
@click.option("--num-positive", type=click.IntRange(min=0), default=1_000_000, help="Training rows that pass a gate.")
@click.option("--num-negative", type=click.IntRange(min=0), default=1_000_000, help="Training rows that pass none.")
@click.option(
    "--heldout-episodes",
    type=click.IntRange(min=0),
    default=128,
    help="Whole episodes on tracks of their own, half for validation and half for test.",
)
@click.option(
    "--keep-observations",
    type=click.IntRange(min=0),
    default=256,
    metavar="K",
    help="Whole observations to keep, for replay through the exported network.",
)
@click.option(
    "--max-steps", type=click.IntRange(min=1), help="End the collecting of training rows after this many steps."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing dataset, once the new one is whole.")
@click.option("--video", is_flag=True, help="Write the depth view of environment 0 as an mp4, and stop after it.")
@click.option("--video-length", type=click.IntRange(min=1), default=200, help="Policy steps of video.")
@click.option("--keep-collecting", is_flag=True, help="Go on after the video.")
def collect_command(**options: Any) -> None:
    """Fly a policy in simulation; store its features with gate labels in an HDF5 file.

    Held-out episodes come first, then training rows. Stops when both classes are full, at --max-steps, or on Ctrl-C;
    the rows so far are then in a valid file.
    """
    from deploy_kit.collection.run import CollectOptions, collect

    settings = CollectOptions(
        checkpoint=checkpoint_path_from(options),
        env=env_from(options, options.pop("num_envs")),
        hints=hints_from(options),
        **options,
    )
    if settings.only_video:
        stdout.print(
            f"With --video, collecting stops after {settings.video_length} steps and stores no held-out episodes; "
            "pass --keep-collecting to go on."
        )
    with progress_bars() as progress:
        result = collect(settings, progress)
    reasons = {
        "full": "Complete",
        "max_steps": "Stopped at --max-steps",
        "video": "Stopped after the video",
        "interrupt": "Interrupted; what was collected is kept",
    }
    stdout.print(
        f"{reasons[result.stopped_by]}: {result.path} holds {result.num_positive:,} positive and "
        f"{result.num_negative:,} negative training rows, {result.heldout_episodes} held-out episodes and "
        f"{result.observations} whole observations ({result.env_steps:,} env steps in {result.seconds:.0f} s)."
    )
    if result.video is not None:
        stdout.print(f"Video: {result.video}")
    if result.stopped_by == "interrupt":
        raise click.exceptions.Exit(130)
