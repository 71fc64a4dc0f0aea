"""``deploy-kit fly``."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy_kit.cli.command import Command, under
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import (
    NETWORK_PARAMETERS,
    RUN_PARAMETERS,
    checkpoint_path_from,
    env_from,
    hints_from,
    num_envs_option,
    refuse_given,
    run_options,
    task_options,
    vehicle_option,
)
from deploy_kit.cli.progress import progress_bars
from deploy_kit.policy.shipped import DEMO_NAME

if TYPE_CHECKING:
    from deploy_kit.flight.episodes import Estimate
    from deploy_kit.flight.flown_policy import PolicyIdentity
    from deploy_kit.flight.fly import FlyOptions, FlyResult, WatchedFlights
    from deploy_kit.flight.paired import PairedDifference
    from deploy_kit.flight.record import FlightComparison, PolicyFlight

_output = under("Output")


@click.command(
    "fly",
    cls=Command,
    examples={
        "deploy-kit fly bundles/racer --num-envs 96 --tracks circular --pictures outputs/flight": (
            "a bundle, with pictures"
        ),
        "deploy-kit fly demo --viewer": "in the browser, in 3D",
        "deploy-kit fly demo model_7998.pt --num-envs 256 --json outputs/both.json": "two policies, same starts",
        "deploy-kit fly --experiment_name racing": "the latest run of an experiment",
    },
)
@click.argument("policies", nargs=-1, metavar="[POLICY [SECOND]]", type=click.Path())
@run_options
@num_envs_option
@task_options
@vehicle_option
@_output(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write statistics, options, versions and one row an episode to this file.",
)
@_output(
    "--pictures",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder for pictures and depth video of one environment; those of SECOND go to second/ in it.",
)
@_output(
    "--picture-env", metavar="N", type=click.IntRange(min=0), default=0, help="Environment that the pictures show."
)
@_output(
    "--viewer",
    is_flag=True,
    help="Then show the flights in the browser, in 3D, until Ctrl-C; needs the extra viewer.",
)
@_output(
    "--viewer-port",
    metavar="N",
    type=click.IntRange(min=1, max=65535),
    default=8080,
    help="Where on this machine; the next free one if it is in use.",
)
@_output(
    "--rerun",
    "recording",
    metavar="FILE.rrd",
    type=click.Path(path_type=Path),
    help="Write the flights for Rerun's viewer; needs the extra rerun.",
)
@_output("--overwrite", is_flag=True, help="Replace existing pictures, statistics and recording.")
def fly_command(policies: tuple[str, ...], **options: Any) -> None:
    """Fly POLICY, a checkpoint or a bundle, and report statistics over the first episode of each environment.

    With SECOND, another checkpoint or bundle, both fly from the same starts, and the paired differences are reported:
    SECOND minus POLICY, with 95 % intervals. Instead of POLICY, a checkpoint can be named with --checkpoint and its
    companions.
    """
    from deploy_kit.errors import OptionError
    from deploy_kit.flight.fly import FlyOptions, fly

    if len(policies) > 2:
        raise OptionError(f"{len(policies)} policies are named; fly one, or two to compare them")
    if policies and options["checkpoint"] is not None:
        raise OptionError("give POLICY or --checkpoint, not both")
    if policies:
        refuse_given("with POLICY, which names it", "experiment_name", "load_run", "log_root")
        if all(map(_is_bundle, policies)):
            refuse_given("on a bundle, which says it itself", *NETWORK_PARAMETERS, "vehicle_file")
    if options["pictures"] is None:
        refuse_given("without --pictures", "picture_env")
        if options["json_path"] is None and options["recording"] is None:
            refuse_given("without --json, --pictures or --rerun", "overwrite")
    if not options["viewer"]:
        refuse_given("without --viewer", "viewer_port")
    port = options.pop("viewer_port")
    paths = [_resolve(policy, options) for policy in policies or (None,)]
    for name in RUN_PARAMETERS:
        options.pop(name)
    second = paths[1] if len(paths) == 2 else None
    env, hints = env_from(options, options.pop("num_envs")), hints_from(options)
    settings = FlyOptions(policy=paths[0], compare_with=second, env=env, hints=hints, **options)
    with progress_bars() as progress:
        result = fly(settings, progress)
    _show(result, settings)
    if settings.viewer and result.watched is not None:
        _watch(result.watched, port)


def _watch(watched: "WatchedFlights", port: int) -> None:
    from deploy_kit.flight.viewers.browser import FlightViewer

    with FlightViewer(watched.flights, watched.image_shape, watched.threshold, port) as viewer:
        viewer.wait(lambda url: stdout.print(f"Open {url} in a browser; Ctrl-C ends it"))


def _is_bundle(policy: str) -> bool:
    path = Path(policy)
    return policy != DEMO_NAME and ((path / "manifest.json").is_file() or path.name == "manifest.json")


def _resolve(policy: str | None, options: dict[str, Any]) -> Path:
    """Return a bundle's folder as it is, else the file of the checkpoint that is named."""
    if policy is not None and _is_bundle(policy):
        return Path(policy)
    named = {name: options[name] for name in RUN_PARAMETERS}
    if policy is not None:
        named["checkpoint"] = policy
    return checkpoint_path_from(named)


