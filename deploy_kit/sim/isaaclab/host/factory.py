"""From a task's name to an Isaac Lab environment."""

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy_kit.errors import TaskError
from deploy_kit.sim.extensions import import_extensions
from deploy_kit.sim.isaaclab.host.launch import launch, parse_launcher, require_isaaclab
from deploy_kit.sim.isaaclab.host.newton import quick_meshes, restore_newton
from deploy_kit.sim.isaaclab.host.registration import CFG_KEY, entry_point, register
from deploy_kit.sim.isaaclab.host.stdout import to_log
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.sim.isaaclab.host.env import IsaacLabEnv


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
    from deploy_kit.sim.isaaclab.racing.config import racing_env_cfg

    return racing_env_cfg(options)


def _user_cfg(options: EnvOptions, task: str) -> Any:
    cfg = entry_point(task, CFG_KEY)
    if not (hasattr(cfg, "scene") and hasattr(cfg, "sim")):
        raise TaskError(
            f"task {task!r}: {CFG_KEY} gives a {type(cfg).__name__}; it must be the class of Isaac Lab's configuration "
            "(such as ManagerBasedRLEnvCfg), or a function that returns one"
        )
    cfg.scene.num_envs = options.num_envs
    cfg.sim.device = options.device
    cfg.seed = options.seed
    return cfg


def _build(cfg: Any, task: str) -> "IsaacLabEnv":
    import gymnasium
    from isaaclab.envs import DirectMARLEnv, multi_agent_to_single_agent
    from isaaclab.sim import SimulationContext

    from deploy_kit.sim.isaaclab.host.env import IsaacLabRacingEnv
    from deploy_kit.sim.isaaclab.host.registered_agent import registered_agent
    from deploy_kit.sim.isaaclab.host.user_env import IsaacLabUserEnv

    if SimulationContext.instance() is not None:
        raise TaskError("Isaac Lab has one environment at a time; close the other one first")
    agent = registered_agent(task)
    with to_log(), quick_meshes() if task == TASK_ID else nullcontext():
        made = gymnasium.make(task, cfg=cfg)
        if isinstance(made.unwrapped, DirectMARLEnv):
            made = multi_agent_to_single_agent(made)
        return (IsaacLabRacingEnv if task == TASK_ID else IsaacLabUserEnv)(made, agent)
