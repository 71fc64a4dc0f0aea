"""``deploy-kit bench``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.bench.options import MAX_RATE_HZ, BenchOptions
from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import RUN_PARAMETERS, checkpoint_path_from, hints_from, run_options
from deploy_kit.cli.progress import progress_bars
from deploy_kit.cli.runtime_options import runtime_options
from deploy_kit.errors import OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from deploy_kit.bench.report import BenchReport

_beside, _steps, _output = under("Beside the bundle"), under("Steps"), under("Output")


@click.command(
    "bench",
    cls=Command,
    examples={
        "deploy-kit bench bundles/racer": "every artifact and engine, on one thread",
        "deploy-kit bench bundles/racer --onnx other.onnx --plot bench.png": "beside another graph",
        "deploy-kit bench bundles/racer --provider cpu --provider cuda --rate 100": "two providers, 100 Hz",
    },
)
@click.argument("bundle", type=click.Path(path_type=Path))
@run_options
@_beside(
    "--onnx",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another graph to time beside it. Repeatable.",
)
@_beside("--masterracing", is_flag=True, help="The same network in the form of MasterRacing's export.")
@_beside("--no-torchscript", is_flag=True, help="Do not run TorchScript.")
@runtime_options(BenchOptions, "; ratios are to the first one")
@_steps(
    "--steps",
    metavar="N",
    type=click.IntRange(min=0),
    default=BenchOptions.steps,
    help="Steps of each candidate, back to back; 0 for none.",
)
@_steps(
    "--paced-steps",
    metavar="N",
    type=click.IntRange(min=0),
    default=BenchOptions.paced_steps,
    help="Steps of each candidate, one a period; 0 for none. 1000 for a p99.9.",
)
@_steps(
    "--rate",
    "rate_hz",
    metavar="HZ",
    type=click.FloatRange(0, MAX_RATE_HZ, min_open=True),
    help="Steps a second of the paced ones. [default: the contract's]",
)
@_steps("--no-start", is_flag=True, help="Do not measure start and memory in fresh processes.")
@_output("--json", "as_json", is_flag=True, help="Print JSON.")
@_output("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Also draw a PNG.")
def bench_command(bundle: Path, as_json: bool, plot: Path | None, **options: Any) -> None:
    """Time what BUNDLE holds: each artifact in each engine, by turns in one run.

    Durations of a step at batch 1, back to back and at the policy's rate, beside PyTorch; start and memory in a fresh
    process. Static checks run first: an artifact that is not proven to compute the network is not run. Without
    --checkpoint, the network is that of the bundle's own weights.
    """
    checkpoint = None
    if any(options[name] for name in RUN_PARAMETERS):
        checkpoint = checkpoint_path_from(options)
    for name in RUN_PARAMETERS:
        options.pop(name, None)
    start, torchscript = not options.pop("no_start"), not options.pop("no_torchscript")
    settings = BenchOptions(
        bundle=bundle,
        checkpoint=checkpoint,
        hints=hints_from(options),
        start=start,
        torchscript=torchscript,
        **options,
    )
    settings.check()
    if plot is not None and plot.suffix.lower() != ".png":
        raise OptionError(f"--plot {plot}: a PNG is drawn; give a name that ends in .png")

    from deploy_kit.bench.run import bench_bundle

    with progress_bars() as progress:
        report = bench_bundle(settings, progress)
    if plot is not None:
        from deploy_kit.bench.plot import plot_bench

        plot_bench(report, plot)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    _show(report)
    if plot is not None:
        stdout.print(f"Wrote {plot}")


def _show(report: "BenchReport") -> None:
    environment = report.environment
    stdout.print(
        f"batch 1, {environment['cpu']}, {environment['cores']} cores, load {environment['load_before'][0]:.1f} to "
        f"{environment['load_after'][0]:.1f}, onnxruntime {environment['onnxruntime']}, torch {environment['torch']}"
    )
    period = "" if report.rate_hz is None else f"one step each {1e3 / report.rate_hz:.4g} ms"
    for kind, title in (("back_to_back", "back to back"), ("paced", period)):
        if not any(getattr(row, kind) for row in report.rows):
            continue
        table = _table(f"{title}, µs", "p50", "p99", "p99.9", "max", "jitter", "to the first")
        for row in report.rows:
            figures = getattr(row, kind)
            columns = (figures.p50_us, figures.p99_us, figures.p99_9_us, figures.max_us, figures.jitter_us)
            ratio = report.ratio(row, kind)
            table.add_row(row.name, *("" if value is None else f"{value:.1f}" for value in columns), f"{ratio:.2f}")
        stdout.print(table)
    if any(row.start for row in report.rows):
        table = _table("fresh process", "start s", "of that open s", "first step µs", "memory MiB", "file bytes")
        for row in report.rows:
            if (start := row.start) is not None:
                seconds = f"{start.total_s:.2f}", f"{start.open_s:.2f}", f"{start.first_us:.0f}"
                memory = "" if start.peak_mib is None else f"{start.peak_mib:.0f}"
                table.add_row(row.name, *seconds, memory, "" if row.bytes is None else f"{row.bytes:,}")
        stdout.print(table)
    for name, reason in report.left_out.items():
        stdout.print(f"not run: {name}: {reason}")


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right")
    return table
