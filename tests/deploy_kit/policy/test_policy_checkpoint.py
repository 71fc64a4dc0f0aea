"""Checkpoints of any policy: rsl_rl's models of all versions give what rsl_rl gives, and refuse what does not fit."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from deploy_kit.bundle.policy_tensors import policy_inputs, policy_outputs
from deploy_kit.errors import CheckpointError, MissingParametersError, OptionError
from deploy_kit.export.plan_onnx import plan_model
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.policy.fingerprint import policy_feature_sha256
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import (
    HEAD_KEY,
    PolicyCheckpoint,
    load_policy,
    save_policy,
    save_policy_safetensors,
)
from deploy_kit.policy.protocol import reset_state
from deploy_kit.policy.vision_policy import VisionPolicy
from helpers.checkpoints import write_racing_run
from helpers.networks import small_network
from helpers.rsl_rl_files import CNN, GAUSSIAN, KINDS, make_model, make_policy, shape_hints, write_run

FILES = [("mlp", 5), ("cnn", 5), ("lstm", 5), ("gru", 5), ("mlp", 3), ("lstm", 3), ("cnn", 3), ("mlp", 2), ("gru", 2)]


def read(made, kind, **hints) -> PolicyCheckpoint:
    found = load_policy(made.path, NetworkHints(observation_shapes=shape_hints(kind), **hints))
    assert isinstance(found, PolicyCheckpoint)
    return found


@pytest.mark.parametrize(("kind", "version"), FILES)
def test_a_policy_acts_as_rsl_rls_own_model_through_episodes(tmp_path, kind, version):
    made = make_policy(tmp_path / "run", kind, version)
    network = read(made, kind).network
    assert [(group.name, group.shape) for group in network.spec.groups] == list(made.shapes.items())
    state = network.initial_state(4)
    assert network.is_recurrent == (kind in ("lstm", "gru"))
    last = list(made.model.mlp._modules.values())[-1]
    with torch.no_grad():
        for step, observation in enumerate(made.observations(6, 4)):
            if step in (2, 5):
                dones = torch.tensor([step == 2, True, False, False])
                made.model.reset(dones)
                state = reset_state(state, dones)
            given = network(observation, state)
            state = given.state
            assert torch.equal(given.action, made.model(observation))
            assert torch.equal(last(given.features), given.action)
            assert given.head_logit is None


@pytest.mark.parametrize(("kind", "version"), FILES)
def test_the_plan_gives_what_the_network_gives(tmp_path, kind, version):
    made = make_policy(tmp_path / "run", kind, version)
    network = read(made, kind).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network.head = torch.nn.Linear(network.spec.feature_size, 1)
    spec = network.spec
    model = plan_model(
        network.plan(), network.head, policy_inputs(spec, None), policy_outputs(spec, None, head=True), 18
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    state = network.initial_state(5)
    with torch.no_grad():
        for observation in made.observations(4, 5):
            feed = {group.name: observation[group.name].numpy() for group in spec.groups}
            feed |= {item.input: tensor.numpy() for item, tensor in zip(spec.state, state, strict=True)}
            given = network(observation, state)
            state = given.state
            expected = [given.action, given.head_logit, *given.state]
            for found, wanted in zip(session.run(None, feed), expected, strict=True):
                np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "activation",
    ["elu", "selu", "relu", "crelu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish", "mish", "identity"],
)
def test_every_activation_of_rsl_rl_can_be_written(tmp_path, activation):
    made = make_policy(tmp_path / "run", "mlp", activation=activation)
    network = read(made, "mlp").network
    model = plan_model(
        network.plan(), None, policy_inputs(network.spec, None), policy_outputs(network.spec, None, head=False), 18
    )
    observation = made.observations(1, 6)[0]
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"policy": observation["policy"].numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found[0], made.model(observation).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["HeteroscedasticGaussianDistribution", "BetaDistribution"])
def test_the_mean_of_other_distributions_is_what_acts(tmp_path, name):
    made = make_policy(tmp_path / "run", "mlp", distribution_cfg={"class_name": name})
    network = read(made, "mlp").network
    assert network.spec.num_actions == 3
    model = plan_model(
        network.plan(), None, policy_inputs(network.spec, None), policy_outputs(network.spec, None, head=False), 18
    )
    observation = made.observations(1, 6)[0]
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"policy": observation["policy"].numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found[0], made.model(observation).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "version"), [("mlp", 5), ("lstm", 3), ("mlp", 2)])
def test_a_head_lies_beside_what_rsl_rl_loads(tmp_path, kind, version):
    made = make_policy(tmp_path / "run", kind, version)
    source = read(made, kind)
    head = torch.nn.Linear(source.network.spec.feature_size, 1)
    save_policy(tmp_path / "with_head" / "model.pt", source, head)
    before, after = (torch.load(p, weights_only=True) for p in (made.path, tmp_path / "with_head" / "model.pt"))
    assert set(after) - set(before) == {HEAD_KEY, "deploy_kit"}
    for entry in before:
        assert str(before[entry]) == str(after[entry])
    found = read(type(made)(tmp_path / "with_head" / "model.pt", made.model, made.shapes), kind)
    assert torch.equal(found.network.head.weight, head.weight)
    assert policy_feature_sha256(found.network) == policy_feature_sha256(source.network)
    if version == 5:
        made.model.load_state_dict(after["actor_state_dict"], strict=True)


def test_safetensors_alone_rebuild_the_policy(tmp_path):
    for kind in KINDS:
        made = make_policy(tmp_path / kind, kind, 3)
        network = read(made, kind).network
        network.head = torch.nn.Linear(network.spec.feature_size, 1)
        save_policy_safetensors(tmp_path / f"{kind}.safetensors", network, 7)
        found = load_policy(tmp_path / f"{kind}.safetensors")
        assert isinstance(found, PolicyCheckpoint)
        assert found.network.spec.groups == network.spec.groups
        observation, state = made.observations(1, 3)[0], network.initial_state(3)
        for theirs, ours in zip(found.network(observation, state)[:3], network(observation, state)[:3], strict=True):
            assert torch.equal(theirs, ours)


def test_the_student_of_a_distillation_is_the_policy(tmp_path):
    model, section = make_model("mlp")
    teacher = {"mlp.0.weight": torch.zeros(2, 2)}
    entries = {"student_state_dict": model.state_dict(), "teacher_state_dict": teacher}
    agent = {"student": section, "obs_groups": {"student": ["policy"], "teacher": ["teacher"]}}
    found = load_policy(write_run(tmp_path / "five", entries, agent))
    old = {f"student.{name[4:]}": t for name, t in model.state_dict().items() if name.startswith("mlp.")}
    old |= {
        f"student_obs_normalizer.{name[15:]}": t for name, t in model.state_dict().items() if name.startswith("obs_n")
    }
    entries = {"model_state_dict": {**old, "std": torch.ones(3), "teacher.0.weight": torch.zeros(2, 2)}}
    agent = {"policy": {"class_name": "StudentTeacher", "student_hidden_dims": [16, 8], "activation": "elu"}}
    older = load_policy(write_run(tmp_path / "three", entries, agent))
    observation = {"policy": torch.ones(2, 11)}
    assert older.network.spec.feature_layer == "student.4"
    assert torch.equal(found.network(observation).action, older.network(observation).action)
    assert torch.equal(found.network(observation).action, model(observation))


def test_all_that_is_missing_is_asked_for_at_once(tmp_path):
    made = make_policy(tmp_path / "run", "cnn")
    agent = yaml.safe_load((made.path.parent / "params" / "agent.yaml").read_text())
    del agent["actor"]["activation"]
    (made.path.parent / "params" / "agent.yaml").write_text(yaml.safe_dump(agent))
    with pytest.raises(MissingParametersError) as raised:
        load_policy(made.path)
    message = str(raised.value)
    assert "--activation (" in message
    assert "give --obs-shape camera=1xROWSxCOLUMNS" in message
    assert "the observation groups proprio, command have (together with the others 12)" in message
    assert "give --obs-shape proprio=N,command=N" in message


def test_without_a_run_the_file_is_read_by_its_weights(tmp_path):
    made = make_policy(tmp_path / "run", "gru")
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "model_7.pt"
    alone.write_bytes(made.path.read_bytes())
    with pytest.raises(MissingParametersError, match=r"actor_state_dict \(mlp.\*\) do not say the activation"):
        load_policy(alone)
    network = load_policy(alone, NetworkHints(activation="elu")).network
    observation = made.observations(1, 3)[0]
    assert torch.equal(network(observation, network.initial_state(3)).action, made.model(observation))


def change_agent(made, **changes):
    path = made.path.parent / "params" / "agent.yaml"
    agent = yaml.safe_load(path.read_text())
    agent["actor"].update(changes)
    path.write_text(yaml.safe_dump(agent))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("mlp", {"hidden_dims": [16, 9]}, r"layers of \[16, 8\], but .*hidden_dims\) says \[16, 9\].*another run"),
        ("mlp", {"class_name": "RNNModel"}, "tensors of a MLPModel, but .* says RNNModel"),
        ("gru", {"rnn_type": "lstm"}, "rnn_type gru"),
        ("lstm", {"rnn_hidden_dim": 11}, "rnn_hidden_dim 10"),
        ("mlp", {"obs_normalization": False}, r"an observation normaliser \(obs_normalizer._mean\)"),
        ("mlp", {"class_name": "my_package:MyModel"}, "no class of rsl_rl's"),
        ("mlp", {"distribution_cfg": {"class_name": "Odd"}}, "distribution 'Odd'"),
        ("mlp", {"distribution_cfg": {"class_name": "BetaDistribution"}}, r"\(distribution.std_param \(3,\)\)"),
        ("cnn", {"cnn_cfg": {**CNN, "stride": 1}}, r"mlp.0.weight should have shape .*give this run's own"),
    ],
)  # fmt: skip
def test_the_parameters_of_another_run_are_refused(tmp_path, kind, changes, words):
    made = make_policy(tmp_path / "run", kind)
    change_agent(made, **changes)
    with pytest.raises(CheckpointError, match=words):
        load_policy(made.path, NetworkHints(observation_shapes=shape_hints(kind)))


@pytest.mark.parametrize("name", ["HeteroscedasticGaussianDistribution", "BetaDistribution"])
def test_a_run_that_takes_two_numbers_an_action_for_two_actions_is_refused(tmp_path, name):
    made = make_policy(tmp_path / "run", "mlp", distribution_cfg={"class_name": name})
    change_agent(made, distribution_cfg=GAUSSIAN)
    with pytest.raises(CheckpointError, match=r"no standard deviation, but .*distribution_cfg.*another run"):
        load_policy(made.path)


def test_groups_that_nobody_names_are_asked_for_with_the_rest(tmp_path):
    made = make_policy(tmp_path / "run", "cnn")
    agent = made.path.parent / "params" / "agent.yaml"
    settings = yaml.safe_load(agent.read_text())
    del settings["obs_groups"]
    agent.write_text(yaml.safe_dump(settings))
    with pytest.raises(MissingParametersError, match=r"camera=1xROWSxCOLUMNS; .*takes 12 numbers .*NAME=12"):
        load_policy(made.path)
    network = load_policy(made.path, NetworkHints(observation_shapes=shape_hints("cnn"))).network
    assert sorted(group.name for group in network.spec.groups) == sorted(made.shapes)


@pytest.mark.parametrize(("version", "entry"), [(5, "actor_state_dict"), (3, "model_state_dict")])
def test_a_bare_state_dict_is_told_with_what_to_do(tmp_path, version, entry):
    made = make_policy(tmp_path / "run", "mlp", version)
    torch.save(torch.load(made.path, weights_only=True)[entry], made.path)
    with pytest.raises(CheckpointError, match=rf'bare state dict .*torch.save\({{"{entry}": state_dict}}, FILE\)'):
        load_policy(made.path)


def test_a_dropped_normaliser_is_told(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    entries = torch.load(made.path, weights_only=True)
    for name in list(entries["actor_state_dict"]):
        if name.startswith("obs_normalizer."):
            del entries["actor_state_dict"][name]
    torch.save(entries, made.path)
    with pytest.raises(CheckpointError, match=r"holds no observation normaliser, but .*obs_normalization"):
        load_policy(made.path)


def test_names_in_messages_are_the_files(tmp_path):
    made = make_policy(tmp_path / "run", "mlp", 3)
    entries = torch.load(made.path, weights_only=True)
    entries["model_state_dict"]["gizmo.weight"] = torch.zeros(2, 3)
    torch.save(entries, made.path)
    with pytest.raises(CheckpointError, match=r"model_state_dict.gizmo.weight \(2, 3\) belong to no MLPModel"):
        load_policy(made.path)
    del entries["model_state_dict"]["gizmo.weight"]
    entries["model_state_dict"]["actor.2.bias"][1] = float("nan")
    torch.save(entries, made.path)
    with pytest.raises(CheckpointError, match=r"tensor actor.2.bias holds nan at index \(1,\)"):
        load_policy(made.path)


def test_another_feature_layer_can_be_chosen(tmp_path):
    made = make_policy(tmp_path / "run", "mlp", 3)
    source = read(made, "mlp", feature_layer="actor.2")
    assert source.network.spec.feature_size == 16
    observation = made.observations(1, 3)[0]
    features = source.network(observation).features
    assert torch.equal(features, made.model.mlp[1](made.model.mlp[0](made.model.get_latent(observation))))
    with pytest.raises(OptionError, match=r"no linear layer of that name; its layers are actor.0, actor.2, actor.4"):
        read(made, "mlp", feature_layer="actor.3")
    save_policy(tmp_path / "head" / "model.pt", source, torch.nn.Linear(16, 1))
    again = type(made)(tmp_path / "head" / "model.pt", made.model, made.shapes)
    assert read(again, "mlp").network.spec.feature_layer == "actor.2"
    with pytest.raises(OptionError, match=r"the head in .* reads what actor.2 reads"):
        read(again, "mlp", feature_layer="actor.4")


def test_the_racing_policy_stays_what_it_was(tmp_path):
    checkpoint = write_racing_run(tmp_path / "run", small_network(normalizer_eps=None))
    found = load_policy(checkpoint)
    assert isinstance(found, Checkpoint)
    assert found.sha256 == load_checkpoint(checkpoint).sha256
    policy = VisionPolicy(found.network)
    observation = torch.rand(3, found.network.config.layout.size)
    expected, given = found.network(observation), policy({"policy": observation})
    assert torch.equal(given.action, expected.action)
    assert torch.equal(given.head_logit, expected.gate_logit)
    model = plan_model(
        policy.plan(), policy.head, policy_inputs(policy.spec, None), policy_outputs(policy.spec, None, head=True), 18
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for found_values, wanted in zip(session.run(None, {"policy": observation.numpy()}), given[:2], strict=True):
        np.testing.assert_allclose(found_values, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="--obs-shape has no effect on VisionActorCritic"):
        load_policy(checkpoint, NetworkHints(observation_shapes=(("policy", (3,)),)))


def test_racing_commands_name_what_another_file_holds(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    with pytest.raises(CheckpointError, match=r"holds another network .*actor_state_dict.mlp.0.weight \(16, 11\)"):
        load_checkpoint(made.path)


def forged(path, **changes) -> None:
    """Write a safetensors file of a CNN whose record of the policy says something else."""
    with safe_open(path, "pt") as file:
        # A safetensors file has `keys` and is no mapping.
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    record = json.loads(metadata["deploy_kit"])
    record["policy"].update(changes)
    save_file(tensors, path, {**metadata, "deploy_kit": json.dumps(record)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": []}, "no usable record"),
        ({"groups": [["policy", [0]]]}, "no usable record"),
        ({"groups": "policy"}, "no usable record"),
        ({"normalizer_eps": "1"}, "no usable record"),
        (
            {"groups": [["proprio", [9]], ["camera", [1, 10**9, 10**9]], ["command", [3]]]},
            "should have shape|cannot be",
        ),
        (
            {"settings": {"activation": "elu", "cnn_cfg": {**CNN, "output_channels": [10**9, 10**9]}}},
            "should have shape|cannot be built",
        ),
        ({"settings": {"activation": "elu", "cnn_cfg": {**CNN, "stride": 0}}}, "CNNModel cannot be built"),
        ({"settings": {"activation": "elu", "cnn_cfg": {"surprise": 1}}}, "CNNModel cannot be built"),
    ],
)
def test_a_record_that_asks_for_too_much_is_refused_before_memory_is_taken(tmp_path, changes, words):
    made = make_policy(tmp_path / "run", "cnn")
    path = tmp_path / "policy.safetensors"
    save_policy_safetensors(path, read(made, "cnn").network)
    forged(path, **changes)
    with pytest.raises(CheckpointError, match=words):
        load_policy(path)


def test_reading_a_policy_leaves_random_numbers_alone(tmp_path):
    made = make_policy(tmp_path / "run", "lstm")
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    read(made, "lstm")
    assert torch.equal(torch.rand(3), expected)
