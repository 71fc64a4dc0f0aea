"""Checkpoints of random policies; no test here needs a simulator or a trained policy."""

from pathlib import Path

import pytest

from deploy_kit.policy.checkpoint import save_safetensors
from helpers.checkpoints import CALIBRATION
from helpers.exports import share_operators
from helpers.networks import small_network


@pytest.fixture(autouse=True, scope="session")
def _operators() -> None:
    share_operators()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint with gate head, normaliser and calibration."""
    path = tmp_path / "run" / "policy_5.safetensors"
    save_safetensors(path, small_network(), 5, CALIBRATION)
    return path
