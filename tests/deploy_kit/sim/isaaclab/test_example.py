"""The script that trains the demo policy: stages, checkpoints, going on from one."""

import importlib.util
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from tensordict import TensorDict

pytest.importorskip("isaaclab")

from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.rsl_rl_models import VisionActor, VisionCritic
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.task.racing import STAGES

EXAMPLES = Path(__file__).parents[4] / "examples"
BATCH = 4 * 24
MARK = 60
"""Where stage 0 ends. The first iteration goes beyond it."""


def load_script():
    spec = importlib.util.spec_from_file_location("train_demo_policy", EXAMPLES / "train_demo_policy.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def train(monkeypatch, output, *arguments):
    common = ["--num-envs", "4", "--track-pool", "2", "--device", "cpu", "--save-interval", "1"]
    monkeypatch.setattr(sys, "argv", ["train_demo_policy.py", str(output), *common, *map(str, arguments)])
    load_script().main()


def test_training_goes_through_the_stages_and_on_from_a_checkpoint(monkeypatch, tmp_path):
    train(monkeypatch, tmp_path, "--steps", MARK)
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0.pt"]
    first = torch.load(tmp_path / "model_0.pt", weights_only=True)
    assert first["infos"] == {"env_steps": BATCH, "stage": 0, "gate_noise": 0.0}

    train(monkeypatch, tmp_path, "--steps", MARK, 3 * BATCH, "--resume", tmp_path / "model_0.pt")
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0.pt", "model_1.pt", "model_2.pt"]
    last = torch.load(tmp_path / "model_2.pt", weights_only=True)
    assert (last["infos"]["env_steps"], last["infos"]["stage"]) == (3 * BATCH, 1)
    # Stage 1 begins with its own noise, not with that of stage 0.
    assert 0.09 < last["infos"]["gate_noise"] <= 0.1
    # Three iterations of 5 epochs of 8 minibatches.
    assert {float(state["step"]) for state in last["optimizer_state_dict"]["state"].values()} == {120.0}
    network = load_checkpoint(tmp_path / "model_2.pt").network
    assert torch.equal(network.state_enc.weight, last["actor_state_dict"]["state_enc.weight"])
    assert not torch.equal(network.state_enc.weight, first["actor_state_dict"]["state_enc.weight"])

    last["infos"]["gate_noise"] = 0.3
    torch.save(last, tmp_path / "moved.pt")
    train(monkeypatch, tmp_path, "--steps", MARK, 4 * BATCH, "--resume", tmp_path / "moved.pt")
    moved = torch.load(tmp_path / "model_3.pt", weights_only=True)
    assert (moved["infos"]["env_steps"], moved["infos"]["stage"]) == (4 * BATCH, 1)
    assert 0.25 < moved["infos"]["gate_noise"] < 0.35

    gates = runpy.run_path(str(EXAMPLES / "plot_training.py"))["read"](tmp_path, "Metrics/race/gates_passed")
    # The curves that the documentation shows are there; nobody passes a gate within 24 steps.
    assert gates == dict.fromkeys(range(4), 0.0)


def test_training_goes_on_from_the_weights_of_a_policy_that_is_there(monkeypatch, tmp_path):
    train(monkeypatch, tmp_path, "--steps", 0, 0, BATCH, "--weights", "demo", "--init-std", 0.1, "--crash-weight", -800)
    saved = torch.load(tmp_path / "model_0.pt", weights_only=True)
    assert saved["infos"] == {"env_steps": BATCH, "stage": 2, "gate_noise": 0.5}
    before, after = load_checkpoint(DEMO_POLICY).network, load_checkpoint(tmp_path / "model_0.pt").network
    # One iteration moves each weight a little. The gate head is not trained.
    moved = [(new - old).abs().max() for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    assert 0 < max(moved) < 0.05
    assert all(change > 0 for change in moved[:-2])
    assert torch.equal(before.aux_decoder.weight, after.aux_decoder.weight)


def test_a_crash_costs_what_was_asked_for_in_stage_2_alone():
    stages = load_script().training_stages(-800.0)
    assert [stage.rewards.collision for stage in stages] == [
        STAGES[0].rewards.collision,
        STAGES[1].rewards.collision,
        -800.0,
    ]


def test_the_critic_reads_the_features_of_the_actor_once():
    script = load_script()
    observations = TensorDict({"policy": torch.rand(3, 16 + 72 * 96)}, batch_size=3)
    groups = {"actor": ["policy"], "critic": ["policy"]}
    actor = VisionActor(observations, groups, "actor", 4).eval()
    critic = VisionCritic(observations, groups, "critic", 1, cnns=actor.cnns).eval()
    alone = critic(observations)
    script.share_features(actor, critic, fast=False)
    with mock.patch.object(actor.cnns, "forward", wraps=actor.cnns.forward) as encode:
        actor(observations)
        assert torch.equal(critic(observations), alone)
        assert encode.call_count == 1
        # The weights may have changed since.
        assert torch.equal(critic(observations), alone)
        assert encode.call_count == 2
        actor(observations)
        other = observations.clone()
        other["policy"] += 1
        assert not torch.equal(critic(other), alone)


def test_the_stage_of_a_checkpoint():
    stage_of = load_script().stage_of
    assert stage_of({"env_steps": BATCH, "stage": 0}, [MARK, 1000.0]) == 0
    assert stage_of({"env_steps": 10}, [MARK, 1000.0]) == 0
    assert stage_of({"env_steps": BATCH}, [MARK, 1000.0]) == 1
    assert stage_of({"env_steps": 2000}, [MARK, 1000.0]) == 1
