"""``deploy-kit finetune``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import hints_from, network_options

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


@click.command("finetune", cls=Command)
@click.option(
    "--feature-file",
    "--h5-path",
    "feature_files",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="Feature file that collect wrote; give it several times, or a quoted pattern, for several files.",
)
@click.option(
    "--checkpoint",
    "--policy-path",
    "checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint it was collected with, or demo.",
)
@click.option(
    "--output",
    "--save-path",
    "output",
    type=click.Path(path_type=Path),
    default=Path("outputs/finetune"),
    help="Folder for checkpoints, metrics.json, report.html, plots and TensorBoard logs.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Adam's passes over the training rows. [default: 5]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows of one of Adam's steps. [default: 256]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Adam's learning rate. [default: 3e-4]")
@click.option("--pgd-steps", type=click.IntRange(min=0), default=3, help="Steps of the perturbation, 0 for none.")
@click.option("--epsilon", type=click.FloatRange(min=0), default=0.1, help="Largest change of a feature.")
@click.option("--alpha", type=click.FloatRange(min=0), default=0.01, help="Change of a feature in one step.")
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", help="Norm of the perturbation.")
@click.option(
    "--masterracing-compatible",
    "--origin-compatible",
    "masterracing_compatible",
    is_flag=True,
    help="Cut perturbed features to [0, 1] as MasterRacing does; slow, to compare.",
)
@click.option(
    "--solver",
    type=click.Choice(["adam", "lbfgs"]),
    help="Adam, or the optimum of the robust loss with a certificate. [default: lbfgs up to 100,000 training rows, "
    "unless an option of Adam's is given]",
)
@click.option(
    "--memory",
    type=ByteCount(),
    help="Bytes the process may take, as in 1GiB; rows that do not fit are streamed. [default: half of what is free]",
)
@click.option(
    "--threshold-rule",
    default="f1",
    metavar="RULE",
    help="f1, precision=P or false-alarms-per-minute=R, on the validation episodes.",
)
@click.option(
    "--prior-correction/--no-prior-correction",
    default=True,
    help="Make the probability right for flight's share of passes instead of training's.",
)
@click.option("--temperature/--no-temperature", default=True, help="Fit a temperature on the validation rows.")
@click.option("--compare", is_flag=True, help="Train a second head as MasterRacing does, for the comparison.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after N epochs without a better validation AUROC.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted finetuning in the folder.")
@click.option(
    "--seconds-per-step",
    type=click.FloatRange(min=0, min_open=True),
    default=0.03,
    help="Period of the policy, for false alarms a minute.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Same seed, same head.")
@click.option("--device", default="cpu", help="Torch device.")
@click.option("--overwrite", is_flag=True, help="Replace the results of an earlier finetuning.")
@network_options
def finetune_command(**options: Any) -> None:
    """Train the gate head (aux_decoder) on collected features; every other tensor stays bit-identical."""
    from deploy_kit.finetuning.run import FinetuneOptions, finetune
    from deploy_kit.policy.shipped import resolve_name

    options["checkpoint"] = resolve_name(options["checkpoint"])
    with progress_bars() as progress:
        result = finetune(FinetuneOptions(hints=hints_from(options), **options), progress)
    _show(result)
    if result.interrupted:
        raise click.exceptions.Exit(130)


def _show(result: "FinetuneResult") -> None:
    from rich.table import Table

    table = Table(title="Gate head on the test episodes")
    for name in ("figure", "before", "after"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, after in result.after.items():
        before = result.before.get(name)
        table.add_row(name.replace("_", " "), "–" if before is None else _figure(before), _figure(after))
    stdout.print(table)
    stdout.print(f"Gate head before: {result.gate_head_before}")
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
