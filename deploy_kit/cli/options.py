"""Options that several commands share, and what becomes of them."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deploy_kit.cli.command import LAUNCHER_ARGUMENTS, compose, under
from deploy_kit.cli.parameter_types import ImageShape, ObservationShapes, Tracks
from deploy_kit.errors import OptionError
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.policy.network_hints import NetworkHints


_policy, _network, _simulation = under("Policy"), under("Network, where its run does not tell"), under("Simulation")

network_options = compose(
    _network(
        "--params",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        help="Folder with the run's agent.yaml and env.yaml. [default: params/ beside the checkpoint]",
    ),
    _network("--activation", metavar="NAME", help="Activation of the network."),
    _network("--image-shape", metavar="ROWSxCOLUMNS", type=ImageShape(), help="Shape of the depth image."),
    _network(
        "--normalizer-eps", metavar="EPS", type=float, help="Epsilon of a stored observation normaliser (rsl_rl: 0.01)."
    ),
    _network(
        "--obs-shape",
        "observation_shapes",
        metavar="GROUP=SHAPE[,…]",
        type=ObservationShapes(),
        default="",
        show_default=False,
        help="Shapes of observation groups of another network than VisionActorCritic, as in policy=48,camera=1x36x48.",
    ),
    _network(
        "--feature-layer",
        metavar="NAME",
        help="Layer whose inputs such a network's head reads. [default: the one that gives the action]",
    ),
    _network(
        "--extension",
        "extensions",
        multiple=True,
        metavar="MODULE",
        help="Module to import first, since it registers a network or a task. Repeatable.",
    ),
)

run_options = compose(
    _policy(
        "--checkpoint",
        metavar="FILE|FOLDER|demo",
        help="Checkpoint file, run folder (its latest checkpoint), or demo for deploy-kit's own policy; with the three "
        "options below, a name or regular expression in the run.",
    ),
    _policy("--experiment-name", metavar="NAME", help="Experiment folder under the log root."),
    _policy(
        "--load-run",
        metavar="NAME",
        help="Run in the experiment: a name or regular expression. [default: the latest]",
    ),
    _policy(
        "--log-root",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        help="Where experiments are kept. [default: logs/rsl_rl, then checkpoints]",
    ),
    network_options,
)

vehicle_option = under("Vehicle")(
    "--vehicle",
    "vehicle_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Vehicle numbers (YAML or JSON), where the run has no env.yaml.",
)

num_envs_option = _simulation(
    "--num-envs",
    metavar="N",
    type=click.IntRange(min=1),
    default=EnvOptions.num_envs,
    help="Environments side by side.",
)

seed_option = _simulation(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=EnvOptions.seed,
    help="Same seed, same tracks, noise and result.",
)

task_option = _simulation(
    "--task",
    default=TASK_ID,
    metavar="ID|MODULE:FACTORY",
    help="A registered task, or what builds an rsl_rl VecEnv.",
)

task_options = compose(
    task_option,
    _simulation(
        "--backend",
        type=click.Choice(["mujoco", "isaaclab"]),
        default="mujoco",
        help="Simulator. Arguments of Isaac Lab's launcher go after --.",
    ),
    seed_option,
    _simulation(
        "--stage",
        metavar="N",
        type=click.IntRange(0, 2),
        default=EnvOptions.stage,
        envvar="TRAINING_STAGE",
        show_envvar=True,
        help="Stage of the task: noise, terminations, episode length.",
    ),
    _simulation(
        "--tracks",
        metavar="KIND[,KIND]",
        type=Tracks(),
        default=",".join(EnvOptions.tracks),
        help="Kinds of track to draw from, or all.",
    ),
    _simulation(
        "--difficulty",
        metavar="D",
        type=click.FloatRange(0, 1),
        help="Track difficulty, 0 to 1. [default: drawn per track]",
    ),
    _simulation(
        "--finish",
        type=click.Choice(["end", "cyclic"]),
        default=EnvOptions.finish,
        help="After a zigzag's last gate: end the episode, or turn back to the first gate as in MasterRacing.",
    ),
    _simulation(
        "--levels", is_flag=True, help="Levels of difficulty that drones climb, as in MasterRacing's training."
    ),
    _simulation("--neighbours", is_flag=True, help="With --levels: tracks side by side, seen and solid."),
    _simulation("--no-obstacles", is_flag=True, help="Gates and ground only."),
    _simulation("--no-randomisation", is_flag=True, help="Nominal vehicle instead of a randomised one."),
    _simulation(
        "--device",
        default=EnvOptions.device,
        help="Device of the policy, and of the simulator where it has a choice.",
    ),
    _simulation("--headless", is_flag=True, help="Accepted for Isaac Lab's sake; nothing here opens a window."),
    _simulation(
        "--threads",
        metavar="N",
        type=click.IntRange(min=1),
        help="Simulator threads. [default: one for four environments, at most one a core]",
    ),
)

RUN_PARAMETERS = ("checkpoint", "load_run", "experiment_name", "log_root")
"""Names of the parameters that name a checkpoint."""

NETWORK_PARAMETERS = ("params", "activation", "image_shape", "normalizer_eps", "observation_shapes", "feature_layer")
"""Names of the parameters that say what weights do not tell."""

_RACING_ONLY = ("stage", "tracks", "difficulty", "finish", "levels", "neighbours", "no_obstacles", "no_randomisation")


def checkpoint_path_from(options: dict[str, Any], default: str | None = None) -> Path:
    """Take the run options out of a command's options and find the checkpoint they name.

    Args:
        options: options of the command.
        default: what ``--checkpoint`` is where no option names a policy.

    Raises:
        OptionError: nothing is named, or an option has no effect.
        CheckpointError: there is no such checkpoint.
    """
    from deploy_kit.policy.run.directory import CheckpointQuery, resolve_checkpoint

    query = CheckpointQuery(**{name: options.pop(name) for name in RUN_PARAMETERS})
    named = (query.checkpoint, query.load_run, query.experiment_name)
    if query.experiment_name is None and query.load_run is None:
        refuse_given("without --experiment_name or --load_run", "log_root")
    return resolve_checkpoint(CheckpointQuery(checkpoint=default) if default and not any(named) else query)


def hints_from(options: dict[str, Any]) -> "NetworkHints":
    """Take the network options out of a command's options."""
    from deploy_kit.policy.network_hints import NetworkHints

    return NetworkHints(**{field.name: options.pop(field.name) for field in fields(NetworkHints)})


