"""What weights cannot tell: who is asked, and what happens when two say different things."""

import pytest

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from helpers.checkpoints import joint_entries, write_run
from helpers.networks import tiny_network


@pytest.fixture
def run(tmp_path):
    network = tiny_network(activation="elu")

    def write(agent):
        return write_run(tmp_path, joint_entries(network), network, agent=agent)

    return write


@pytest.mark.parametrize(
    "agent",
    [
        "policy: {activation: elu, img_res: !!python/tuple [9, 12]}",
        "policy: {activation: ELU, image_shape: [9, 12]}",
        "actor: {activation: elu, img_res: [9, 12]}\ncritic: {activation: relu}",
        "policy: {}\nactor: {activation: elu, image_shape: [9, 12]}",
    ],
)
def test_agent_yaml_tells(run, agent):
    config = load_checkpoint(run(agent)).network.config
    assert config.activation == "elu"
    assert config.layout.image_shape == (9, 12)


def test_options_tell_where_the_run_does_not(run):
    path = run("seed: 1")
    with pytest.raises(OptionError, match=r"give --activation \(.*elu.*lrelu"):
        load_checkpoint(path, image_shape=(9, 12))
    with pytest.raises(OptionError, match="give --image-shape ROWSxCOLUMNS"):
        load_checkpoint(path, activation="elu")
    assert load_checkpoint(path, activation="relu", image_shape=(9, 12)).network.config.activation == "relu"


def test_contradictions_name_both(run):
    path = run("policy: {activation: elu, img_res: [9, 12]}")
    assert load_checkpoint(path, activation="elu", image_shape=(9, 12)).network.config.activation == "elu"
    with pytest.raises(
        OptionError, match=r"--activation says relu, but params/agent.yaml \(policy.activation\) says elu"
    ):
        load_checkpoint(path, activation="relu")
    with pytest.raises(OptionError, match=r"--image-shape says \(9, 13\), but params/agent.yaml .* says \(9, 12\)"):
        load_checkpoint(path, image_shape=(9, 13))
    with pytest.raises(OptionError, match=r"policy.activation\) says elu, but .*actor.activation\) says relu"):
        load_checkpoint(run("policy: {activation: elu, img_res: [9, 12]}\nactor: {activation: relu}"))


def test_a_record_in_the_file_tells_too(tmp_path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, tiny_network(activation="elu"))
    assert load_checkpoint(path).network.config.activation == "elu"
    with pytest.raises(OptionError, match="--activation says relu, but the file says elu"):
        load_checkpoint(path, activation="relu")


@pytest.mark.parametrize(
    "activation", ["cosine", 5, "[elu]", "!!python/object/apply:f [1]", "!!python/name:torch.nn.ELU ''"]
)
def test_unknown_activations_are_refused(run, activation):
    with pytest.raises(OptionError, match="is not supported; known are crelu"):
        load_checkpoint(run(f"policy: {{activation: {activation}, img_res: [9, 12]}}"))


@pytest.mark.parametrize("shape", ["[9]", "[9, 12, 1]", "[0, 12]", "[9.5, 12]", "wide", "[true, true]"])
def test_bad_image_shapes_are_refused(run, shape):
    with pytest.raises(OptionError, match="not two positive whole numbers"):
        load_checkpoint(run(f"policy: {{activation: elu, img_res: {shape}}}"))


@pytest.mark.parametrize(
    "switch",
    ["empirical_normalization: true", "policy: {actor_obs_normalization: true}", "actor: {obs_normalization: true}"],
)
def test_a_normaliser_that_got_lost_is_noticed(run, switch):
    path = run(switch)
    with pytest.raises(CheckpointError, match=r"holds no observation normaliser, but its params/agent\.yaml"):
        load_checkpoint(path, activation="elu", image_shape=(9, 12))
