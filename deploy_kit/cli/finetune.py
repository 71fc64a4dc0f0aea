"""``deploy-kit finetune``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.head_options import feature_files_option, seconds_per_step_option, threshold_rule_option
from deploy_kit.cli.options import checkpoint_path_from, hints_from, refuse_given, run_options
from deploy_kit.cli.progress import progress_bars
from deploy_kit.cli.torchrun import launch
from deploy_kit.finetuning.options import ADAM, LBFGS, LBFGS_ROWS, NORMS, AdamOptions, FinetuneOptions
from deploy_kit.ranks import launched_rank

if TYPE_CHECKING:
    from deploy_kit.finetuning.comparison import Comparison
    from deploy_kit.finetuning.run import FinetuneResult

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ByteCount(click.ParamType[int]):
    """A number of bytes, as in ``1GiB`` or ``512MiB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse ``1GiB``, ``512M`` or a plain number of bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is not a number of bytes, for example 1GiB or 512MiB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].upper()])


_ROWS, _THRESHOLD = "Rows and output", "Threshold and probability"
_rows, _training, _perturbation = under(_ROWS), under("Training"), under("Perturbation of the features")
_threshold, _machine = under(_THRESHOLD), under("Machine")


@click.command(
    "finetune",
    cls=Command,
    examples={
        "deploy-kit finetune --checkpoint model_7998.pt --feature-file datasets/features.h5": "the usual way",
        "deploy-kit finetune --checkpoint demo --feature-file datasets/features.h5 --epochs 50 --patience 5": (
            "with Adam, until the validation rows gain no more"
        ),
        "deploy-kit finetune --experiment_name racing --feature-file 'datasets/part-*.h5' --output outputs/head": (
            "the latest run of an experiment, several files"
        ),
    },
)
@run_options
@feature_files_option(_ROWS, "Feature file that collect wrote")
@_rows(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=FinetuneOptions.output,
    help="Folder for checkpoints, metrics.json, report.html, plots and TensorBoard logs.",
)
@_rows("--overwrite", is_flag=True, help="Replace the results of an earlier finetuning.")
@_rows("--resume", is_flag=True, help="Go on with an interrupted finetuning in the folder.")
@_training("--new-head", is_flag=True, help="Give a policy without a head a new one, beside what rsl_rl loads.")
@_training(
    "--objective",
    type=click.Choice(["steps", "events"]),
    default="steps",
    help="What the head is trained for: every step alike, or passages as the detector announces them.",
)
@_training(
    "--solver",
    type=click.Choice([ADAM, LBFGS]),
    help="Adam, or the optimum of the robust loss with a certificate. "
    f"[default: lbfgs up to {LBFGS_ROWS:,} training rows, unless an option of Adam's is given]",
)
@_training(
    "--epochs",
    metavar="N",
    type=click.IntRange(min=1),
    help=f"Adam's passes over the training rows. [default: {AdamOptions.epochs}]",
)
@_training(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    help=f"Rows of one of Adam's steps. [default: {AdamOptions.batch_size}]",
)
@_training(
    "--lr",
    metavar="RATE",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Adam's learning rate. [default: {AdamOptions.lr}]",
)
@_training(
    "--patience",
    metavar="N",
    type=click.IntRange(min=1),
    help="Stop after N epochs without a better validation AUROC.",
)
@_training("--compare", is_flag=True, help="Train a second head as MasterRacing does, for the comparison.")
@_training(
    "--seed", metavar="N", type=click.IntRange(min=0), default=FinetuneOptions.seed, help="Same seed, same head."
)
@_perturbation(
    "--pgd-steps",
    metavar="N",
    type=click.IntRange(min=0),
    default=FinetuneOptions.pgd_steps,
    help="Steps of the perturbation, 0 for none.",
)
@_perturbation(
    "--epsilon",
    metavar="E",
    type=click.FloatRange(min=0),
    default=FinetuneOptions.epsilon,
    help="Largest change of a feature.",
)
@_perturbation(
    "--alpha",
    metavar="A",
    type=click.FloatRange(min=0),
    default=FinetuneOptions.alpha,
    help="Change of a feature in one step.",
)
@_perturbation("--norm", type=click.Choice(NORMS), default=FinetuneOptions.norm, help="Norm of the perturbation.")
@_perturbation(
    "--masterracing-compatible",
    is_flag=True,
    help="Cut perturbed features to [0, 1] as MasterRacing does; slow, to compare.",
)
@threshold_rule_option(_THRESHOLD)
@_threshold(
    "--prior-correction/--no-prior-correction",
    default=FinetuneOptions.prior_correction,
    help="Make the probability right for flight's share of passes instead of training's.",
)
@_threshold(
    "--temperature/--no-temperature",
    default=FinetuneOptions.temperature,
    help="Fit a temperature on the validation rows.",
)
@seconds_per_step_option(_THRESHOLD)
@_machine(
    "--memory",
    metavar="SIZE",
    type=ByteCount(),
    help="Bytes the process may take, as in 1GiB; rows that do not fit are streamed. [default: half of what is free]",
)
@_machine("--device", default=FinetuneOptions.device, help="Torch device.")
@_machine(
    "--num-gpus",
    metavar="N",
    type=click.IntRange(min=1),
    help="Share the training among N GPUs of this machine, with torchrun: --solver lbfgs, and batches of 262,144 rows "
    "or more. Adam's smaller batches are trained on one, which is faster.",
)
@_machine("--log-all-ranks", is_flag=True, help="Show what every process prints, not only the first one's output.")
@_machine("--dry-run", is_flag=True, help="Print the torchrun command of --num-gpus and stop.")
def finetune_command(**options: Any) -> None:
    """Train the head (aux_decoder in a racing policy) on features; every other tensor stays bit-identical."""
    if options["pgd_steps"] == 0:
        refuse_given("with --pgd-steps 0", "epsilon", "alpha", "norm", "masterracing_compatible")
    num_gpus, all_ranks, dry_run = (options.pop(name) for name in ("num_gpus", "log_all_ranks", "dry_run"))
    if num_gpus is not None:
        launch(num_gpus, all_ranks, dry_run)
        return
    refuse_given("without --num-gpus", "log_all_ranks", "dry_run")
    settings = FinetuneOptions(checkpoint=checkpoint_path_from(options), hints=hints_from(options), **options)

    if not launched_rank().leads:
        from deploy_kit.finetuning.helping import help_train

        help_train(settings)
        return

    from deploy_kit.finetuning.run import finetune

    with progress_bars() as progress:
        result = finetune(settings, progress)
    _show(result)
    if result.interrupted:
        raise click.exceptions.Exit(130)


