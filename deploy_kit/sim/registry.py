"""From a task's name to a vector environment."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import MissingDependencyError, OptionError, TaskError
from deploy_kit.sim.extensions import import_extensions
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID
from deploy_kit.text import did_you_mean
from deploy_kit.torch_device import require_device

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.sim.labels import LabelFunction

__all__ = ["BACKENDS", "EnvOptions", "make_env"]

BACKENDS = ("mujoco", "isaaclab")
POLICY_AND_LABEL = ("policy", "auxiliary")
"""Observation groups that a task offers for the racing policy."""
_INSTALL = 'pip install "deploy-kit[sim]"'


def make_env(
    options: EnvOptions,
    task: str = TASK_ID,
    backend: str = "mujoco",
    label: "LabelFunction | None" = None,
    groups: tuple[str, ...] = POLICY_AND_LABEL,
) -> "VecEnv":
    """Build a vector environment.

    Args:
        options: options; a task of the user's own gets them too and takes what it needs.
        task: the racing task's id; or "module:factory" with factory(options) -> rsl_rl `VecEnv`; or a Gymnasium id
            ("Name-v0", or "module:Name-v0" to import the module that registers it) whose entry point builds a `VecEnv`
            or something that unwraps to one. An entry point is given those of `options`, `num_envs`, `seed` and
            `device` that it names.
        backend: "mujoco", the embedded simulator (and tasks of the user's own that bring theirs); or "isaaclab", where
            `task` is an id that Isaac Lab knows or that a module of `options.extensions` registers.
        label: judges the label in place of the task's group `auxiliary`.
        groups: observation groups that the task must offer.

    Raises:
        OptionError: an option is out of range.
        TaskError: the task or back end is unknown, or the environment is not as the interface asks.
        MissingDependencyError: the embedded simulator's packages are not installed.
    """
    options.check()
    if backend not in BACKENDS:
        raise TaskError(f"unknown simulator back end {backend!r}{did_you_mean(backend, BACKENDS)}")
    if backend == "isaaclab":
        from deploy_kit.sim.isaaclab.host.factory import make_isaaclab_env

        env = make_isaaclab_env(options, task)
        if groups != POLICY_AND_LABEL and hasattr(env, "own_groups"):
            env.own_groups = True
        return _checked(env, task, label, groups)
    if options.launcher:
        raise OptionError(f"back end 'mujoco' has no launcher that could take {options.launcher[0]!r} (given after --)")
    _require("rsl_rl", "tensordict", "gymnasium")
    require_device(options.device)
    import_extensions(options.extensions)
    if task == TASK_ID:
        _require("mujoco")
        from deploy_kit.sim.mujoco.env import MujocoRacingEnv

        return _checked(MujocoRacingEnv(options), task, label, groups)
    return _checked(_unwrap(_builder(task, options)(), task), task, label, groups)


def _checked(env: "VecEnv", task: str, label: "LabelFunction | None", groups: tuple[str, ...]) -> "VecEnv":
    try:
        if label is not None:
            from deploy_kit.sim.labels import with_labels

            env = with_labels(env, label)
        check_observations(env, task, groups)
    except TaskError:
        if hasattr(env, "close"):
            env.close()
        raise
    return env


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"simulating needs {error.name}, which is not installed: {_INSTALL}"
            ) from error


def _builder(task: str, options: EnvOptions) -> Callable[[], Any]:
    """Return what builds a task of the user's own."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    module_name, colon, name = task.rpartition(":")
    if colon:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise TaskError(f"task {task!r}: module {error.name!r} is not found; is it on PYTHONPATH?") from error
        if callable(factory := getattr(module, name, None)):
            return partial(factory, options)
    spec = gymnasium.registry.get(name)
    if spec is None:
        where = (
            f"module {module_name!r} holds no factory and registers no Gymnasium id {name!r}" if colon else "unknown"
        )
        raise TaskError(f"task {task!r}: {where}{did_you_mean(name, _known(name))}")
    if spec.entry_point is None:
        raise TaskError(f"task {task!r} is registered without an entry point; its registration must name one")
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    offered = {"options": options, "num_envs": options.num_envs, "seed": options.seed, "device": options.device}
    accepted = inspect.signature(creator).parameters
    wanted = {name: value for name, value in offered.items() if name in accepted}
    return partial(creator, **{**wanted, **spec.kwargs})


def _known(name: str) -> list[str]:
    """Return the racing task, and the registered ids that do not come with Gymnasium itself."""
    import gymnasium

    own = [key for key, spec in gymnasium.registry.items() if not str(spec.entry_point).startswith(("gymnasium.", "<"))]
    return [TASK_ID, *own]


def _unwrap(built: object, task: str) -> "VecEnv":
    from rsl_rl.env import VecEnv

    if isinstance(built, VecEnv):
        return built
    inner = getattr(built, "unwrapped", None)
    if isinstance(inner, VecEnv):
        return inner
    raise TaskError(f"task {task!r} builds a {type(built).__name__}, not an rsl_rl VecEnv; wrap it in one")


def check_observations(env: "VecEnv", task: str, groups: tuple[str, ...] = POLICY_AND_LABEL) -> None:
    """Check that an environment offers the observation groups that the pipeline reads.

    Args:
        env: the environment.
        task: its name, for messages.
        groups: names of the groups.

    Raises:
        TaskError: a group is missing, or `policy` (N, features) or `auxiliary` (N, 1) has another shape.
    """
    observations = env.get_observations()
    shapes = {str(key): tuple(value.shape) for key, value in observations.items()}
    known = {"policy": "(num_envs, features)", "auxiliary": "(num_envs, 1)"}
    for group in groups:
        want, shape = known.get(group, "(num_envs, …)"), shapes.get(group)
        if shape is None:
            offered = ", ".join(f"{name} {size}" for name, size in shapes.items()) or "none"
            hint = "; give --label MODULE:FUNCTION, which judges it" if group == "auxiliary" else ""
            raise TaskError(
                f"task {task!r} lacks observation group {group!r} of shape {want}; it offers {offered}{hint}"
            )
        if group not in known:
            continue
        if len(shape) != 2 or shape[0] != env.num_envs or (group == "auxiliary" and shape[1] != 1):
            raise TaskError(
                f"task {task!r}: observation group {group!r} has shape {shape}, not {want} ({env.num_envs} envs)"
            )
