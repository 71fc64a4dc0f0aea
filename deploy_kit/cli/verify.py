"""``deploy-kit verify``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deploy_kit.bundle.runtime import EXECUTION_PROVIDERS, LEVELS
from deploy_kit.bundle.thresholds import DEFAULT_PROFILE, PROFILES, load_profile
from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import (
    checkpoint_path_from,
    env_from,
    hints_from,
    is_given,
    next_command,
    refuse_given,
    run_options,
    task_options,
    vehicle_option,
)
from deploy_kit.cli.process_options import process_options, processes_from
from deploy_kit.cli.progress import progress_bars
from deploy_kit.errors import OptionError
from deploy_kit.ranks import launched_rank
from deploy_kit.verify.options import LIVE_MODES, VerifyOptions

if TYPE_CHECKING:
    from deploy_kit.verify.report import VerifyReport

_RECHECK = {"recheck", "profile", "report", "require_complete", "junit", "summary"}
"""Options that have an effect where nothing is run."""

_FLIGHTS = (
    *("episodes", "thorough", "max_episodes", "live_modes", "backend"),
    *("num_processes", "num_gpus", "shares", "log_all_ranks"),
    *("stage", "tracks", "difficulty", "finish"),
    *("levels", "neighbours", "no_obstacles", "no_randomisation", "device", "threads"),
)
"""Options that only flights need; the task also names the vehicle, the seed also random inputs."""

_replay, _live, _runtime, _result = under("Replay"), under("Flights"), under("Runtimes"), under("Output")


@click.command(
    "verify",
    cls=Command,
    examples={
        "deploy-kit verify bundles/racer --checkpoint outputs/finetune --feature-file datasets/features.h5": (
            "everything"
        ),
        "deploy-kit verify bundles/racer --checkpoint model_7998.pt --no-replay --no-live": "without a simulator, in a "
        "minute",
        "deploy-kit verify bundles/racer --checkpoint model_7998.pt --no-replay --episodes 256 --tracks circular": (
            "more flights, on one kind of track"
        ),
        "deploy-kit verify --recheck bundles/racer/report.json --profile ours.json": (
            "other limits on what was measured; nothing is run"
        ),
        "deploy-kit verify bundles/racer --checkpoint model_7998.pt --no-replay --no-live --flight flight.dklog": (
            "what flew, from its log"
        ),
        "deploy-kit verify leapp/racing.yaml --checkpoint model_7998.pt --no-replay": "a policy that LEAPP exported",
    },
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@run_options
@_replay(
    "--feature-file",
    "feature_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Feature file to replay; needed unless --no-replay is given.",
)
@_replay("--no-replay", is_flag=True, help="Go without a feature file; the report says so.")
@_replay("--no-observations", is_flag=True, help="Go with a feature file that holds no whole observations.")
@_replay("--no-torchscript", is_flag=True, help="Do not run TorchScript, as where it cannot be kept from writing.")
@_replay("--no-cpp", is_flag=True, help="Do not build and run a bundle's C++ header, as without a compiler.")
@_replay(
    "--max-rows",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most held-out rows to replay. [default: all]",
)
@_replay(
    "--search-evaluations",
    metavar="N",
    type=click.IntRange(min=1),
    default=VerifyOptions.search_evaluations,
    help="Inputs that a search for the largest difference may try.",
)
@_replay(
    "--flight",
    metavar="LOG",
    type=click.Path(path_type=Path),
    help="Log that the onboard runner wrote: replay its inputs, and judge what flew.",
)
@_live("--no-live", is_flag=True, help="Go without live rollouts; the report says so.")
@_live(
    "--episodes",
    metavar="N",
    type=click.IntRange(min=1),
    default=VerifyOptions.episodes,
    help="Live episodes in each mode, side by side.",
)
@_live("--thorough", is_flag=True, help="Fly as many more episodes as the profile's full margins need.")
@_live(
    "--max-episodes",
    metavar="N",
    type=click.IntRange(min=1),
    default=VerifyOptions.max_episodes,
    help="Most live episodes in each mode.",
)
@_live(
    "--live-mode",
    "live_modes",
    type=click.Choice(LIVE_MODES),
    multiple=True,
    default=VerifyOptions.live_modes,
    help="shadow: PyTorch drives, onnxruntime sees the same. driving: onnxruntime drives. contract: the onboard runner "
    "drives, knowing the contract alone. Repeatable.",
)
@process_options
@task_options
@vehicle_option
@under("Vehicle")("--no-vehicle", is_flag=True, help="Go without the vehicle's numbers; the report says so.")
@_runtime(
    "--provider",
    "providers",
    type=click.Choice(list(EXECUTION_PROVIDERS)),
    multiple=True,
    default=VerifyOptions.providers,
    help="Execution provider of onnxruntime. Repeatable: each is verified, the first one flies.",
)
@_runtime(
    "--optimisation-level",
    "optimisation_levels",
    type=click.Choice(list(LEVELS)),
    multiple=True,
    default=VerifyOptions.optimisation_levels,
    help="Graph optimisation of onnxruntime. Repeatable, likewise.",
)
@_runtime(
    "--onnx-threads",
    metavar="N",
    type=click.IntRange(min=1),
    multiple=True,
    default=VerifyOptions.onnx_threads,
    help="Threads of one inference. Repeatable, likewise.",
)
@_runtime("--tf32", is_flag=True, help="Let CUDA round to TF32, judged by the profile tf32.")
@_result(
    "--profile",
    metavar="NAME|FILE",
    help=f"Limits of the verdicts: {', '.join(PROFILES)}, or a file. [default: {DEFAULT_PROFILE}; with --recheck, the "
    "report's]",
)
@_result(
    "--recheck",
    metavar="REPORT",
    type=click.Path(path_type=Path),
    help="Judge the figures of this report again, without BUNDLE and without running anything.",
)
@_result(
    "--trust",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Open the bundle only if it is signed by this public key in PEM.",
)
@_result("--require-complete", is_flag=True, help="Exit with 1 if anything was not run.")
@_result(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write the report; its page goes beside it, as .html. [default: BUNDLE/report.json]",
)
@_result(
    "--junit",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write the verdicts as JUnit's XML, for a continuous integration service.",
)
@_result(
    "--summary",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help='Also append a summary in Markdown, as to "$GITHUB_STEP_SUMMARY".',
)
def verify_command(bundle: Path | None, **options: Any) -> None:
    """Prove that BUNDLE does what the checkpoint does: static checks, replay, live rollouts.

    BUNDLE is the folder that export wrote, or the YAML file of a policy that LEAPP exported.

    Exits with 0 if every check passed, with 1 if one failed.
    """
    require_complete, recheck = options.pop("require_complete"), options.pop("recheck")
    profile = options.pop("profile")
    also = _Outputs(options.pop("junit"), options.pop("summary"))
    also.check()
    if recheck is not None:
        given = {parameter.name or "" for parameter in click.get_current_context().command.params} - _RECHECK
        refuse_given("with --recheck, which runs nothing", *given)
        _judge_again(recheck, profile, options["report"], require_complete, also)
    if bundle is None:
        raise OptionError("no bundle: give its folder, or --recheck REPORT")
    if is_leapp := bundle.suffix in (".yaml", ".yml"):
        refuse_given("on a LEAPP export", "no_torchscript", "flight", "no_vehicle", "num_processes", "shares")
    replay, live = not options.pop("no_replay"), not options.pop("no_live")
    if not replay:
        refuse_given("with --no-replay", "max_rows", "no_observations")
    if not live:
        refuse_given("with --no-live", *_FLIGHTS)
    options["num_processes"] = processes_from(options.pop("num_gpus"), options)
    seed = options["seed"] if is_given("seed") else None
    env = env_from(options, options["episodes"])
    settings = VerifyOptions(
        bundle=bundle,
        checkpoint=checkpoint_path_from(options),
        replay=replay,
        live=live,
        vehicle=not options.pop("no_vehicle"),
        observations=not options.pop("no_observations"),
        torchscript=not options.pop("no_torchscript"),
        cpp=not options.pop("no_cpp"),
        thresholds=load_profile(profile or DEFAULT_PROFILE),
        env=env,
        hints=hints_from(options),
        seed=seed,
        **options,
    )
    settings.check()

    if not (rank := launched_rank()).leads:
        from deploy_kit.verify.processes import fly_for_the_first

        fly_for_the_first(settings, rank)
        return

    from deploy_kit.verify.outputs.page_file import page_path

    with progress_bars() as progress:
        if is_leapp:
            from deploy_kit.verify.leapp.run import LEAPP_REPORT_NAME, verify_leapp

            report, path = verify_leapp(settings, progress), bundle.with_name(LEAPP_REPORT_NAME)
        else:
            from deploy_kit.verify.verifier import REPORT_NAME, verify_bundle

            report, path = verify_bundle(settings, progress), bundle / REPORT_NAME
    accepted = report.passed and (report.complete or not require_complete)
    path = settings.report or path
    also.write(report, page_path(path))
    _show(report, path)
    if accepted and not is_leapp:
        _show_next(bundle)
    raise click.exceptions.Exit(0 if accepted else 1)


def _show_next(bundle: Path) -> None:
    from deploy_kit.bundle.policy_reader import is_policy_bundle

    # Flights with figures of gates are the racing policy's.
    if not is_policy_bundle(bundle):
        stdout.print(next_command("fly", bundle))


@dataclass(frozen=True)
class _Outputs:
    """What is written of a report besides the report and its page."""

    junit: Path | None
    summary: Path | None

    def check(self) -> None:
        """Refuse before the long work what could not be written after it."""
        if self.junit is not None:
            from deploy_kit.verify.outputs.junit import require_junit_or_nothing

            require_junit_or_nothing(self.junit)

    def write(self, report: "VerifyReport", page: Path | None) -> None:
        """Write the files, and say where."""
        from deploy_kit.verify.outputs.junit import write_junit
        from deploy_kit.verify.outputs.markdown import append_summary

        if self.junit is not None:
            write_junit(self.junit, report)
        if self.summary is not None:
            append_summary(self.summary, report)
        for path in filter(None, (page, self.junit, self.summary)):
            stdout.print(f"Wrote {path}")


def _judge_again(
    path: Path, profile: str | None, target: Path | None, require_complete: bool, also: _Outputs
) -> NoReturn:
    """Judge a report's figures under a profile, or under its own limits, and exit."""
    from deploy_kit.verify.outputs.page_file import PageFile, page_path
    from deploy_kit.verify.report_file import ReportFile
    from deploy_kit.verify.summary import beside, read_report

    report = read_report(path)
    if profile is not None:
        report = report.judged(load_profile(profile))
    elif (name := report.thresholds.profile) in PROFILES and report.thresholds != load_profile(name):
        raise OptionError(f"{path}: its limits are not those of this deploy-kit's {name}; judge by --profile {name}")
    if target is not None:
        with PageFile(target) as page:
            ReportFile(target, path.parent).finish(report)
            page.finish(report, None)
    also.write(report, None if target is None else page_path(target))
    _show(report, target or path)
    stdout.print(f"Judged again, nothing was run: {beside(path, report)}")
    raise click.exceptions.Exit(0 if report.passed and (report.complete or not require_complete) else 1)


