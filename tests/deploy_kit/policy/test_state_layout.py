"""What the weights tell, and what is said when they do not fit."""

import pytest
import torch

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from helpers.checkpoints import joint_entries, split_entries, write_run
from helpers.networks import tiny_network


def loaded_with(folder, change, network=None, kind="joint"):
    network = network or tiny_network()
    entries = split_entries(network) if kind == "split" else joint_entries(network)
    change(entries)
    return load_checkpoint(write_run(folder, entries, network))


def model(change):
    return lambda entries: change(entries["model_state_dict"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("stem.1.running_var"), r"tensor stem\.1\.running_var of shape \(4,\) is missing"),
        (lambda m: m.pop("state_enc.weight"), r"tensor state_enc\.weight is missing"),
        (lambda m: m.pop("actor.0.weight"), r"tensor actor\.0\.weight is missing"),
        (lambda m: m.pop("stem.0.weight"), r"tensor stem\.0\.weight is missing"),
        (lambda m: m.pop("aux_decoder.bias"), r"tensor aux_decoder\.bias of shape \(1,\) is missing"),
        (lambda m: m.update({"rnn.weight": torch.ones(2)}), r"tensor rnn\.weight of shape \(2,\) is not part"),
        (lambda m: m.update({"stem.0.bias": torch.ones(4)}), r"tensor stem\.0\.bias of shape \(4,\) is not part"),
        (
            lambda m: m.update({"aux_decoder.weight": torch.ones(1, 191)}),
            r"aux_decoder\.weight should have shape \(1, 8\), found \(1, 191\)",
        ),
        (
            lambda m: m.update({"actor.2.weight": torch.ones(6, 9)}),
            r"actor\.2\.weight should have shape \(6, 7\), found \(6, 9\)",
        ),
        (lambda m: m.update({"state_enc.weight": torch.ones(8)}), r"state_enc\.weight should have 2 dimensions"),
        (lambda m: m.update({"stem.0.weight": torch.ones(4, 1, 3, 2)}), r"3 x 2 kernel; only square"),
        (lambda m: m["actor.2.bias"].__setitem__(3, float("nan")), r"tensor actor\.2\.bias holds nan at index \(3,\)"),
        (
            lambda m: m["actor.0.weight"].__setitem__((1, 2), float("inf")),
            r"actor\.0\.weight holds inf at index \(1, 2\)",
        ),
        (lambda m: m["stem.1.running_var"].__setitem__(0, -1.0), r"stem\.1\.running_var holds -1\.0 at index \(0,\)"),
        (lambda m: m.update({"actor.0.weight": 3}), r"model_state_dict\['actor\.0\.weight'\] is a int, not a tensor"),
        (lambda m: m.update({"bad\nname": torch.ones(1)}), r"bad\\nname"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        loaded_with(tmp_path, model(change))
    assert "\n" not in str(caught.value)


def test_another_network_is_named(tmp_path):
    mlp = {"actor.0.weight": torch.ones(256, 48), "actor.0.bias": torch.ones(256)}
    with pytest.raises(CheckpointError, match=r"another network \(model_state_dict\.actor\.0\.weight \(256, 48\)"):
        loaded_with(tmp_path, lambda e: e.update(model_state_dict=mlp))
    with pytest.raises(CheckpointError, match=r"model_state_dict is a list"):
        loaded_with(tmp_path, lambda e: e.update(model_state_dict=[]))
    with pytest.raises(CheckpointError, match=r"no tensors"):
        loaded_with(tmp_path, lambda e: e.update(model_state_dict={}))


def test_the_unexpected_in_a_critic_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"critic_state_dict\.rnn\.weight"):
        loaded_with(tmp_path, lambda e: e["critic_state_dict"].update({"rnn.weight": torch.ones(1)}), kind="split")


@pytest.mark.parametrize("shape", [(18, 12), (2, 2), (9, 30)])
def test_an_image_shape_that_does_not_fit_the_weights(tmp_path, shape):
    network = tiny_network()
    path = write_run(tmp_path, joint_entries(network), network, agent="policy: {activation: lrelu}\n")
    with pytest.raises(OptionError, match=rf"image shape {shape[0]} x {shape[1]} does not fit.*--image-shape"):
        load_checkpoint(path, NetworkHints(image_shape=shape))


def test_a_normaliser_of_another_size_is_named(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    with pytest.raises(CheckpointError, match=r"normalizer\.mean should have shape \(1, 113\), found \(1, 112\)"):
        loaded_with(
            tmp_path,
            model(lambda m: m.update({"actor_obs_normalizer._mean": torch.zeros(1, 112)})),
            network,
        )


def test_half_a_normaliser_is_refused(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    with pytest.raises(CheckpointError, match=r"normalizer\.std of shape \(1, 113\) is missing"):
        loaded_with(tmp_path, model(lambda m: m.pop("actor_obs_normalizer._std")), network)


def test_a_log_scale_noise_is_accepted(tmp_path):
    def rename(tensors):
        tensors["log_std"] = tensors.pop("std")

    assert loaded_with(tmp_path, model(rename)).network.config.num_actions == 4
