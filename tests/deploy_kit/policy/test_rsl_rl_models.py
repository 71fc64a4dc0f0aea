"""rsl_rl's own runner trains, saves, loads and exports the policy."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.policy.archive import read_bytes, read_torch_archive
from deploy_kit.policy.checkpoint import CheckpointFormat, load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.rsl_rl_models import VisionActor, VisionCritic
from deploy_kit.sim.registry import EnvOptions, make_env

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]

GROUPS = {"actor": ["policy"], "critic": ["critic"]}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}


def agent(**actor: Any) -> dict[str, Any]:
    models = "deploy_kit.policy.rsl_rl_models"
    return {
        "num_steps_per_env": 8,
        "save_interval": 100,
        "obs_groups": dict(GROUPS),
        "multi_gpu": None,
        "check_for_nan": True,
        "actor": {"class_name": f"{models}:VisionActor", "distribution_cfg": dict(GAUSSIAN), **actor},
        "critic": {"class_name": f"{models}:VisionCritic"},
        "algorithm": {
            "class_name": "PPO",
            "share_cnn_encoders": True,
            "num_learning_epochs": 1,
            "num_mini_batches": 2,
            "learning_rate": 1e-3,
        },
    }


@pytest.fixture
def env():
    with make_env(EnvOptions(num_envs=4, num_threads=1)) as env:
        yield env


@pytest.fixture
def observations() -> TensorDict:
    return TensorDict({"policy": torch.rand(5, 6928), "critic": torch.rand(5, 6928)}, batch_size=[5])


def actor(observations: TensorDict, **options: Any) -> VisionActor:
    return VisionActor(observations, GROUPS, "actor", 4, distribution_cfg=dict(GAUSSIAN), **options)


@pytest.mark.parametrize("normalised", [False, True])
def test_runner_trains_saves_and_exports(env, tmp_path: Path, normalised: bool) -> None:
    runner = OnPolicyRunner(env, agent(obs_normalization=normalised), log_dir=None)
    before = {name: tensor.clone() for name, tensor in runner.alg.actor.state_dict().items()}
    runner.learn(2)
    path = tmp_path / "model_2.pt"
    runner.save(str(path))

    after = runner.alg.actor.state_dict()
    for trained in ("stem.0.weight", "stem.10.weight", "state_enc.weight", "mlp.0.weight"):
        assert not torch.equal(before[trained], after[trained]), trained
    assert torch.equal(before["aux_decoder.weight"], after["aux_decoder.weight"])

    checkpoint = load_checkpoint(path, NetworkHints(activation="lrelu", image_shape=(72, 96)))
    assert checkpoint.format is CheckpointFormat.RSL_RL_SPLIT
    policy = runner.get_inference_policy("cpu")
    observed = env.get_observations()
    with torch.inference_mode():
        output = checkpoint.network(observed["policy"])
        torch.testing.assert_close(output.action, policy(observed), rtol=0, atol=1e-6)
        torch.testing.assert_close(output.gate_logit, policy.gate_logit(observed), rtol=0, atol=1e-6)

    runner.export_policy_to_onnx(str(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert [i.name for i in session.get_inputs()] == ["state", "depth"]
    assert [o.name for o in session.get_outputs()] == ["action", "gate_logit"]
    state, depth = checkpoint.network.split(observed["policy"][:1])
    action, logit = session.run(None, {"state": state.numpy(), "depth": depth.numpy()})
    np.testing.assert_allclose(action, output.action[:1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logit, output.gate_logit[:1], rtol=0, atol=1e-5)

    runner.export_policy_to_jit(str(tmp_path))
    scripted = torch.jit.load(tmp_path / "policy.pt")(*checkpoint.network.split(observed["policy"]))
    torch.testing.assert_close(scripted[0], output.action, rtol=0, atol=1e-5)
    torch.testing.assert_close(scripted[1], output.gate_logit, rtol=0, atol=1e-5)


def test_algorithm_loads_a_safely_read_file(env, tmp_path: Path) -> None:
    first = OnPolicyRunner(env, agent())
    first.save(str(tmp_path / "model_0.pt"))
    second = OnPolicyRunner(env, agent())
    entries = read_torch_archive(read_bytes(tmp_path / "model_0.pt"), tmp_path / "model_0.pt")
    second.alg.load(dict(entries), None, strict=True)
    for name, tensor in first.alg.actor.state_dict().items():
        assert torch.equal(tensor, second.alg.actor.state_dict()[name]), name
    for name, tensor in first.alg.critic.state_dict().items():
        assert torch.equal(tensor, second.alg.critic.state_dict()[name]), name


def test_stem_is_in_the_optimiser_once(env) -> None:
    algorithm = OnPolicyRunner(env, agent()).alg
    parameters = [p for group in algorithm.optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters})
    assert set(algorithm.critic.state_dict()) == {f"mlp.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}


def test_value_loss_reaches_the_shared_stem(observations: TensorDict) -> None:
    policy = actor(observations)
    critic = VisionCritic(observations, GROUPS, "critic", 1, cnns=policy.cnns)
    critic(observations).sum().backward()
    assert policy.stem[0].weight.grad.abs().sum() > 0


def test_critic_without_shared_stem_is_refused(observations: TensorDict) -> None:
    with pytest.raises(OptionError, match="share_cnn_encoders"):
        VisionCritic(observations, GROUPS, "critic", 1)


def test_critic_of_another_size_is_refused(observations: TensorDict) -> None:
    other = TensorDict({"critic": torch.rand(5, 6900)}, batch_size=[5])
    with pytest.raises(TaskError, match="6900 numbers, the actor's have 6928"):
        VisionCritic(other, GROUPS, "critic", 1, cnns=actor(observations).cnns)


def test_observation_smaller_than_the_image_is_refused(observations: TensorDict) -> None:
    with pytest.raises(TaskError, match="6928 numbers, too few for an image of 100 x 100"):
        actor(observations, image_shape=(100, 100))


def test_actor_without_gate_head_exports_one_output(observations: TensorDict) -> None:
    policy = actor(observations, gate_head=False)
    assert policy.as_onnx().output_names == ["action"]
    with pytest.raises(TaskError, match="no gate head"):
        policy.gate_logit(observations)


def test_distribution_with_its_own_deviation_is_not_exported(observations: TensorDict) -> None:
    policy = VisionActor(
        observations, GROUPS, "actor", 4, distribution_cfg={"class_name": "HeteroscedasticGaussianDistribution"}
    )
    with pytest.raises(OptionError, match="only a Gaussian"):
        policy.as_onnx()
