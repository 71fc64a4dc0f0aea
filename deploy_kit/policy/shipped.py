"""The policy that comes with deploy-kit, and the name that stands for it wherever a checkpoint is asked for."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit.errors import CheckpointError
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.policy.checkpoint import Checkpoint

DEMO_NAME = "demo"
"""Means the shipped policy, whatever lies in the working folder: a file or folder of this name is ./demo."""

DEMO_POLICY = Path(__file__).resolve().parents[1] / "assets" / "demo" / "policy.safetensors"


_logger = logging.getLogger(__name__)


def resolve_name(name: str) -> Path:
    """Return the shipped policy's file where that is its name, else the path as it is.

    Args:
        name: what the user gave for a checkpoint, as it was written.

    Raises:
        CheckpointError: the shipped policy is not installed.
    """
    if name != DEMO_NAME:
        return Path(name)
    if Path(name).exists():
        _logger.warning("demo is the policy that comes with deploy-kit; what lies here under that name is ./demo")
    if not DEMO_POLICY.is_file():
        raise CheckpointError(
            f"deploy-kit's own policy is missing from this installation ({DEMO_POLICY}): install deploy-kit again, "
            "or give a checkpoint of yours"
        )
    return DEMO_POLICY


def with_known_vehicle(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return a checkpoint with the vehicle that it was trained for, if it is the shipped policy; any other as it is.

    What is saved from it carries the vehicle, so that its export needs no ``--task``.
    """
    from deploy_kit.policy.run.vehicle import vehicle_record  # numpy; the name alone is known without it

    shipped = DEMO_POLICY.is_file() and checkpoint.path.samefile(DEMO_POLICY)
    if not shipped or checkpoint.params.recorded_vehicle is not None:
        return checkpoint
    return replace(checkpoint, params=replace(checkpoint.params, recorded_vehicle=vehicle_record(TASK_ID)))
