"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy_kit.cli.console import LAUNCHER_ARGUMENTS
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.policy.network_hints import NetworkHints
    from deploy_kit.sim.registry import EnvOptions

F = TypeVar("F", bound=Callable[..., Any])

TRACKS = ("circular", "zigzag", "ellipse")


class ImageShape(click.ParamType[tuple[int, int]]):
    """Rows by columns, as in ``72x96``."""

    name = "ROWSxCOLUMNS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse ``72x96`` into (72, 96)."""
        if isinstance(value, tuple):
            return value
        rows, cross, columns = str(value).partition("x")
        if not (cross and rows.isdigit() and columns.isdigit()):
            self.fail(f"{value!r} is not ROWSxCOLUMNS, for example 72x96", param, ctx)
        return int(rows), int(columns)


class Tracks(click.ParamType[tuple[str, ...]]):
    """Track kinds, separated by commas, or ``all``."""

    name = "KIND[,KIND]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse ``circular,ellipse`` into a tuple of known kinds."""
        if isinstance(value, tuple):
            return value
        kinds = TRACKS if value == "all" else tuple(str(value).split(","))
        unknown = [kind for kind in kinds if kind not in TRACKS]
        if unknown:
            self.fail(f"unknown track kind {unknown[0]!r}; known: {', '.join(TRACKS)}, all", param, ctx)
        return kinds


def _compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


network_options = _compose(
    click.option("--activation", help="Activation of the network, where the run has no params/agent.yaml."),
    click.option(
        "--image-shape", type=ImageShape(), help="Shape of the depth image, where the run has no params/agent.yaml."
    ),
    click.option("--normalizer-eps", type=float, help="Epsilon of a stored observation normaliser (rsl_rl: 0.01)."),
    click.option(
        "--params",
        type=click.Path(path_type=Path),
        help="Folder with the run's agent.yaml and env.yaml. [default: params/ beside the checkpoint]",
    ),
)

run_options = _compose(
    click.option(
        "--checkpoint",
        help="Checkpoint file or run directory, or demo for deploy-kit's own policy; with the three options below, a "
        "name or regular expression in the run.",
    ),
    click.option("--experiment-name", help="Experiment folder under the log root."),
    click.option("--load-run", help="Run in the experiment: a name or regular expression. [default: the latest]"),
    click.option(
        "--log-root",
        type=click.Path(path_type=Path),
        help="Where experiments are kept. [default: logs/rsl_rl, then checkpoints]",
    ),
    network_options,
)

vehicle_option = click.option(
    "--vehicle", "vehicle_file", type=click.Path(path_type=Path), help="Vehicle numbers (YAML or JSON)."
)

num_envs_option = click.option("--num-envs", type=click.IntRange(min=1), default=16, help="Environments side by side.")

task_options = _compose(
    click.option(
        "--task",
        default=TASK_ID,
        help="A registered task, or MODULE:FACTORY that builds an rsl_rl VecEnv.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["mujoco", "isaaclab"]),
        default="mujoco",
        help="Simulator. Arguments of Isaac Lab's launcher go after --.",
    ),
    click.option(
        "--extension",
        "extensions",
        multiple=True,
        metavar="MODULE",
        help="Module to import first, since it registers the task. Repeatable.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Same seed, same tracks, noise and result."),
    click.option(
        "--stage",
        type=click.IntRange(0, 2),
        default=2,
        envvar="TRAINING_STAGE",
        show_envvar=True,
        help="Stage of the task: noise, terminations, episode length.",
    ),
    click.option("--tracks", type=Tracks(), default=",".join(TRACKS), help="Kinds of track to draw from, or all."),
    click.option("--difficulty", type=click.FloatRange(0, 1), help="Track difficulty. [default: drawn per track]"),
    click.option(
        "--finish",
        type=click.Choice(["end", "cyclic"]),
        default="end",
        help="After a zigzag's last gate: end the episode, or turn back to the first one, as MasterRacing does.",
    ),
    click.option("--no-obstacles", is_flag=True, help="Gates and ground only."),
    click.option("--no-randomisation", is_flag=True, help="Nominal vehicle instead of a randomised one."),
    click.option("--device", default="cpu", help="Device of the policy, and of the simulator where it has a choice."),
    click.option("--headless", is_flag=True, help="Accepted for Isaac Lab's sake; nothing here opens a window."),
    click.option("--threads", type=click.IntRange(min=1), help="Simulator threads. [default: one a core]"),
)


def checkpoint_path_from(options: dict[str, Any]) -> Path:
    """Take the run options out of a command's options and find the checkpoint they name."""
    from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint

    return resolve_checkpoint(
        CheckpointQuery(
            checkpoint=options.pop("checkpoint"),
            load_run=options.pop("load_run"),
            experiment_name=options.pop("experiment_name"),
            log_root=options.pop("log_root"),
        )
    )


def hints_from(options: dict[str, Any]) -> "NetworkHints":
    """Take the network options out of a command's options."""
    from deploy_kit.policy.network_hints import NetworkHints

    return NetworkHints(**{field.name: options.pop(field.name) for field in fields(NetworkHints)})


def env_from(options: dict[str, Any], num_envs: int) -> "EnvOptions":
    """Take the simulator options out of a command's options; ``task`` and ``backend`` stay."""
    from deploy_kit.sim.registry import EnvOptions

    options.pop("headless")
    return EnvOptions(
        num_envs=num_envs,
        seed=options.pop("seed"),
        stage=options.pop("stage"),
        tracks=options.pop("tracks"),
        obstacles=not options.pop("no_obstacles"),
        randomisation=not options.pop("no_randomisation"),
        difficulty=options.pop("difficulty"),
        finish=options.pop("finish"),
        num_threads=options.pop("threads"),
        device=options.pop("device"),
        extensions=options.pop("extensions"),
        launcher=click.get_current_context().meta.get(LAUNCHER_ARGUMENTS, ()),
    )
