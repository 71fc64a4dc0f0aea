"""From a task's name to an Isaac Lab environment."""

import io
import logging
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import TaskError
from deploy_kit.sim.extensions import import_extensions
from deploy_kit.sim.isaaclab.launch import launch, parse_launcher, require_isaaclab
from deploy_kit.sim.isaaclab.newton import restore_newton
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.suggest import did_you_mean
from deploy_kit.sim.task import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.sim.isaaclab.env import IsaacLabEnv

logger = logging.getLogger(__name__)

CFG_KEY, AGENT_KEY = "env_cfg_entry_point", "rsl_rl_cfg_entry_point"


def register() -> None:
    """Register the racing task with Gymnasium under its name, for Isaac Lab's own scripts; once is enough."""
    import gymnasium

    if TASK_ID not in gymnasium.registry:
        gymnasium.register(
            id=TASK_ID,
            entry_point="isaaclab.envs:ManagerBasedRLEnv",
            disable_env_checker=True,
            kwargs={
                CFG_KEY: "deploy_kit.sim.isaaclab.config:racing_env_cfg",
                AGENT_KEY: "deploy_kit.sim.isaaclab.agent:racing_agent_cfg",
            },
        )


def make_isaaclab_env(options: EnvOptions, task: str) -> "IsaacLabEnv":
    """Launch Isaac Lab and build a registered task.

    Args:
        options: options. A task of the user's own takes `num_envs`, `seed` and `device` of them.
        task: Gymnasium id.

    Raises:
        MissingDependencyError: Isaac Lab is not installed.
        OptionError: a launcher argument is wrong.
        TaskError: an extension or the task is unknown, or the task cannot be built.
    """
    require_isaaclab()
    if options.device == "cuda":
        # Isaac Lab and Warp want a device with its number.
        options = replace(options, device="cuda:0")
    arguments = parse_launcher(options.launcher, options.device)
    register()
    import_extensions(options.extensions)
    cfg = _racing_cfg(options) if task == TASK_ID else _user_cfg(options, task)
    launch(cfg, arguments)
    if task == TASK_ID:
        restore_newton(cfg, options.num_envs)
    return _build(cfg, task)


def _racing_cfg(options: EnvOptions) -> Any:
    from deploy_kit.sim.isaaclab.config import racing_env_cfg

    return racing_env_cfg(options)


def _user_cfg(options: EnvOptions, task: str) -> Any:
    cfg = entry_point(task, CFG_KEY)
    cfg.scene.num_envs = options.num_envs
    cfg.sim.device = options.device
    cfg.seed = options.seed
    return cfg


def entry_point(task: str, key: str) -> Any:
    """Return a new configuration object of a registered task.

    Raises:
        TaskError: the task is not registered, or registers no such configuration.
    """
    import gymnasium
    from isaaclab.utils.string import string_to_callable

    spec = gymnasium.registry.get(task)
    if spec is None:
        known = [name for name, other in gymnasium.registry.items() if CFG_KEY in other.kwargs]
        raise TaskError(
            f"Isaac Lab knows no task {task!r}{did_you_mean(task, known)}; pass --extension MODULE that registers it"
        )
    found = spec.kwargs.get(key)
    if found is None:
        raise TaskError(f"task {task!r} registers no {key!r}; its gymnasium.register must pass it in kwargs")
    if isinstance(found, str):
        try:
            found = string_to_callable(found)
        except (ValueError, AttributeError, ImportError) as error:
            raise TaskError(f"task {task!r}: {key} {found!r} cannot be loaded: {error}") from error
    return found() if callable(found) else found


def _build(cfg: Any, task: str) -> "IsaacLabEnv":
    import gymnasium
    from isaaclab.envs import DirectMARLEnv, multi_agent_to_single_agent
    from isaaclab.sim import SimulationContext

    from deploy_kit.sim.isaaclab.env import IsaacLabEnv, IsaacLabRacingEnv

    if SimulationContext.instance() is not None:
        raise TaskError("Isaac Lab has one environment at a time; close the other one first")
    # Isaac Lab tells its configuration on standard output, which is for results.
    with redirect_stdout(_Log()):
        made = gymnasium.make(task, cfg=cfg)
        if isinstance(made.unwrapped, DirectMARLEnv):
            made = multi_agent_to_single_agent(made)
        return (IsaacLabRacingEnv if task == TASK_ID else IsaacLabEnv)(made)


class _Log(io.TextIOBase):
    """A stream whose lines go to the log."""

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            logger.debug("%s", line)
        return len(text)
