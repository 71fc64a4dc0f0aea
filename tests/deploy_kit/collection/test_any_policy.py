"""Collecting with any policy of rsl_rl, and training a new head on what it sees."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import CheckpointError, DatasetError, OptionError, TaskError
from deploy_kit.finetuning.inputs import load_source
from deploy_kit.finetuning.run import FinetuneOptions, finetune
from deploy_kit.policy.any_policy import head_vector, with_new_head
from deploy_kit.policy.checkpoint import load_checkpoint, save_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import HEAD_KEY, load_policy
from deploy_kit.sim.options import EnvOptions
from helpers import group_env
from helpers.checkpoints import write_racing_run
from helpers.networks import make_network
from helpers.rsl_rl_files import make_policy, shape_hints

pytestmark = pytest.mark.usefixtures("pictures")

LABEL = "helpers.group_env:high"


def collect_options(folder: Path, checkpoint: Path, kind: str, **changes) -> CollectOptions:
    settings = {
        "checkpoint": checkpoint,
        "feature_file": folder / "features.h5",
        "env": EnvOptions(num_envs=6, seed=3),
        "task": f"helpers.group_env:{kind}",
        "label": LABEL,
        "num_positive": 60,
        "num_negative": 60,
        "heldout_episodes": 24,
        "keep_observations": 16,
        "hints": NetworkHints(observation_shapes=shape_hints(kind)),
    }
    return CollectOptions(**{**settings, **changes})


def features_of_episodes(network, shown, ended, env):
    """Return the features of an environment's episodes, each flown alone from a fresh state."""
    episodes, state, current = [], network.initial_state(1), []
    for groups, done in zip(shown, ended, strict=True):
        with torch.no_grad():
            given = network({name: torch.from_numpy(value[env : env + 1]) for name, value in groups.items()}, state)
        current.append(given.features[0].numpy())
        state = given.state
        if done[env]:
            episodes.append(np.stack(current))
            state, current = network.initial_state(1), []
    return episodes


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm", "gru"])
def test_features_are_those_of_each_episode_flown_alone(tmp_path, kind):
    made = make_policy(tmp_path / "run", kind)
    group_env.MADE.clear()
    options = collect_options(tmp_path, made.path, kind)
    result = collect(options)
    assert (result.num_positive, result.num_negative, result.has_head) == (60, 60, False)
    network = load_policy(made.path, options.hints).network
    heldout = group_env.MADE[0]
    with open_feature_file(result.path) as file:
        assert file.attrs.label_function == LABEL
        source = Path(importlib.util.find_spec("helpers.group_env").origin).read_bytes()
        assert file.attrs.label_sha256 == hashlib.sha256(source).hexdigest()
        assert file.attrs.label_sha256 in file.attrs.label_rule
        assert (file.attrs.policy_period_s, file.feature_size) == (0.02, network.spec.feature_size)
        assert network.spec.feature_layer in file.attrs.feature_layer
        rows = file.heldout()
        file.require_policy(network)
        kept = file.observations
        size = sum(int(np.prod(shape)) for shape in made.shapes.values())
        assert kept.observation.shape[1] == size
        features, episode_id, env_id = rows.features[:], rows.episode_id, rows.env_id
    assert len(np.unique(episode_id)) == 24
    compared = 0
    for env in range(6):
        alone = features_of_episodes(network, heldout.shown, heldout.ended, env)
        numbers = dict.fromkeys(episode_id[env_id == env].tolist())
        for episode, number in zip(alone, numbers, strict=False):
            np.testing.assert_allclose(features[episode_id == number], episode, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == 24


def test_labels_belong_to_the_step_that_followed(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    group_env.MADE.clear()
    result = collect(collect_options(tmp_path, made.path, "mlp"))
    env = group_env.MADE[0]
    with open_feature_file(result.path) as file:
        rows = file.heldout()
    first = rows.episode_id == rows.episode_id[rows.env_id == 0][0]
    after = [groups["policy"][0, 0] > 1.5 for groups in env.shown[1 : first.sum()]]
    assert rows.label[first][:-1].tolist() == after


def test_rows_of_another_label_are_not_mixed(tmp_path, monkeypatch):
    made = make_policy(tmp_path / "run", "mlp")
    for name, function in (("one", "high"), ("two", "low")):
        (tmp_path / f"labels_{name}.py").write_text(
            f"def {function}(env):\n    return env.values['policy'][:, 0] {'>' if name == 'one' else '<'} 1.5\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    first = collect_options(tmp_path, made.path, "mlp", label="labels_one:high", max_steps=3)
    path = collect(first).path
    other = collect_options(
        tmp_path, made.path, "mlp", label="labels_two:low", feature_file=tmp_path / "other.h5", env=EnvOptions(6, 8)
    )
    second = collect(other).path
    options = FinetuneOptions((path, second), made.path, tmp_path / "out", new_head=True)
    with pytest.raises(DatasetError, match=r"labels mean .*labels_two:low .*labels_one:high .*use files of one rule"):
        finetune(options)


def test_a_collection_goes_on_with_the_same_label_alone(tmp_path, monkeypatch):
    made = make_policy(tmp_path / "run", "mlp")
    labels = tmp_path / "own_label.py"
    labels.write_text("def high(env):\n    return env.values['policy'][:, 0] > 1.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def interrupt(progress):
        if progress.phase == "training rows":
            raise KeyboardInterrupt

    options = collect_options(tmp_path, made.path, "mlp", label="own_label:high", num_positive=10_000)
    assert collect(options, interrupt).stopped_by == "interrupt"
    labels.write_text(labels.read_text() + "\n\nOTHER = 1\n")
    with pytest.raises(DatasetError, match=r"was collected with label_rule own_label:high"):
        collect(collect_options(tmp_path, made.path, "mlp", label="own_label:high", num_positive=10_000, resume=True))


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_new_head_is_trained_beside_what_rsl_rl_loads(tmp_path, kind):
    wide = {"rnn_hidden_dim": 64, "rnn_num_layers": 1} if kind == "lstm" else {}
    made = make_policy(tmp_path / "run", kind, hidden_dims=[64, 64], **wide)
    sizes = {"num_positive": 500, "num_negative": 500, "heldout_episodes": 96}
    rows = collect(collect_options(tmp_path, made.path, kind, **sizes)).path
    options = FinetuneOptions(rows, made.path, tmp_path / "head", pgd_steps=0, new_head=True, epochs=20, lr=0.03)
    result = finetune(options)
    assert result.gate_head_before == "new: all zeros"
    assert result.before["auroc"] == 0.5
    assert result.after["auroc"] > 0.65
    before, after = (torch.load(path, weights_only=True) for path in (made.path, result.checkpoint))
    added = {name: after.pop(name) for name in (HEAD_KEY, "deploy_kit")}
    assert added[HEAD_KEY]["weight"].any()
    assert before.keys() == after.keys()
    for name, tensor in before["actor_state_dict"].items():
        assert torch.equal(tensor, after["actor_state_dict"][name])
    # rsl_rl's own class takes the file back, strictly.
    made.model.load_state_dict(after["actor_state_dict"], strict=True)
    trained = load_policy(result.checkpoint)
    assert trained.calibration.training["label"]["function"] == LABEL
    assert load_source(FinetuneOptions(rows, result.checkpoint)).calibration == trained.calibration


def test_a_racing_policy_without_a_head_gets_one(tmp_path):
    run = write_racing_run(tmp_path / "run", make_network(gate_head=False))
    source = load_checkpoint(run)
    grown = with_new_head(source)
    assert not head_vector(grown.network).any()
    assert feature_sha256(grown.network) == feature_sha256(source.network)
    save_checkpoint(tmp_path / "new" / "model.pt", source, grown.network)
    assert load_checkpoint(tmp_path / "new" / "model.pt").network.aux_decoder is not None


def test_a_head_is_neither_made_twice_nor_missing(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    missing = FinetuneOptions(tmp_path / "no.h5", made.path)
    with pytest.raises(CheckpointError, match=r"has no head yet; give it one with finetune --new-head"):
        load_source(missing)
    racing = write_racing_run(tmp_path / "racing", make_network())
    with pytest.raises(CheckpointError, match="has a head already"):
        load_source(FinetuneOptions(tmp_path / "no.h5", racing, new_head=True))


def test_a_task_that_does_not_fit_is_refused(tmp_path):
    made = make_policy(tmp_path / "run", "cnn")
    with pytest.raises(TaskError, match=r"reads observation group 'proprio' of shape \(9,\) .*proprio \(3,\)"):
        collect(collect_options(tmp_path, made.path, "cnn", task="helpers.group_env:swapped"))
    with pytest.raises(OptionError, match=r"--video shows a depth image"):
        collect(collect_options(tmp_path, made.path, "cnn", video=True))


def test_a_task_that_describes_itself_otherwise_is_refused(tmp_path, monkeypatch):
    made = make_policy(tmp_path / "run", "mlp")
    text = "actions: {joints: [a, b, c], scale: 1.0, offset: 0.0}\n"
    (made.path.parent / "params" / "interface.yaml").write_text(text)
    monkeypatch.setattr(
        group_env.GroupEnv, "interface", lambda self: {"actions": {"joints": ["a", "c", "b"]}}, raising=False
    )
    with pytest.raises(CheckpointError, match=r"the joints stand in another order .*first at place 1, c against b"):
        collect(collect_options(tmp_path, made.path, "mlp"))
