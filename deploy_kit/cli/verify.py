"""``deploy-kit verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.console import Command, progress_bars, stdout
from deploy_kit.cli.options import checkpoint_path_from, env_from, hints_from, run_options, task_options

if TYPE_CHECKING:
    from deploy_kit.verify.report import VerifyReport

MODES = ("shadow", "driving")


@click.command("verify", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@run_options
@click.option("--feature-file", "--h5", "feature_file", type=click.Path(path_type=Path), help="Feature file to replay.")
@click.option("--no-replay", is_flag=True, help="Go without a feature file; the report says so.")
@click.option("--no-live", is_flag=True, help="Go without live rollouts; the report says so.")
@click.option("--episodes", type=click.IntRange(min=2), default=32, help="Live episodes in each mode, side by side.")
@click.option(
    "--live-mode",
    "live_modes",
    type=click.Choice(MODES),
    multiple=True,
    default=MODES,
    help="shadow: PyTorch drives, onnxruntime sees the same. driving: onnxruntime drives. Repeatable.",
)
@task_options
@click.option("--max-rows", type=click.IntRange(min=1), help="Most held-out rows to replay. [default: all]")
@click.option("--vehicle", "vehicle_file", type=click.Path(path_type=Path), help="Vehicle numbers given to export.")
@click.option("--no-vehicle", is_flag=True, help="Go without the vehicle's numbers; the report says so.")
@click.option("--require-complete", is_flag=True, help="Exit with 1 if anything was not run.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Where to write the report. [default: BUNDLE/report.json]"
)
def verify_command(bundle: Path, **options: Any) -> None:
    """Prove that BUNDLE does what the checkpoint does: static checks, replay, live rollouts.

    Exits with 0 if every check passed, with 1 if one failed.
    """
    from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

    require_complete = options.pop("require_complete")
    replay, live = not options.pop("no_replay"), not options.pop("no_live")
    seed = options["seed"]
    env = env_from(options, options["episodes"])
    settings = VerifyOptions(
        bundle=bundle,
        checkpoint=checkpoint_path_from(options),
        replay=replay,
        live=live,
        vehicle=not options.pop("no_vehicle"),
        env=env,
        hints=hints_from(options),
        seed=seed,
        **options,
    )
    with progress_bars() as progress:
        report = verify_bundle(settings, progress)
    _show(report)
    accepted = report.passed and (report.complete or not require_complete)
    raise click.exceptions.Exit(0 if accepted else 1)


def _show(report: "VerifyReport") -> None:
    from rich.table import Table
    from rich.text import Text

    from deploy_kit.verify.table import table_rows

    rows = table_rows(report)
    colours = {"passed": "green", "not run": "yellow"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for options in ({}, {"no_wrap": True}, {"justify": "right"}, {"overflow": "fold"}):
        table.add_column(**options)
    for row in rows:
        colour = colours.get(row.verdict, "bold red")
        measured = row.compared if row.worst in ("none", "") else f"worst {row.worst}"
        lines = [Text(line) for line in filter(None, [measured, row.flipped and f"decisions flipped: {row.flipped}"])]
        lines += [Text(reason, style=colour) for reason in row.reasons]
        table.add_row(Text(row.verdict, style=colour), row.check, row.count, Text("\n").join(lines))
    stdout.print(table, soft_wrap=False)
    for limit in dict.fromkeys(row.limit for row in rows if row.limit not in ("", "all hold")):
        checks = [row.check for row in rows if row.limit == limit]
        of = checks[0] if len(checks) == 1 else ", ".join(dict.fromkeys(check.split("/")[0] for check in checks))
        stdout.print(Text(f"limit of {of}: {limit}"))
    skipped = sum(row.verdict == "not run" for row in rows)
    note = f", {skipped} checks not run" if skipped else ""
    verdict = "VERIFIED" if report.passed else "FAILED"
    stdout.print(Text(verdict + note, style="bold green" if report.passed else "bold red"))
