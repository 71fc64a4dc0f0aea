"""What weights cannot tell: who is asked, and what happens when two say different things."""

import shutil

import pytest

from deploy_kit.errors import CheckpointError, MissingParametersError, OptionError
from deploy_kit.policy.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.vehicle_checkpoint import load_with_vehicle
from deploy_kit.task.racing import TASK_ID
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
        load_checkpoint(path, NetworkHints(image_shape=(9, 12)))
    with pytest.raises(OptionError, match="give --image-shape ROWSxCOLUMNS"):
        load_checkpoint(path, NetworkHints(activation="elu"))
    hints = NetworkHints(activation="relu", image_shape=(9, 12))
    assert load_checkpoint(path, hints).network.config.activation == "relu"


def test_contradictions_name_both(run):
    path = run("policy: {activation: elu, img_res: [9, 12]}")
    hints = NetworkHints(activation="elu", image_shape=(9, 12))
    assert load_checkpoint(path, hints).network.config.activation == "elu"
    with pytest.raises(
        OptionError, match=r"--activation says relu, but params/agent.yaml \(policy.activation\) says elu"
    ):
        load_checkpoint(path, NetworkHints(activation="relu"))
    with pytest.raises(OptionError, match=r"--image-shape says \(9, 13\), but params/agent.yaml .* says \(9, 12\)"):
        load_checkpoint(path, NetworkHints(image_shape=(9, 13)))
    with pytest.raises(OptionError, match=r"policy.activation\) says elu, but .*actor.activation\) says relu"):
        load_checkpoint(run("policy: {activation: elu, img_res: [9, 12]}\nactor: {activation: relu}"))


def test_a_record_in_the_file_tells_too(tmp_path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, tiny_network(activation="elu"))
    assert load_checkpoint(path).network.config.activation == "elu"
    with pytest.raises(OptionError, match="--activation says relu, but the file says elu"):
        load_checkpoint(path, NetworkHints(activation="relu"))


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
        load_checkpoint(path, NetworkHints(activation="elu", image_shape=(9, 12)))


def test_all_that_is_missing_is_named_at_once(run):
    path = run("seed: 1")
    with pytest.raises(MissingParametersError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "does not say its activation and image shape" in message
    assert "give --activation (" in message
    assert "and --image-shape ROWSxCOLUMNS" in message
    assert message.endswith("give --params FOLDER")
    with pytest.raises(MissingParametersError) as caught:
        load_with_vehicle(path, NetworkHints(activation="elu"), None, None)
    assert [part.split(":")[0] for part in caught.value.missing] == [
        f"{path} does not say its image shape and there is no params/agent.yaml beside it that does",
        "the vehicle's max_thrust_to_weight, max_body_rate, gravity, policy_period_s, depth_period_s, "
        "action_latency_steps are unknown",
    ]
    with pytest.raises(MissingParametersError) as caught:
        load_with_vehicle(path, NetworkHints(activation="elu"), TASK_ID, None)
    assert len(caught.value.missing) == 1
    hints = NetworkHints(activation="elu", image_shape=(9, 12))
    checkpoint, vehicle = load_with_vehicle(path, hints, TASK_ID, None)
    assert (checkpoint.path, vehicle.policy_period_s) == (path, 0.03)


@pytest.mark.parametrize("nested", [False, True])
def test_a_params_folder_that_lies_elsewhere(run, tmp_path, caplog, nested):
    path = run("policy: {activation: elu, img_res: [9, 12]}")
    elsewhere = tmp_path / "elsewhere"
    (path.parent / "params").rename(elsewhere)
    with pytest.raises(MissingParametersError):
        load_checkpoint(path)
    if nested:
        elsewhere.rename(tmp_path / "params")
        (tmp_path / "old").mkdir()
        (tmp_path / "params").rename(tmp_path / "old" / "params")
        given, found = tmp_path / "old", tmp_path / "old" / "params"
    else:
        given = found = elsewhere
    checkpoint = load_checkpoint(path, NetworkHints(params=given))
    assert (checkpoint.network.config.activation, checkpoint.params.directory) == ("elu", found)
    save_checkpoint(tmp_path / "out" / "m.pt", checkpoint, checkpoint.network)
    assert load_checkpoint(tmp_path / "out" / "m.pt").network.config.activation == "elu"
    assert not caplog.records


def test_a_params_folder_that_replaces_another_is_told(run, tmp_path, caplog):
    path = run("policy: {activation: elu, img_res: [9, 12]}")
    other = tmp_path / "other"
    shutil.copytree(path.parent / "params", other)
    load_checkpoint(path, NetworkHints(params=other))
    assert not caplog.records
    (other / "agent.yaml").write_text((other / "agent.yaml").read_text().replace("elu", "relu"))
    assert load_checkpoint(path, NetworkHints(params=other)).network.config.activation == "relu"
    assert [record.message for record in caplog.records] == [
        f"{other} is used instead of {path.parent / 'params'}, as --params says"
    ]


def test_a_params_folder_that_holds_nothing_is_refused(run, tmp_path):
    path = run("seed: 1")
    with pytest.raises(OptionError, match=r"--params .* is no folder with agent.yaml or env.yaml"):
        load_checkpoint(path, NetworkHints(params=tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"--params .* holds neither agent.yaml nor env.yaml; give the folder"):
        load_checkpoint(path, NetworkHints(params=tmp_path / "empty"))
