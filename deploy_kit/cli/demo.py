"""``deploy-kit demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import hints_from, network_options, num_envs_option, vehicle_option
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.demo import DemoResult


@click.command("demo", cls=Command)
@click.argument("output", type=click.Path(path_type=Path), default=Path("outputs/demo"))
@click.option(
    "--checkpoint", default="demo", help="Checkpoint file or run directory; demo is the policy that comes along."
)
@click.option("--task", default=TASK_ID, help="A registered task, or MODULE:FACTORY that builds an rsl_rl VecEnv.")
@network_options
@vehicle_option
@num_envs_option
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Same seed, same flights, same head.")
def demo_command(output: Path, checkpoint: str, num_envs: int, seed: int, **options: Any) -> None:
    """Show the whole job in two minutes: collect, finetune, export, verify, and a flight with pictures.

    Everything is written to OUTPUT, a new folder. Exits with 1 if the verification failed.
    """
    from deploy_kit.demo import DemoOptions, run_demo
    from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint
    from deploy_kit.sim.options import EnvOptions

    policy = resolve_checkpoint(CheckpointQuery(checkpoint=checkpoint))
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
    pictures = ", ".join(path.name for path in result.flight.pictures)
    rows: tuple[tuple[str, str | Text], ...] = (
        ("gate head's AUROC on test episodes", f"{before:.3f} before, {after:.3f} after finetuning"),
        ("gates per episode", f"{statistics.gates_per_episode.mean:.2f} (95 % {low:.2f} … {high:.2f})"),
        ("crashes", f"{statistics.crash_rate.mean:.0%} of {statistics.episodes} flights with the exported policy"),
        ("verification", verdict),
        ("largest error", "not measured" if worst is None else f"{worst[1]:.2f} of its limit, in {worst[0]}"),
        ("for the drone", str(result.bundle)),
        ("pictures", f"{output / 'pictures'}: {pictures}"),
    )
    table = Table(title=f"The whole job, in {result.seconds:.0f} s", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    stdout.print(table, soft_wrap=False)
    if not report.passed:
        stdout.print(f"What failed: {result.bundle / 'report.json'}")
