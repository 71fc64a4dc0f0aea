"""The ``params/`` folder beside a run's checkpoints: Isaac Lab's agent.yaml and env.yaml, and interface.yaml."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.yaml_file import read_yaml

PARAMS_FOLDER = "params"
"""Name of the folder beside the checkpoints."""

PARAMS_FILES = ("agent.yaml", "env.yaml", "interface.yaml")
"""What deploy-kit reads in it."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParams:
    """What is known of the run that a checkpoint comes from.

    Attributes:
        directory: the ``params`` folder, None if there is none.
        agent: contents of agent.yaml, None if there is none.
        env: contents of env.yaml, None if there is none.
        recorded_vehicle: the vehicle that deploy-kit recorded in the checkpoint itself, as read; None if there is none.
        interface: contents of interface.yaml, in which a task describes what its policies read and command; None if
            there is none.
    """

    directory: Path | None = None
    agent: dict[str, Any] | None = None
    env: dict[str, Any] | None = None
    recorded_vehicle: Any = None
    interface: dict[str, Any] | None = None

    def lookup(self, file: str, *keys: str) -> Any:
        """Return a nested value, or None where any key on the way is missing.

        Args:
            file: "agent" or "env".
            keys: mapping keys from the root down.
        """
        value: Any = self.agent if file == "agent" else self.env
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return value


def load_run_params(checkpoint: Path, folder: Path | None = None) -> RunParams:
    """Read ``agent.yaml``, ``env.yaml`` and ``interface.yaml`` of a checkpoint's run, as far as they exist.

    Args:
        checkpoint: the checkpoint file; its run's files lie in ``params/`` beside it.
        folder: where the files lie instead, or a run's folder with ``params/`` in it.

    Raises:
        CheckpointError: if a file exists and cannot be read.
        OptionError: if none of them lies in `folder`.
    """
    beside = checkpoint.parent / PARAMS_FOLDER
    directory = beside if folder is None else _named_folder(folder)
    if not directory.is_dir():
        return RunParams()
    if _contents(directory) != (_contents(beside) or _contents(directory)):
        _logger.warning("%s is used instead of %s, as --params says", directory, beside)
    agent, env, interface = (
        read_yaml(directory / name, CheckpointError) if (directory / name).is_file() else None for name in PARAMS_FILES
    )
    return RunParams(directory, agent, env, interface=interface)


def _contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in PARAMS_FILES if (directory / name).is_file()}


def _named_folder(folder: Path) -> Path:
    for directory in (folder, folder / PARAMS_FOLDER):
        if any((directory / name).is_file() for name in PARAMS_FILES):
            return directory
    agent, env, _ = PARAMS_FILES
    what = f"holds neither {agent} nor {env}" if folder.is_dir() else f"is no folder with {agent} or {env}"
    raise OptionError(f"--params {folder} {what}; give the folder that holds them")