def _show(result: "FinetuneResult") -> None:
    from rich.table import Table

    table = Table(title="Head on the test episodes")
    for name in ("figure", "before", "after"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, after in result.after.items():
        before = result.before.get(name)
        table.add_row(name.replace("_", " "), "–" if before is None else _figure(before), _figure(after))
    stdout.print(table)
    stdout.print(f"Head before: {result.gate_head_before}")
    _show_comparison(result.comparison)
    if result.certificate is not None:
        found = result.certificate
        stdout.print(f"Robust loss {found.loss:.6f}; no head within its radius is better by more than {found.gap:.2g}")
    epochs = f"{len(result.epochs)} epochs; best on validation: epoch {result.best_epoch}"
    stdout.print(f"Wrote {result.checkpoint} ({epochs if result.certificate is None else 'solver lbfgs'})")
    stdout.print(f"Figures: {result.metrics_path}; report: {result.output / 'report.html'}")
    stdout.print(f"Next: {_next_command(result)}")


def _next_command(result: "FinetuneResult") -> str:
    from deploy_kit.finetuning.command import command_line, export_command_line

    if result.interrupted:
        return command_line(result.options, resume=True, overwrite=False)
    return export_command_line(result.checkpoint, result.options)


def _show_comparison(comparison: "Comparison") -> None:
    from rich.table import Table

    table = Table(title="Heads compared on the test rows (AUROC clean and attacked)")
    table.add_column("head")
    for name in ("AUROC", "PGD", "worst", "ECE", "hits", "alarms/min"):
        table.add_column(name, justify="right", no_wrap=True)
    for head in comparison.heads:
        clean = head.clean
        shown = (
            clean.auroc,
            None if head.pgd is None else head.pgd.auroc,
            None if head.worst_case is None else head.worst_case.auroc,
            clean.expected_calibration_error,
            clean.event_hit_rate,
            clean.event_false_alarms_per_minute,
        )
        table.add_row(head.name, *("–" if interval is None else f"{interval.value:.3f}" for interval in shown))
    stdout.print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and value > 1 else f"{value:.4f}"