def _show(report: "VerifyReport", path: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from deploy_kit.verify.report_file import kept_path
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
    stdout.print(table)
    for limit in dict.fromkeys(row.limit for row in rows if row.limit not in ("", "all hold")):
        checks = [row.check for row in rows if row.limit == limit]
        of = checks[0] if len(checks) == 1 else ", ".join(dict.fromkeys(check.split("/")[0] for check in checks))
        stdout.print(Text(f"limit of {of}: {limit}"))
    stdout.print(f"Limits: profile {report.thresholds.profile}")
    if report.certificate is not None:
        stdout.print(Text(str(report.certificate)))
    for found in report.diagnosis:
        stdout.print(Text(str(found), style="bold red"))
    stdout.print(f"Report: {path}")
    if report.replaces is not None and report.replaces.passed and not report.passed:
        of = "these files" if report.replaces.same_bundle else "another bundle"
        stdout.print(f"It replaces a report of {of} that had passed ({report.replaces.created_utc})")
    replaced = report.replaces
    if replaced is not None and replaced.same_bundle and replaced.complete and replaced.passed and not report.complete:
        kept = kept_path(path)
        stdout.print(f"It is not complete; the complete report of {replaced.created_utc} is kept as {kept}")
    for check in report.left_out:
        stdout.print(Text(f"{check.name} was not run, and no option switched it off", style="bold red"))
    skipped = sum(row.verdict == "not run" for row in rows)
    note = f", {skipped} checks not run" if skipped else ""
    verdict = "VERIFIED" if report.passed else "FAILED"
    stdout.print(Text(verdict + note, style="bold green" if report.passed else "bold red"))
