import hashlib
import json
from copy import deepcopy

import pytest

from deploy_kit.errors import CheckpointError
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.summary import describe_checkpoint
from helpers.checkpoints import joint_entries, split_entries, write_run
from helpers.networks import tiny_network

FEATURE_TENSORS = ("stem.", "state_enc.", "normalizer.")


def test_each_tensor_counts_where_it_should():
    network = tiny_network(normalizer_eps=1e-2)
    features, head = feature_sha256(network), head_sha256(network)
    for name, tensor in network.state_dict().items():
        before = tensor.clone()
        tensor.view(-1)[-1] += 1
        is_feature = name.startswith(FEATURE_TENSORS) and not name.endswith("num_batches_tracked")
        assert (feature_sha256(network) != features) == is_feature, name
        assert (head_sha256(network) != head) == name.startswith("aux_decoder."), name
        tensor.copy_(before)
    assert feature_sha256(network) == features


def test_settings_that_change_features_count():
    hashes = {
        feature_sha256(tiny_network(normalizer_eps=eps, activation=activation))
        for eps in (1e-2, 1e-3)
        for activation in ("lrelu", "relu")
    }
    assert len(hashes) == 4
    assert feature_sha256(tiny_network(gate_head=False)) == feature_sha256(tiny_network())


def test_no_head_no_hash():
    with pytest.raises(CheckpointError, match="no gate head"):
        head_sha256(tiny_network(gate_head=False))


def test_hashes_survive_every_format(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    paths = [
        write_run(tmp_path / "a", joint_entries(network, 2), network),
        write_run(tmp_path / "b", split_entries(network), network),
        tmp_path / "c.safetensors",
    ]
    save_safetensors(paths[2], network)
    for path in paths:
        assert feature_sha256(load_checkpoint(path).network) == feature_sha256(network)
        assert head_sha256(load_checkpoint(path).network) == head_sha256(network)


def test_the_hash_is_stable(tmp_path):
    """A change of this value invalidates every feature file that was collected before."""
    network = tiny_network()
    for tensor in network.state_dict().values():
        tensor.fill_(1)
    assert feature_sha256(network) == "a48946ccae3639d560e750ca9c92f4ce68abe239107adc4d56b6ad3eefad7218"
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_describe(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    loaded = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    described = describe_checkpoint(loaded)
    assert json.loads(json.dumps(described)) == described
    assert described["format"] == "rsl_rl-joint"
    assert described["iteration"] == 123
    assert described["network"]["image_shape"] == [9, 12]
    assert described["network"]["actor_hidden"] == [7, 6]
    assert described["network"]["parameters"] == sum(p.numel() for p in network.parameters())
    critic = (8 * 5 + 5) + (5 + 1)
    assert described["network"]["parameters_to_fly"] == described["network"]["parameters"] - critic
    assert described["normalizer_eps"] == 1e-2
    assert described["run"] == {
        "params": str(tmp_path / "params"),
        "agent_yaml": True,
        "env_yaml": True,
        "experiment_name": "tiny",
    }


def test_describe_says_whether_the_head_was_trained(tmp_path):
    network = tiny_network()
    entries = joint_entries(network)

    def state(changed, name):
        return describe_checkpoint(load_checkpoint(write_run(tmp_path / name, changed, network)))["gate_head"]

    assert state(entries, "untrained") == "untrained"
    moments = entries["optimizer_state_dict"]["state"]
    trained = deepcopy(entries)
    head = entries["model_state_dict"]["aux_decoder.weight"]
    trained["optimizer_state_dict"]["state"][len(moments)] = {"exp_avg": head, "exp_avg_sq": head}
    assert state(trained, "trained") == "trained"
    shifted = deepcopy(entries)
    shifted["optimizer_state_dict"]["state"] = {index + 1: value for index, value in moments.items()}
    assert state(shifted, "shifted") == "unknown"
    assert state({"model_state_dict": entries["model_state_dict"]}, "bare") == "unknown"
    assert state(split_entries(network), "split") == "unknown"
    elsewhere = deepcopy(entries)
    elsewhere["model_state_dict"]["aux_decoder.weight"][0, 0] = 1.01 * head.shape[1] ** -0.5
    assert state(elsewhere, "elsewhere") == "trained elsewhere"
    assert state({"model_state_dict": elsewhere["model_state_dict"]}, "elsewhere-bare") == "trained elsewhere"
    elsewhere["model_state_dict"]["aux_decoder.weight"][0, 0] = 0.99 * head.shape[1] ** -0.5
    assert state(elsewhere, "inside") == "untrained"
    headless = tiny_network(gate_head=False)
    path = write_run(tmp_path / "headless", joint_entries(headless), headless)
    described = describe_checkpoint(load_checkpoint(path))
    assert (described["gate_head"], described["gate_head_training"]) == ("absent", "absent")


@pytest.mark.reference
def test_the_reference_head_is_untrained(reference_run):
    described = describe_checkpoint(load_checkpoint(reference_run / "model_7998.pt"))
    assert described["gate_head"] == "untrained"
    assert described["network"]["parameters_to_fly"] == 304_309
