"""Gymnasium's registry: the racing task in it, and the configurations that a task registers."""

import importlib
from pathlib import Path
from typing import Any

from deploy_kit.errors import TaskError
from deploy_kit.task.racing import TASK_ID
from deploy_kit.text import did_you_mean
from deploy_kit.yaml_file import read_yaml

CFG_KEY, AGENT_KEY = "env_cfg_entry_point", "rsl_rl_cfg_entry_point"


DEPLOYMENT_ID = f"{TASK_ID.removesuffix('-v0')}-Deploy-v0"
"""The racing task as ``isaaclab leapp deploy`` takes it."""


def register() -> None:
    """Register the racing task with Gymnasium under its names, for Isaac Lab's own scripts; once is enough."""
    import gymnasium

    racing, agent = "deploy_kit.sim.isaaclab.racing", "deploy_kit.sim.isaaclab.racing.agent:racing_agent_cfg"
    for task, cfg in ((TASK_ID, "config:racing_env_cfg"), (DEPLOYMENT_ID, "deployment:deployment_env_cfg")):
        if task not in gymnasium.registry:
            gymnasium.register(
                id=task,
                entry_point="isaaclab.envs:ManagerBasedRLEnv",
                disable_env_checker=True,
                kwargs={CFG_KEY: f"{racing}.{cfg}", AGENT_KEY: agent},
            )


def entry_point(task: str, key: str) -> Any:
    """Return a configuration of a registered task: a new object, or the contents of a YAML file.

    Raises:
        TaskError: the task is not registered, registers no such configuration, or it cannot be loaded.
    """
    found = _kwargs(task).get(key)
    if found is None:
        raise TaskError(f"task {task!r} registers no {key!r}; its gymnasium.register must pass it in kwargs")
    if isinstance(found, str):
        try:
            found = _load(found)
        except (ValueError, AttributeError, ImportError) as error:
            raise TaskError(f"task {task!r}: {key} {found!r} cannot be loaded: {error}") from error
    return found() if callable(found) else found


def registers_agent(task: str) -> bool:
    """Return whether a task registers an agent configuration for rsl_rl.

    Raises:
        TaskError: the task is not registered.
    """
    return _kwargs(task).get(AGENT_KEY) is not None


def _kwargs(task: str) -> dict[str, Any]:
    import gymnasium

    spec = gymnasium.registry.get(task)
    if spec is None:
        known = [name for name, other in gymnasium.registry.items() if CFG_KEY in other.kwargs]
        raise TaskError(
            f"Isaac Lab knows no task {task!r}{did_you_mean(task, known)}; pass --extension MODULE that registers it"
        )
    return spec.kwargs


def _load(name: str) -> Any:
    """Return what "module:attribute", "module:file.yaml" (a file beside the module) or a YAML file's path names."""
    module, colon, rest = name.rpartition(":")
    if not name.endswith((".yaml", ".yml")):
        return getattr(importlib.import_module(module), rest)
    origin = importlib.import_module(module).__file__ if colon else None
    return read_yaml(Path(rest) if origin is None else Path(origin).parent / rest, TaskError)
