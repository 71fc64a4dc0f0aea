"""``deploy-kit fly``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    env_from,
    hints_from,
    num_envs_option,
    run_options,
    task_options,
    vehicle_option,
)

if TYPE_CHECKING:
    from deploy_kit.flight.episodes import Estimate, FlightStatistics


@click.command("fly", cls=Command)
@click.argument("policy", required=False, type=click.Path(path_type=Path))
@run_options
@num_envs_option
@task_options
@vehicle_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the statistics to this file.")
@click.option(
    "--pictures", type=click.Path(path_type=Path), help="Folder for pictures and depth video of one environment."
)
@click.option("--picture-env", type=click.IntRange(min=0), default=0, help="Environment that the pictures show.")
@click.option("--overwrite", is_flag=True, help="Replace existing pictures and statistics.")
def fly_command(policy: Path | None, **options: Any) -> None:
    """Fly POLICY, a checkpoint or a bundle, and report statistics over the first episode of each environment.

    Instead of POLICY, a checkpoint can be named with --checkpoint and its companions.
    """
    from deploy_kit.errors import OptionError
    from deploy_kit.flight.fly import FlyOptions, fly

    if policy is not None:
        if options["checkpoint"] is not None:
            raise OptionError("give POLICY or --checkpoint, not both")
        if not policy.is_dir():
            options["checkpoint"] = str(policy)
    is_bundle = policy is not None and (policy / "manifest.json").is_file()
    if policy is not None and policy.is_dir() and not is_bundle:
        options["checkpoint"] = str(policy)
    resolved = checkpoint_path_from(options) if not is_bundle or policy is None else _drop_run(options, policy)
    with progress_bars() as progress:
        env, hints = env_from(options, options.pop("num_envs")), hints_from(options)
        result = fly(FlyOptions(policy=resolved, env=env, hints=hints, **options), progress)
    _show(result.statistics)
    for path in result.pictures:
        stdout.print(f"Wrote {path}")


def _drop_run(options: dict[str, Any], policy: Path) -> Path:
    for name in ("checkpoint", "load_run", "experiment_name", "log_root"):
        options.pop(name)
    return policy


def _show(statistics: "FlightStatistics") -> None:
    from rich.table import Table

    table = Table(title=f"{statistics.episodes} first episodes, {statistics.env_steps:,} env steps")
    table.add_column("figure")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval", justify="right")
    rows: tuple[tuple[str, Estimate | None], ...] = (
        ("gates per episode", statistics.gates_per_episode),
        ("crash rate", statistics.crash_rate),
        ("mean speed (m/s)", statistics.mean_speed),
        ("gate AUROC", statistics.gate_auroc),
    )
    for name, estimate in rows:
        if estimate is None:
            table.add_row(name, "not measured", "")
        else:
            low, high = estimate.ci95
            table.add_row(name, f"{estimate.mean:.3f}", f"{low:.3f} … {high:.3f}")
    stdout.print(table)
