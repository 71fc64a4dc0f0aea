"""``deploy-kit judge``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.head_options import feature_files_option, seconds_per_step_option, threshold_rule_option
from deploy_kit.cli.options import (
    RUN_PARAMETERS,
    checkpoint_path_from,
    hints_from,
    next_command,
    policy_words,
    refuse_given,
    run_options,
)

if TYPE_CHECKING:
    from deploy_kit.finetuning.judge import JudgeResult
    from deploy_kit.policy.calibration import GateDetector

_ROWS, _DETECTOR = "Rows and output", "Detector"
_rows, _detector = under(_ROWS), under(_DETECTOR)


@click.command(
    "judge",
    cls=Command,
    examples={
        "deploy-kit judge model_7998.pt --feature-file datasets/features.h5": "the usual way",
        "deploy-kit judge demo --feature-file datasets/features.h5 --threshold-rule false-alarms-per-minute=2": (
            "the most passages at two false alarms a minute"
        ),
    },
)
@click.argument("file", metavar="[CHECKPOINT]", required=False, type=click.Path())
@run_options
@feature_files_option(_ROWS, "Feature file with held-out episodes of this policy")
@_rows(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Copy of the checkpoint with its detector. [default: outputs/judge/NAME]",
)
@_rows("--overwrite", is_flag=True, help="Replace an existing copy.")
@threshold_rule_option(_DETECTOR)
@seconds_per_step_option(_DETECTOR)
@_detector(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Seed of the resampled episodes behind the intervals.",
)
def judge_command(file: str | None, **options: Any) -> None:
    """Judge the head that CHECKPOINT has, and give it a detector; nothing is trained.

    Threshold and detector are chosen on the validation episodes and stored in a copy of the checkpoint; the figures
    are those of the test episodes. CHECKPOINT may be demo; instead of it, a checkpoint can be named with --checkpoint
    and its companions.
    """
    from deploy_kit.finetuning.judge import JudgeOptions, judge_head
    from deploy_kit.finetuning.options import feature_paths
    from deploy_kit.policy.shipped import resolve_name

    if file is None:
        path = checkpoint_path_from(options)
    else:
        refuse_given("with CHECKPOINT, which names the policy", *RUN_PARAMETERS)
        for name in RUN_PARAMETERS:
            del options[name]
        path = resolve_name(file)
    settings = JudgeOptions(path, hints=hints_from(options), **options)
    result = judge_head(settings)
    _show(result)
    features = feature_paths(settings.feature_files)[0]
    words = ("--checkpoint", result.checkpoint, "--use-auxiliary-head", "--feature-file", features)
    stdout.print(next_command("export", *words, *policy_words(settings.hints)))


def _slope(detector: "GateDetector") -> str:
    if not detector.slope_gain:
        return ""
    return (
        f"; each logit counts with {detector.slope_gain:g} times what it rose by in {detector.slope_steps} steps "
        f"beyond {detector.slope_rise:.2f}"
    )


def _show(result: "JudgeResult") -> None:
    from rich.table import Table

    table = Table(title="Head on the test episodes, with 95 % intervals over episodes")
    table.add_column("figure")
    for name in ("value", "low", "high"):
        table.add_column(name, justify="right")
    for name, interval in result.figures.to_json().items():
        bounds = (interval["value"], interval["low"], interval["high"])
        table.add_row(name.replace("_", " "), *("–" if value is None else f"{value:.4f}" for value in bounds))
    stdout.print(table)
    detector = result.calibration.detector
    stdout.print(
        f"Detector ({result.calibration.rule}): fires at a logit of {detector.threshold_logit:.4f}, is armed again "
        f"below {detector.release_logit:.4f}, rests {detector.refractory_steps} steps{_slope(detector)}"
    )
    stdout.print(f"Wrote {result.checkpoint}")
