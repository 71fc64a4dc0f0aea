"""The script that trains the demo policy: stages, checkpoints, going on from one."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("isaaclab")

from deploy_kit.policy.checkpoint import load_checkpoint

SCRIPT = Path(__file__).parents[4] / "examples" / "train_demo_policy.py"
BATCH = 4 * 24


def train(monkeypatch, output, *arguments):
    spec = importlib.util.spec_from_file_location("train_demo_policy", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    common = ["--num-envs", "4", "--track-pool", "2", "--device", "cpu", "--save-interval", "1"]
    monkeypatch.setattr(sys, "argv", ["train_demo_policy.py", str(output), *common, *arguments])
    script.main()


def test_training_goes_through_the_stages_and_on_from_a_checkpoint(monkeypatch, tmp_path):
    train(monkeypatch, tmp_path, "--steps", str(BATCH))
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0.pt"]
    first = torch.load(tmp_path / "model_0.pt", weights_only=True)
    assert first["infos"] == {"env_steps": BATCH, "gate_noise": 0.0}

    train(monkeypatch, tmp_path, "--steps", str(BATCH), str(3 * BATCH), "--resume", str(tmp_path / "model_0.pt"))
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0.pt", "model_1.pt", "model_2.pt"]
    last = torch.load(tmp_path / "model_2.pt", weights_only=True)
    assert last["infos"]["env_steps"] == 3 * BATCH
    assert 0.09 < last["infos"]["gate_noise"] <= 0.1
    # Three iterations of 5 epochs of 8 minibatches.
    assert {float(state["step"]) for state in last["optimizer_state_dict"]["state"].values()} == {120.0}
    network = load_checkpoint(tmp_path / "model_2.pt").network
    assert torch.equal(network.state_enc.weight, last["actor_state_dict"]["state_enc.weight"])
    assert not torch.equal(network.state_enc.weight, first["actor_state_dict"]["state_enc.weight"])
