"""Fixtures of the simulator's tests."""

import pytest

from deploy_kit.task.racing import Task
from helpers.tracks import quiet


@pytest.fixture
def quiet_task() -> Task:
    return quiet()
