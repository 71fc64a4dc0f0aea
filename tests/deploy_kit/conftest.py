"""Fixtures that several rooms share: a scripted task, and a checkpoint with random weights."""

from pathlib import Path

import pytest
import torch

from helpers.checkpoints import write_racing_run
from helpers.vehicles import write_env_yaml, write_vehicle


@pytest.fixture
def checkpoint(tmp_path: Path, network) -> Path:
    """A checkpoint as rsl_rl 2.x writes it, with the run's params beside it, but no ``env.yaml``."""
    return write_racing_run(tmp_path / "run", network)


@pytest.fixture
def vehicle_params(checkpoint: Path) -> Path:
    """The run's ``env.yaml``, with the vehicle's numbers as Isaac Lab dumps them."""
    return write_env_yaml(checkpoint)


@pytest.fixture
def vehicle(tmp_path: Path) -> Path:
    """A file with the vehicle's numbers."""
    return write_vehicle(tmp_path)


@pytest.fixture(scope="module")
def one_thread():
    """Leave the simulator's cores to it: more torch threads spin there between batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