def _show(result: "FlyResult", options: "FlyOptions") -> None:
    env = options.env
    first = result.flights[0]
    kinds = Counter(row.track_kind for row in first.episodes if row.track_kind is not None)
    tracks = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "not told by the environment"
    stdout.print(
        f"Task {options.task} on {options.backend}, seed {env.seed}, stage {env.stage}, {env.num_envs} environments; "
        f"tracks: {tracks}",
    )
    for flight in result.flights:
        _show_flight(flight)
    if result.comparison is not None:
        _show_comparison(result.comparison)
    for path in (*result.pictures, *filter(None, [options.json_path, options.recording])):
        stdout.print(f"Wrote {path}")
    stdout.print(f"Next: {_next_command(result)}")


def _show_flight(flight: "PolicyFlight") -> None:
    from rich.table import Table

    policy, statistics = flight.policy, flight.statistics
    stdout.print(f"Flown: {policy.file} ({policy.kind}, sha256 {policy.sha256})")
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


def _show_comparison(comparison: "FlightComparison") -> None:
    from rich.table import Table

    if not comparison.paired:
        stdout.print(
            "The environment did not repeat itself under one seed: the episodes are not pairs of equal starts."
        )
    pairs = comparison.differences[0].pairs
    table = Table(title=f"Second policy minus first, {pairs} paired episodes")
    table.add_column("figure")
    for name in ("first", "second", "difference", "95 % interval", "equal pairs"):
        table.add_column(name, justify="right")
    for figure in comparison.differences:
        low, high = figure.ci95
        table.add_row(
            _name(figure),
            f"{figure.reference:.3f}",
            f"{figure.candidate:.3f}",
            f"{figure.difference:+.3f}",
            f"{low:+.3f} … {high:+.3f}",
            str(figure.equal_pairs),
        )
    stdout.print(table)


def _name(figure: "PairedDifference") -> str:
    return figure.name if figure.unit == "1" else f"{figure.name} ({figure.unit})"


def _next_command(result: "FlyResult") -> str:
    """Return what to do next with the policy that was flown last."""
    policy: PolicyIdentity = result.flights[-1].policy
    path = shlex.quote(str(policy.path))
    if policy.kind == "bundle":
        known = (flight.policy for flight in result.flights if flight.policy.kind == "checkpoint")
        source = next((p.path for p in known if p.sha256 == policy.checkpoint_sha256), None)
        named = "CHECKPOINT" if source is None else shlex.quote(str(source))
        return f"deploy-kit verify {path} --checkpoint {named} --no-replay"
    if policy.calibrated:
        return f"deploy-kit export --checkpoint {path} --use-auxiliary-head"
    return f"deploy-kit collect --checkpoint {path}"
