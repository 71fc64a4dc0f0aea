"""Fixtures that several rooms share: a scripted task, and a checkpoint with random weights."""

import sys
from pathlib import Path

import pytest
import torch

TASKS = Path(__file__).parent / "tasks"


@pytest.fixture
def scripted(monkeypatch):
    """The scripted task's module; its name as a task is ``scripted_racing:make``."""
    monkeypatch.syspath_prepend(str(TASKS))
    import scripted_racing

    yield scripted_racing
    sys.modules.pop("scripted_racing", None)


@pytest.fixture
def checkpoint(tmp_path: Path, network) -> Path:
    """A checkpoint as rsl_rl 2.x writes it, with the run's params beside it."""
    run = tmp_path / "run"
    (run / "params").mkdir(parents=True)
    (run / "params" / "agent.yaml").write_text(
        "policy:\n  activation: lrelu\n  img_res: !!python/tuple\n  - 72\n  - 96\n", encoding="utf-8"
    )
    state = {**network.state_dict(), "std": torch.ones(4)}
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "iter": 7, "infos": None}, run / "model_7.pt")
    return run / "model_7.pt"
