"""Labels and interface of a task of Isaac Lab's, for any policy."""

import pytest
import torch
import yaml
from rsl_rl.models import RNNModel
from tensordict import TensorDict

pytest.importorskip("isaaclab")

from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import TaskError
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.run.interface_file import read_interface
from deploy_kit.sim.labels import find_label
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env
from helpers.rsl_rl_files import write_run

OPTIONS = EnvOptions(num_envs=3, extensions=("helpers.isaaclab.user_tasks",))


def test_a_label_is_judged_before_isaac_lab_resets():
    label = find_label("helpers.isaaclab.labels:over")
    env = make_env(OPTIONS, "Cube-Plain-v0", "isaaclab", label=label)
    try:
        env.unwrapped.episode_length_buf[:] = torch.tensor([0, 1, 2])
        found = []
        for _ in range(int(env.max_episode_length)):
            observations, _, dones, _ = env.step(torch.zeros(3, env.num_actions))
            assert observations["auxiliary"][:, 0].bool().tolist() == dones.bool().tolist()
            found.append(bool(dones.any()))
        assert any(found)
        told = read_interface(env.interface())
        (term,) = told.groups["policy"]
        assert (term.name, term.size, term.history) == ("pose", 7, 1)
        assert told.timing.policy_period_s.value == env.unwrapped.step_dt
    finally:
        env.close()


def test_a_recurrent_policy_is_collected_from_on_isaac_lab(tmp_path):
    shapes = TensorDict({"policy": torch.zeros(1, 7)}, batch_size=[1])
    settings = {"hidden_dims": [8, 8], "activation": "elu", "rnn_type": "gru", "rnn_hidden_dim": 6, "rnn_num_layers": 1}
    model = RNNModel(shapes, {"actor": ["policy"]}, "actor", 4, **settings).eval()
    agent = {"obs_groups": {"actor": ["policy"]}, "actor": {"class_name": "RNNModel", **settings}}
    path = write_run(tmp_path / "run", {"actor_state_dict": model.state_dict(), "critic_state_dict": {}}, agent)
    options = CollectOptions(
        path,
        tmp_path / "features.h5",
        OPTIONS,
        "Cube-Plain-v0",
        "isaaclab",
        "helpers.isaaclab.labels:low",
        num_positive=10,
        num_negative=10,
        heldout_episodes=3,
    )
    result = collect(options)
    assert result.complete
    network = load_policy(path).network
    with open_feature_file(result.path) as file:
        file.require_policy(network)
        rows = file.heldout()
        first = rows.label[rows.episode_id == rows.episode_id[0]]
    # The cube falls from 1 m: a label that was judged after the reset would be false in the last step.
    assert first.tolist() == sorted(first.tolist())
    assert first[-1]
    limited = {**agent, "clip_actions": 2.0}
    (path.parent / "params" / "agent.yaml").write_text(yaml.safe_dump(limited))
    with pytest.raises(TaskError, match=r"flies with clip_actions None, but .* was trained with 2\.0"):
        collect(CollectOptions(**{**vars(options), "feature_file": tmp_path / "other.h5"}))
