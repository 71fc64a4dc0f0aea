"""``deploy-kit verify``."""

from pathlib import Path
from typing import Any

import click

from deploy_kit.bundle.thresholds import DEFAULT_PROFILE, PROFILES, load_profile
from deploy_kit.cli.command import Command, under
from deploy_kit.cli.options import (
    checkpoint_path_from,
    env_from,
    hints_from,
    is_given,
    refuse_given,
    run_options,
    task_options,
    vehicle_option,
)
from deploy_kit.cli.process_options import process_options, processes_from
from deploy_kit.cli.progress import progress_bars
from deploy_kit.cli.runtime_options import runtime_options
from deploy_kit.cli.verify_result import Outputs, judge_again, show, show_next
from deploy_kit.errors import OptionError
from deploy_kit.ranks import launched_rank
from deploy_kit.verify.options import LIVE_MODES, VerifyOptions

_RECHECK = {"recheck", "profile", "report", "require_complete", "junit", "summary"}
"""Options that have an effect where nothing is run."""

_FLIGHTS = (
    *("episodes", "thorough", "max_episodes", "live_modes", "backend"),
    *("num_processes", "num_gpus", "shares", "log_all_ranks"),
    *("stage", "tracks", "difficulty", "finish"),
    *("levels", "neighbours", "no_obstacles", "no_randomisation", "device", "threads"),
)
"""Options that only flights need; the task also names the vehicle, the seed also random inputs."""

_replay, _live, _result = under("Replay"), under("Flights"), under("Output")


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
@runtime_options(VerifyOptions, ": each is verified, the first one flies", ", judged by the profile tf32")
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
    also = Outputs(options.pop("junit"), options.pop("summary"))
    also.check()
    if recheck is not None:
        given = {parameter.name or "" for parameter in click.get_current_context().command.params} - _RECHECK
        refuse_given("with --recheck, which runs nothing", *given)
        judge_again(recheck, profile, options["report"], require_complete, also)
    if bundle is None:
        raise OptionError("no bundle: give its folder, or --recheck REPORT")
    if is_leapp := bundle.suffix in (".yaml", ".yml"):
        refuse_given("on a LEAPP export", "no_torchscript", "flight", "no_vehicle", "num_processes", "shares", "trust")
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
    show(report, path)
    if accepted and not is_leapp:
        show_next(bundle)
    raise click.exceptions.Exit(0 if accepted else 1)
