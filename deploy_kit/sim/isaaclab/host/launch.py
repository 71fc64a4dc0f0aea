"""Launching Isaac Lab: once a process, since a started simulator cannot be started again."""

import argparse
import atexit
import importlib.util
import logging
from contextlib import ExitStack
from typing import Any

from deploy_kit.errors import MissingDependencyError, OptionError, TaskError

logger = logging.getLogger(__name__)

_INSTALL = 'pip install "deploy-kit[isaaclab]" (Python 3.12)'

_PHYSICS = ("physx", "isaacsim_physx", "newton_mjwarp", "newton_vbd", "ovphysx")

_session = ExitStack()
_launched_with_kit: bool | None = None
"""Whether Isaac Sim was started; None before the launch."""


def require_isaaclab() -> None:
    """Check that Isaac Lab is installed.

    Raises:
        MissingDependencyError: it is not; the message holds the install line.
    """
    for package in ("isaaclab", "isaaclab_rl", "isaaclab_newton", "rsl_rl"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"back end 'isaaclab' needs {package}, which is not installed: {_INSTALL}")


def parse_launcher(arguments: tuple[str, ...], device: str) -> argparse.Namespace:
    """Return Isaac Lab's launcher arguments.

    Args:
        arguments: as after ``--`` on the command line.
        device: what ``--device`` of ours says; the launcher's own is not to contradict it.

    Raises:
        OptionError: an argument is unknown to Isaac Lab, or names another device.
    """
    from isaaclab.app import add_launcher_args

    parser = _Parser(prog="", add_help=False, allow_abbrev=False)
    add_launcher_args(parser)
    if "--physics" not in parser._option_string_actions:
        parser.add_argument("--physics", choices=_PHYSICS)
    parsed, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise OptionError(f"Isaac Lab's launcher has no argument {unknown[0]!r} (given after --)")
    given = getattr(parsed, "device", None)
    if given is not None and any(a.startswith("--device") for a in arguments) and given != device:
        raise OptionError(f"--device is {device!r}, but the launcher's, after --, is {given!r}; give --device alone")
    parsed.device = device
    return parsed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise OptionError(f"Isaac Lab's launcher (arguments after --): {message}")


def launch(cfg: Any, arguments: argparse.Namespace) -> None:
    """Start what a configuration needs: nothing for Newton, Isaac Sim for PhysX. It stays up until the process ends.

    Raises:
        TaskError: Isaac Lab cannot launch it.
    """
    from isaaclab.app.sim_launcher import launch_simulation, scan

    global _launched_with_kit
    try:
        # This also puts the physics that the arguments name into the configuration.
        needs_kit = scan(cfg, arguments).needs_kit
        if _launched_with_kit is None:
            _session.enter_context(launch_simulation(cfg, arguments))
            _launched_with_kit = needs_kit
            atexit.register(_session.close)
    except SystemExit as error:
        raise TaskError("Isaac Lab cannot launch; its message above says what is missing") from error
    except (ImportError, RuntimeError, ValueError) as error:
        raise TaskError(f"Isaac Lab cannot launch: {' '.join(str(error).split())}") from error
    if needs_kit and not _launched_with_kit:
        raise TaskError("Isaac Lab was launched without Isaac Sim, which the task now needs: start a new process")
