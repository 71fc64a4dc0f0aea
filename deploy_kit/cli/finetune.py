"""``deploy-kit finetune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import network_options

if TYPE_CHECKING:
    from deploy_kit.pipeline.finetune import FinetuneResult


@click.command("finetune", cls=Command)
@click.option("--h5-path", type=click.Path(path_type=Path), required=True, help="Feature file that collect wrote.")
@click.option("--policy-path", type=click.Path(path_type=Path), required=True, help="Checkpoint it was collected with.")
@click.option(
    "--save-path",
    type=click.Path(path_type=Path),
    default=Path("outputs/finetune"),
    help="Folder for checkpoints, metrics.json, plots and TensorBoard logs.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=5, help="Passes over the training rows.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, help="Rows a step.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=3e-4, help="Adam's learning rate.")
@click.option("--pgd-steps", type=click.IntRange(min=0), default=3, help="Steps of the perturbation, 0 for none.")
@click.option("--epsilon", type=click.FloatRange(min=0), default=0.1, help="Largest change of a feature.")
@click.option("--alpha", type=click.FloatRange(min=0), default=0.01, help="Change of a feature in one step.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Same seed, same head.")
@click.option("--device", default="cpu", help="Torch device.")
@click.option("--overwrite", is_flag=True, help="Replace the results of an earlier finetuning.")
@network_options
def finetune_command(**options: Any) -> None:
    """Train the gate head (aux_decoder) on collected features; every other tensor stays bit-identical."""
    from deploy_kit.pipeline.finetune import FinetuneOptions, finetune

    with progress_bars() as progress:
        result = finetune(FinetuneOptions(**options), progress)
    _show(result)
    if result.interrupted:
        raise click.exceptions.Exit(130)


def _show(result: "FinetuneResult") -> None:
    from rich.table import Table

    table = Table(title="Gate head on the test episodes")
    for name in ("figure", "before", "after"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, after in result.after.items():
        table.add_row(name.replace("_", " "), _figure(result.before[name]), _figure(after))
    stdout.print(table)
    stdout.print(f"Wrote {result.checkpoint} ({len(result.epochs)} epochs; best: epoch {result.best_epoch})")
    stdout.print(f"Figures: {result.metrics_path}")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and value > 1 else f"{value:.4f}"
