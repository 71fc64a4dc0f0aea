"""``deploy-kit demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    hints_from,
    next_command,
    num_envs_option,
    run_options,
    seed_option,
    task_option,
    vehicle_option,
)
from deploy_kit.cli.progress import progress_bars
from deploy_kit.demo.options import DemoOptions
from deploy_kit.policy.shipped import DEMO_NAME
from deploy_kit.sim.options import EnvOptions

if TYPE_CHECKING:
    from deploy_kit.demo.run import DemoResult

_amount = under("How much")


@click.command(
    "demo",
    cls=Command,
    examples={
        "deploy-kit demo": "the policy that comes with deploy-kit, into outputs/demo",
        "deploy-kit demo outputs/mine --checkpoint model_7998.pt": "a policy of yours",
        "deploy-kit demo outputs/small --num-rows 100 --heldout-episodes 8 --flights 2": (
            "whether everything works, not how well"
        ),
    },
)
@click.argument("output", type=click.Path(path_type=Path), required=False)
@run_options
@task_option
@num_envs_option
@seed_option
@vehicle_option
@_amount(
    "--num-rows",
    metavar="N",
    type=click.IntRange(min=1),
    default=DemoOptions.num_rows,
    help="Training rows with a gate passage, and as many without.",
)
@_amount(
    "--heldout-episodes",
    metavar="N",
    type=click.IntRange(min=2),
    default=DemoOptions.heldout_episodes,
    help="Whole episodes to judge the gate head on.",
)
@_amount(
    "--live-episodes",
    metavar="N",
    type=click.IntRange(min=Thresholds.min_episodes),
    default=DemoOptions.live_episodes,
    help="Flights of the verification, in each mode.",
)
@_amount(
    "--flights",
    metavar="N",
    type=click.IntRange(min=1),
    default=DemoOptions.flights,
    help="Flights with the bundle in control; the pictures show the one with the most gates.",
)
def demo_command(output: Path | None, num_envs: int, seed: int, **options: Any) -> None:
    """Show the whole job in two minutes: collect, finetune, export, verify, and a flight with pictures.

    Everything is written to OUTPUT, a new folder, outputs/demo if none is named. Without --checkpoint or its companions
    the policy is demo, which comes with deploy-kit. Exits with 1 if the verification failed.
    """
    policy = checkpoint_path_from(options, default=DEMO_NAME)

    from deploy_kit.demo.run import run_demo

    output = DemoOptions.output if output is None else output
    env = EnvOptions(num_envs=num_envs, seed=seed)
    settings = DemoOptions(checkpoint=policy, output=output, env=env, hints=hints_from(options), **options)
    with progress_bars() as progress:
        result = run_demo(settings, progress)
    _show(result, output)
    raise click.exceptions.Exit(0 if result.report.passed else 1)


def _show(result: "DemoResult", output: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    before, after = result.finetuned.before["auroc"], result.finetuned.after["auroc"]
    statistics, report = result.flight.statistics, result.report
    low, high = statistics.gates_per_episode.ci95
    worst = report.worst_share
    verdict = Text("VERIFIED", "bold green") if report.passed else Text("FAILED", "bold red")
    pictures = ", ".join(path.name for path in result.flight.pictures if path.suffix != ".html")
    rows: tuple[tuple[str, str | Text], ...] = (
        ("gate head's AUROC on test episodes", f"{before:.3f} before, {after:.3f} after finetuning"),
        ("gates per episode", f"{statistics.gates_per_episode.mean:.2f} (95 % {low:.2f} … {high:.2f})"),
        ("crashes", f"{statistics.crash_rate.mean:.0%} of {statistics.episodes} flights with the exported policy"),
        ("verification", verdict),
        ("largest error", "not measured" if worst is None else f"{worst[1]:.2f} of its limit, in {worst[0]}"),
        ("for the drone", Text(str(result.bundle))),
        ("to look at, in a browser", Text(str(result.page))),
        ("pictures", Text(f"{output / 'pictures'}: {pictures}")),
    )
    table = Table(title=f"The whole job, in {result.seconds:.0f} s", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    stdout.print(table)
    if report.passed:
        stdout.print(next_command("inspect", result.bundle))
    else:
        stdout.print(f"What failed: {result.bundle / 'report.json'}")
