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


@pytest.fixture
def vehicle_params(checkpoint: Path) -> Path:
    """The run's ``env.yaml``, with the vehicle's numbers as Isaac Lab dumps them."""
    path = checkpoint.parent / "params" / "env.yaml"
    path.write_text(
        "sim: {dt: 0.01, gravity: [0.0, 0.0, -9.81]}\ndecimation: 3\nscene: {camera: {update_period: 0.04}}\n"
        "actions: {ctbr: {max_thrust_weight_ratio: 3.0, action_lag: 1, controller_cfg: {body_rate_bound: [-6, 6]}}}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def one_thread():
    """Leave the simulator's cores to it: more torch threads spin there between batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
