"""Options of the commands that judge a gate head on feature files: finetune and judge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from deploy_kit.cli.command import under
from deploy_kit.finetuning.options import FinetuneOptions


def feature_files_option(heading: str, holds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names the feature files.

    Args:
        heading: heading of the help that it stands under.
        holds: words for the file.
    """
    return under(heading)(
        "--feature-file",
        "feature_files",
        metavar="FILE",
        type=click.Path(path_type=Path),
        required=True,
        multiple=True,
        help=f"{holds}; give it several times, or a quoted pattern, for several files.",
    )


def threshold_rule_option(heading: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that says how threshold and detector are chosen, under a heading of the help."""
    return under(heading)(
        "--threshold-rule",
        metavar="RULE",
        default=FinetuneOptions.threshold_rule,
        help="f1, precision=P or false-alarms-per-minute=R, on the validation episodes.",
    )


def seconds_per_step_option(heading: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that gives the policy's period, under a heading of the help."""
    return under(heading)(
        "--seconds-per-step",
        metavar="S",
        type=click.FloatRange(min=0, min_open=True),
        help="Period of the policy, where the feature file does not say. [default: the run's, else the racing "
        "task's for its policies]",
    )