def env_from(options: dict[str, Any], num_envs: int) -> EnvOptions:
    """Take the simulator options out of a command's options; ``task``, ``backend`` and ``extensions`` stay.

    Raises:
        OptionError: an option has no effect on the task or the simulator.
    """
    if options["backend"] == "isaaclab":
        refuse_given("with --backend isaaclab", "threads")
        if options["task"] != TASK_ID:
            refuse_given(f"on a task other than {TASK_ID} with --backend isaaclab", *_RACING_ONLY)
    if "zigzag" not in options["tracks"]:
        refuse_given("without zigzag among --tracks", "finish")
    if not options["levels"]:
        refuse_given("without --levels", "neighbours")
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
        levels=options.pop("levels"),
        neighbours=options.pop("neighbours"),
        num_threads=options.pop("threads"),
        device=options.pop("device"),
        extensions=options["extensions"],
        launcher=click.get_current_context().meta.get(LAUNCHER_ARGUMENTS, ()),
    )


def is_given(name: str) -> bool:
    """Return whether the user gave an option, by the name of the command's parameter."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_given(why: str, *names: str) -> None:
    """Refuse options that the user gave and that have no effect.

    Args:
        why: under which condition they have none, as in "without --video".
        names: names of the command's parameters.

    Raises:
        OptionError: one was given on the command line.
    """
    for parameter in click.get_current_context().command.params:
        name = parameter.name or ""
        if name in names and is_given(name):
            raise OptionError(f"{parameter.opts[0]} has no effect {why}; leave it out")


def command_line(changes: Mapping[str, object]) -> str:
    """Return the command that was typed, with other values for some options, ready to paste.

    Args:
        changes: values by parameter name.
    """
    context = click.get_current_context()
    words = ["deploy-kit", str(context.info_name)]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in changes and context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = changes.get(name, context.params.get(name))
        words += typed_words(parameter, value)
    if launcher := context.meta.get(LAUNCHER_ARGUMENTS):
        words += ["--", *launcher]
    return shlex.join(words)


def typed_words(parameter: click.Parameter, value: object) -> list[str]:
    """Return an option as it is typed."""
    if isinstance(parameter, click.Argument):
        return [str(value)]
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [parameter.opts[0]] if value else list(parameter.secondary_opts[:1])
    if isinstance(parameter.type, ImageShape) and isinstance(value, tuple):
        return [parameter.opts[0], "x".join(map(str, value))]
    if isinstance(parameter.type, ObservationShapes) and isinstance(value, tuple):
        return [parameter.opts[0], ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in value)]
    if isinstance(value, tuple) and not parameter.multiple:
        return [parameter.opts[0], ",".join(map(str, value))]
    values = value if isinstance(value, tuple) else (value,)
    return [word for item in values for word in (parameter.opts[0], str(item))]


def policy_words(hints: "NetworkHints", vehicle_file: Path | None = None) -> list[str]:
    """Return the options that say of a policy what its file does not, for the next command on the same file."""
    words = [] if hints.params is None else ["--params", str(hints.params)]
    words += [] if hints.activation is None else ["--activation", hints.activation]
    words += [] if hints.image_shape is None else ["--image-shape", "x".join(map(str, hints.image_shape))]
    words += [] if hints.normalizer_eps is None else ["--normalizer-eps", str(hints.normalizer_eps)]
    if hints.observation_shapes:
        words += [
            "--obs-shape",
            ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in hints.observation_shapes),
        ]
    words += [] if hints.feature_layer is None else ["--feature-layer", hints.feature_layer]
    words += [word for module in hints.extensions for word in ("--extension", module)]
    return words + ([] if vehicle_file is None else ["--vehicle", str(vehicle_file)])


def next_command(*words: object) -> str:
    """Return a line with the command to type next; words that are None are left out."""
    return f"Next: {shlex.join(['deploy-kit', *(str(word) for word in words if word is not None)])}"
