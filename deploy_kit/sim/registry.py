"""From a task's name to a vector environment."""

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import MissingDependencyError, TaskError
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.suggest import did_you_mean
from deploy_kit.sim.task import TASK_ID

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

__all__ = ["BACKENDS", "EnvOptions", "make_env"]

BACKENDS = ("mujoco", "isaaclab")
_INSTALL = 'pip install "deploy-kit[sim]"'


def make_env(options: EnvOptions, task: str = TASK_ID, backend: str = "mujoco") -> "VecEnv":
    """Build a vector environment.

    Args:
        options: options; a task of the user's own gets them too and takes what it needs.
        task: the racing task's id, a Gymnasium id ("Name-v0", or "module:Name-v0" to import the module that registers
            it) whose entry point builds an rsl_rl `VecEnv` or something that unwraps to one, or "module:factory" with
            factory(options) -> `VecEnv`.
        backend: simulator of the racing task.

    Raises:
        OptionError: an option is out of range.
        TaskError: the task or back end is unknown, or the environment is not as the interface asks.
        MissingDependencyError: the embedded simulator's packages are not installed.
    """
    options.check()
    if backend not in BACKENDS:
        raise TaskError(f"unknown simulator back end {backend!r}{did_you_mean(backend, BACKENDS)}")
    if backend == "isaaclab":
        raise TaskError("back end 'isaaclab' is not available in this version; use 'mujoco'")
    try:
        import gymnasium  # noqa: F401
        import mujoco  # noqa: F401
        import rsl_rl.env  # noqa: F401
        import tensordict  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"simulating needs {error.name}, which is not installed: {_INSTALL}") from error
    if task == TASK_ID:
        from deploy_kit.sim.mujoco.env import MujocoRacingEnv

        return MujocoRacingEnv(options)
    env = _build(task, _find(task), options)
    check_observations(env, task)
    return env


def _find(task: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return what builds a task of the user's own, and its fixed keyword arguments."""
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
            return factory, {}
    spec = gymnasium.registry.get(name)
    if spec is None:
        where = (
            f"module {module_name!r} holds no factory and registers no Gymnasium id {name!r}" if colon else "unknown"
        )
        raise TaskError(f"task {task!r}: {where}{did_you_mean(name, _known(name))}")
    if spec.entry_point is None:
        raise TaskError(f"task {task!r} is registered without an entry point; its registration must name one")
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    return creator, dict(spec.kwargs)


def _known(name: str) -> list[str]:
    """Return the racing task, and the registered ids that do not come with Gymnasium itself."""
    import gymnasium

    own = [key for key, spec in gymnasium.registry.items() if not str(spec.entry_point).startswith(("gymnasium.", "<"))]
    return [TASK_ID, *own]


def _build(task: str, found: tuple[Callable[..., Any], dict[str, Any]], options: EnvOptions) -> "VecEnv":
    from rsl_rl.env import VecEnv

    creator, fixed = found
    accepted = inspect.signature(creator).parameters
    if not fixed and len(accepted) == 1:
        built = creator(options)
    else:
        offered = {
            "options": options,
            "num_envs": options.num_envs,
            "seed": options.seed,
            "device": options.device,
        }
        built = creator(**{**{key: value for key, value in offered.items() if key in accepted}, **fixed})
    if isinstance(built, VecEnv):
        return built
    inner = getattr(built, "unwrapped", None)
    if isinstance(inner, VecEnv):
        return inner
    raise TaskError(f"task {task!r} builds a {type(built).__name__}, not an rsl_rl VecEnv; wrap it in one")


def check_observations(env: "VecEnv", task: str) -> None:
    """Check that an environment offers the observation groups that the pipeline reads.

    Raises:
        TaskError: group `policy` (N, features) or `auxiliary` (N, 1) is missing or has another shape.
    """
    observations = env.get_observations()
    shapes = {str(key): tuple(value.shape) for key, value in observations.items()}
    wanted = {"policy": "(num_envs, features)", "auxiliary": "(num_envs, 1)"}
    for group, want in wanted.items():
        shape = shapes.get(group)
        if shape is None:
            offered = ", ".join(f"{name} {size}" for name, size in shapes.items()) or "none"
            raise TaskError(f"task {task!r} lacks observation group {group!r} of shape {want}; it offers {offered}")
        if len(shape) != 2 or shape[0] != env.num_envs or (group == "auxiliary" and shape[1] != 1):
            raise TaskError(
                f"task {task!r}: observation group {group!r} has shape {shape}, not {want} ({env.num_envs} envs)"
            )
