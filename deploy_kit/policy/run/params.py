"""The ``params/`` folder that Isaac Lab writes beside a run's checkpoints: agent.yaml and env.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.yaml_file import read_yaml

PARAMS_FOLDER = "params"
"""Name of the folder beside the checkpoints."""


@dataclass(frozen=True)
class RunParams:
    """What is known of the run that a checkpoint comes from.

    Attributes:
        directory: the ``params`` folder, None if there is none.
        agent: contents of agent.yaml, None if there is none.
        env: contents of env.yaml, None if there is none.
    """

    directory: Path | None = None
    agent: dict[str, Any] | None = None
    env: dict[str, Any] | None = None

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


def load_run_params(checkpoint: Path) -> RunParams:
    """Read ``params/agent.yaml`` and ``params/env.yaml`` beside a checkpoint, as far as they exist.

    Raises:
        CheckpointError: if a file exists and cannot be read.
    """
    directory = checkpoint.parent / PARAMS_FOLDER
    if not directory.is_dir():
        return RunParams()
    agent, env = (directory / f"{name}.yaml" for name in ("agent", "env"))
    return RunParams(
        directory,
        read_yaml(agent, CheckpointError) if agent.is_file() else None,
        read_yaml(env, CheckpointError) if env.is_file() else None,
    )
