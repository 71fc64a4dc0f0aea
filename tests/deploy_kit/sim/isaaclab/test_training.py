"""Isaac Lab's own way: the registered task, its agent configuration, rsl_rl's runner."""

import importlib.metadata

import numpy as np
import onnxruntime
import pytest
import torch

pytest.importorskip("isaaclab")

from isaaclab.utils.io import dump_yaml
from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg
from rsl_rl.runners import OnPolicyRunner

from deploy_kit.errors import OptionError
from deploy_kit.flight.rollout import require_checkpoint
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.sim.isaaclab.host.registration import AGENT_KEY, CFG_KEY, entry_point, register
from deploy_kit.task.racing import STAGES, TASK_ID
from helpers.isaaclab.states import CALM


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_registered_configuration_follows_training_stage(monkeypatch, stage):
    register()
    monkeypatch.setenv("TRAINING_STAGE", str(stage))
    cfg = entry_point(TASK_ID, CFG_KEY)
    assert cfg.episode_length_s == pytest.approx(STAGES[stage].episode_length_s)
    assert {name: term.weight for name, term in cfg.rewards.items()} == vars(STAGES[stage].rewards)
    assert cfg.commands.race.settings.options.stage == stage
    assert (cfg.decimation, cfg.sim.dt) == (3, 0.01)


def test_unknown_training_stage_is_refused(monkeypatch):
    register()
    monkeypatch.setenv("TRAINING_STAGE", "3")
    with pytest.raises(OptionError, match="TRAINING_STAGE is '3'; the task has the stages 0 to 2"):
        entry_point(TASK_ID, CFG_KEY)


def test_runner_trains_on_the_task_with_its_agent_configuration(build, tmp_path):
    env = build(CALM)
    agent = handle_deprecated_rsl_rl_cfg(entry_point(TASK_ID, AGENT_KEY), importlib.metadata.version("rsl-rl-lib"))
    agent.num_steps_per_env, agent.algorithm.num_mini_batches, agent.algorithm.num_learning_epochs = 4, 2, 1
    runner = OnPolicyRunner(env, agent.to_dict(), log_dir=None, device="cpu")
    runner.learn(1)
    runner.save(str(tmp_path / "model_1.pt"))
    runner.export_policy_to_onnx(str(tmp_path))
    checkpoint = load_checkpoint(tmp_path / "model_1.pt", NetworkHints(activation="lrelu", image_shape=(72, 96)))
    env.agent.require_policy(env, checkpoint)
    network = checkpoint.network
    observation = env.get_observations()["policy"][:1]
    with torch.inference_mode():
        expected = network(observation)
    state, depth = network.split(observation)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    action, logit = session.run(["action", "gate_logit"], {"state": state.numpy(), "depth": depth.numpy()})
    np.testing.assert_allclose(action, expected.action, rtol=0, atol=1e-5)
    np.testing.assert_allclose(logit, expected.gate_logit, rtol=0, atol=1e-5)


def test_a_policy_of_another_agent_flies_the_racing_task_as_its_file_says(build, tmp_path):
    env = build(CALM)
    agent = handle_deprecated_rsl_rl_cfg(entry_point(TASK_ID, AGENT_KEY), importlib.metadata.version("rsl-rl-lib"))
    agent.actor.activation = agent.critic.activation = "elu"
    agent.actor.obs_normalization, agent.clip_actions = True, 2.0
    runner = OnPolicyRunner(env, agent.to_dict(), log_dir=None, device="cpu")
    runner.save(str(tmp_path / "model_0.pt"))
    dump_yaml(str(tmp_path / "params" / "agent.yaml"), agent)
    checkpoint = load_checkpoint(tmp_path / "model_0.pt", NetworkHints(image_shape=(72, 96)))
    require_checkpoint(env, checkpoint, TASK_ID)
    observations = env.get_observations()
    with torch.inference_mode():
        expected = runner.get_inference_policy(device="cpu")(observations)
        torch.testing.assert_close(checkpoint.network(observations["policy"]).action, expected, rtol=0, atol=1e-5)
