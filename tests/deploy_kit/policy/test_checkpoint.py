import errno
import json
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_kit.errors import CheckpointError, InputError, OptionError
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import (
    CheckpointFormat,
    GateCalibration,
    GateDetector,
    load_checkpoint,
    save_checkpoint,
    save_safetensors,
)
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.network import ACTIVATIONS, ConvSpec
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle import resolve_vehicle, vehicle_record
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import TASK_ID
from helpers.checkpoints import equal_values, joint_entries, split_entries, write_run
from helpers.networks import tiny_network

CALIBRATION = GateCalibration(
    detector=GateDetector(1.25, -0.75, 10, 5),
    rule="best F1 on validation episodes",
    base_rate=0.02,
    label_rule="within 0.35 m of the gate's centre",
    label_distance_m=0.35,
    label_offset_steps=1,
    policy_period_s=0.03,
    clip_actions=None,
    dataset_sha256="ab" * 32,
    metrics={"auroc": 0.97},
    tool_version="0.1",
    training={"epochs": 5, "lr": 3e-4, "epsilon": 0.1},
)


def same_outputs(a, b, layout):
    observation = torch.rand(3, layout.size, generator=torch.Generator().manual_seed(1)) * 4 - 2
    first, second = a(observation), b(observation)
    assert torch.equal(first.action, second.action)
    assert torch.equal(first.features, second.features)
    if first.gate_logit is None:
        assert second.gate_logit is None
    else:
        assert torch.equal(first.gate_logit, second.gate_logit)


def write(folder, network, kind):
    if kind == "safetensors":
        path = folder / "model.safetensors"
        save_safetensors(path, network, 123)
        return path
    entries = split_entries(network) if kind == "split" else joint_entries(network, 2 if kind == "joint-2" else 3)
    return write_run(folder, entries, network)


KINDS = ["joint-2", "joint-3", "split", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eps", [None, 1e-2])
@pytest.mark.parametrize("gate_head", [True, False])
def test_a_written_checkpoint_gives_the_same_outputs(tmp_path, kind, eps, gate_head):
    network = tiny_network(normalizer_eps=eps, gate_head=gate_head, activation="elu")
    loaded = load_checkpoint(write(tmp_path, network, kind))
    assert loaded.network.config == network.config
    assert loaded.iteration == (77 if kind == "split" else 123)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    same_outputs(network, loaded.network, network.config.layout)
    save_checkpoint(tmp_path / "again" / loaded.path.name, loaded, loaded.network)
    again = load_checkpoint(tmp_path / "again" / loaded.path.name)
    assert again.format == loaded.format
    assert again.iteration == loaded.iteration
    same_outputs(network, again.network, network.config.layout)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    channels=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)),
    actor=st.lists(st.integers(1, 6), max_size=3),
    critic=st.none() | st.lists(st.integers(1, 6), max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    eps=st.none() | st.just(1e-2),
    gate_head=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_widths_round_trip(kind, channels, extra, sizes, actor, critic, activation, eps, gate_head, seed):
    stem = tuple(ConvSpec(width, kernel, kernel) for width, kernel in channels)
    rows = columns = 1
    for block in reversed(stem):
        rows, columns = rows * block.kernel, columns * block.kernel
    rows, columns = rows * 2 + extra[0], columns + extra[1]
    network = tiny_network(
        seed,
        layout=ObservationLayout(sizes[0], (rows, columns)),
        stem=stem,
        feature_size=sizes[1],
        num_actions=sizes[2],
        actor_hidden=tuple(actor),
        critic_hidden=None if critic is None else tuple(critic),
        activation=activation,
        gate_head=gate_head,
        normalizer_eps=eps,
    )
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_checkpoint(write(Path(folder), network, kind))
        assert loaded.network.config == network.config
        same_outputs(network, loaded.network, network.config.layout)
        save_checkpoint(Path(folder) / "out" / loaded.path.name, loaded, loaded.network, CALIBRATION)
        again = load_checkpoint(Path(folder) / "out" / loaded.path.name)
        same_outputs(network, again.network, network.config.layout)
        assert again.calibration == CALIBRATION


@pytest.mark.parametrize("kind", ["joint-2", "joint-3", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_only_the_gate_head_changes(tmp_path, kind, dtype):
    network = tiny_network(normalizer_eps=1e-2)
    path = write(tmp_path / "run", network, kind)
    entries = torch.load(path, weights_only=True)
    section = "actor_state_dict" if kind == "split" else "model_state_dict"
    for name, tensor in entries[section].items():
        if tensor.is_floating_point():
            entries[section][name] = tensor.to(dtype) * (1 + 1e-9)
    torch.save(entries, path)
    source = load_checkpoint(path)
    tuned = load_checkpoint(path).network
    tuned.aux_decoder.weight.copy_(tuned.aux_decoder.weight * 2 + 1)
    target = tmp_path / "out" / "policy_finetune_epoch-0.pt"
    save_checkpoint(target, source, tuned, CALIBRATION)

    after = torch.load(target, weights_only=True)
    assert json.loads(after.pop("deploy_kit"))["calibration"] == CALIBRATION.to_json()
    head = after[section]["aux_decoder.weight"]
    assert head.dtype == dtype
    assert torch.equal(head.float(), tuned.aux_decoder.weight.to(dtype).float())
    assert not torch.equal(head, entries[section]["aux_decoder.weight"])
    after[section]["aux_decoder.weight"] = entries[section]["aux_decoder.weight"]
    assert equal_values(after, entries)
    for name in ("agent.yaml", "env.yaml"):
        assert (target.parent / "params" / name).read_bytes() == (path.parent / "params" / name).read_bytes()
    loaded = load_checkpoint(target)
    assert loaded.calibration == CALIBRATION
    assert feature_sha256(loaded.network) == feature_sha256(source.network)
    assert head_sha256(loaded.network) != head_sha256(source.network)


def test_safetensors_keep_everything_but_the_head(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    path = tmp_path / "a.safetensors"
    save_safetensors(path, network, 9)
    with_extra = safetensors.torch.load_file(path) | {"std": torch.full((4,), 0.25, dtype=torch.float64)}
    metadata = load_checkpoint(path).entries["metadata"]
    safetensors.torch.save_file(with_extra, path, {**metadata, "author": "someone"})
    source = load_checkpoint(path)
    tuned = deepcopy(source.network)
    tuned.aux_decoder.bias.add_(1)
    save_checkpoint(tmp_path / "b.safetensors", source, tuned, CALIBRATION)
    after = load_checkpoint(tmp_path / "b.safetensors")
    assert after.entries["metadata"]["author"] == "someone"
    assert after.calibration == CALIBRATION
    assert after.iteration == 9
    tensors = dict(after.entries["tensors"])
    assert torch.equal(tensors["aux_decoder.bias"], tuned.aux_decoder.bias)
    tensors["aux_decoder.bias"] = with_extra["aux_decoder.bias"]
    assert {k: v.tolist() for k, v in tensors.items()} == {k: v.tolist() for k, v in with_extra.items()}
    assert tensors["std"].dtype == torch.float64


def test_rsl_rl_loads_what_was_written(tmp_path):
    """The state dict is strict-loaded into the trainer's module and the optimizer continues, as `runner.load` does."""
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    tuned = deepcopy(source.network)
    tuned.aux_decoder.bias.add_(1)
    save_checkpoint(tmp_path / "tuned.pt", source, tuned, CALIBRATION)
    content = torch.load(tmp_path / "tuned.pt", weights_only=True, map_location="cpu")
    trainer = tiny_network(5).requires_grad_(True)
    trainer.std = torch.nn.Parameter(torch.ones(4))
    trainer.load_state_dict(content["model_state_dict"], strict=True)
    assert torch.equal(trainer.aux_decoder.bias, tuned.aux_decoder.bias)
    assert torch.equal(trainer.std, torch.full((4,), 0.3))
    optimizer = torch.optim.Adam(
        [
            trainer.get_parameter(name)
            for name in content["model_state_dict"]
            if name in dict(trainer.named_parameters())
        ]
    )
    optimizer.load_state_dict(content["optimizer_state_dict"])
    assert content["iter"] == 123


def test_unchanged_network_adds_no_entry(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    save_checkpoint(tmp_path / "same.pt", source, source.network)
    assert equal_values(torch.load(tmp_path / "same.pt", weights_only=True), dict(source.entries))


def test_calibration_stays_with_its_head_and_leaves_with_it(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    save_checkpoint(tmp_path / "one.pt", source, source.network, CALIBRATION)
    one = load_checkpoint(tmp_path / "one.pt")
    save_checkpoint(tmp_path / "two.pt", one, one.network)
    assert load_checkpoint(tmp_path / "two.pt").calibration == CALIBRATION
    other = deepcopy(one.network)
    other.aux_decoder.bias.add_(1)
    save_checkpoint(tmp_path / "three.pt", one, other)
    assert load_checkpoint(tmp_path / "three.pt").calibration is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_head_can_be_added(tmp_path, kind):
    source = load_checkpoint(write(tmp_path, tiny_network(gate_head=False), kind))
    grown = tiny_network(gate_head=True)
    save_checkpoint(tmp_path / "out" / source.path.name, source, grown, CALIBRATION)
    again = load_checkpoint(tmp_path / "out" / source.path.name)
    assert torch.equal(again.network.aux_decoder.weight, grown.aux_decoder.weight)


def test_another_networks_tensors_are_not_saved(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    with pytest.raises(CheckpointError, match=r"tensor state_enc\.weight has shape \(8, 6\), in .* \(8, 5\)"):
        save_checkpoint(tmp_path / "x.pt", source, tiny_network(layout=ObservationLayout(6, (9, 12))))
    with pytest.raises(CheckpointError, match=r"has no aux_decoder\.weight"):
        save_checkpoint(tmp_path / "x.pt", source, tiny_network(gate_head=False))
    with pytest.raises(CheckpointError, match=r"has no tensor normalizer\.mean: only a gate head"):
        save_checkpoint(tmp_path / "x.pt", source, tiny_network(normalizer_eps=1e-2))
    diverged = deepcopy(source.network)
    diverged.aux_decoder.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"aux_decoder\.bias is not finite.*nothing was saved"):
        save_checkpoint(tmp_path / "x.pt", source, diverged)
    assert not (tmp_path / "x.pt").exists()


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    before = file_sha256(source.path)

    write = Path.write_bytes

    def half(path, data):
        write(path, data[: len(data) // 2])
        raise failure

    monkeypatch.setattr(Path, "write_bytes", half)
    failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(source.path, source, deepcopy(source.network))
    failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        save_checkpoint(source.path, source, deepcopy(source.network))
    assert file_sha256(source.path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_123.pt", "params"]


def test_a_save_moves_a_new_file_into_place(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path, joint_entries(network), network))
    with source.path.open("rb") as reader:
        before = reader.read()
        save_checkpoint(source.path, source, source.network, CALIBRATION)
        reader.seek(0)
        assert reader.read() == before, "who has the old file open goes on reading the old file"
    assert source.path.read_bytes() != before


def test_another_runs_params_are_not_overwritten(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path / "a", joint_entries(network), network))
    (tmp_path / "b" / "params").mkdir(parents=True)
    (tmp_path / "b" / "params" / "agent.yaml").write_text("seed: 1\n")
    with pytest.raises(CheckpointError, match=r"belongs to another run"):
        save_checkpoint(tmp_path / "b" / "model.pt", source, source.network)
    assert (tmp_path / "b" / "params" / "agent.yaml").read_text() == "seed: 1\n"
    assert not (tmp_path / "b" / "model.pt").exists()


def test_unwritable_target_is_one_line(tmp_path):
    network = tiny_network()
    source = load_checkpoint(write_run(tmp_path / "a", joint_entries(network), network))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/params cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.pt", source, source.network)


def test_a_critic_with_its_own_encoders_is_left_aside(tmp_path):
    network = tiny_network()
    entries = split_entries(network)
    for name in ("stem.0.weight", "state_enc.weight", "state_enc.bias"):
        entries["critic_state_dict"][name] = entries["actor_state_dict"][name] + 1
    loaded = load_checkpoint(write_run(tmp_path, entries, network))
    assert loaded.network.config.critic_hidden is None
    same_outputs(network, loaded.network, network.config.layout)
    save_checkpoint(tmp_path / "b.pt", loaded, loaded.network)
    assert equal_values(torch.load(tmp_path / "b.pt", weights_only=True), entries | {})


@pytest.mark.parametrize(
    "generation",
    [2, 3],
)
def test_normaliser_is_applied_with_rsl_rls_epsilon(tmp_path, generation):
    network = tiny_network(normalizer_eps=1e-2)
    path = write_run(tmp_path, joint_entries(network, generation), network)
    loaded = load_checkpoint(path)
    assert loaded.network.config.normalizer_eps == 1e-2
    assert torch.equal(loaded.network.normalizer.mean, network.normalizer.mean)
    assert torch.equal(loaded.network.normalizer.std, network.normalizer.std)
    other = load_checkpoint(path, NetworkHints(normalizer_eps=1e-5))
    assert other.network.config.normalizer_eps == 1e-5
    observation = torch.rand(1, network.config.layout.size)
    assert not torch.equal(loaded.network(observation).action, other.network(observation).action)
    save_checkpoint(tmp_path / "b.pt", other, other.network, CALIBRATION)
    assert load_checkpoint(tmp_path / "b.pt").network.config.normalizer_eps == 1e-5
    for bad in (-1.0, float("nan")):
        with pytest.raises(OptionError, match="--normalizer-eps"):
            load_checkpoint(path, NetworkHints(normalizer_eps=bad))


def test_two_normalisers_are_refused(tmp_path):
    network = tiny_network(normalizer_eps=1e-2)
    entries = joint_entries(network, 3) | {"obs_norm_state_dict": joint_entries(network, 2)["obs_norm_state_dict"]}
    with pytest.raises(CheckpointError, match=r"holds normalizer\.mean twice"):
        load_checkpoint(write_run(tmp_path, entries, network))


def test_calibration_refuses_what_json_cannot_hold():
    with pytest.raises(CheckpointError, match="auroc is nan"):
        GateCalibration.from_json({**CALIBRATION.to_json(), "metrics": {"auroc": float("nan")}})
    with pytest.raises(CheckpointError, match="rule should be a str, found 3"):
        GateCalibration.from_json({**CALIBRATION.to_json(), "rule": 3})
    with pytest.raises(CheckpointError, match="should have the fields"):
        GateCalibration.from_json({"threshold_logit": 0.0})
    assert GateCalibration.from_json(json.loads(json.dumps(CALIBRATION.to_json()))) == CALIBRATION


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON text"), (5, "is not JSON text"), ('{"schema": 99}', "schema 99"), ("[1]", "schema None")],
)
def test_an_unreadable_record_is_refused(tmp_path, text, message):
    network = tiny_network()
    path = write_run(tmp_path, joint_entries(network) | {"deploy_kit": text}, network)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.reference
def test_reference_checkpoint(reference_run, tmp_path):
    loaded = load_checkpoint(reference_run / "model_7998.pt")
    assert loaded.sha256 == "3bae2bcdd7965589fe0b723d762699c39ebc77bc98cab5305207cfbea79ccfcd"
    assert loaded.format is CheckpointFormat.RSL_RL_JOINT
    assert loaded.iteration == 7998
    assert loaded.network.config.layout == ObservationLayout(16, (72, 96))
    assert loaded.network.config.activation == "lrelu"
    tuned = deepcopy(loaded.network)
    tuned.aux_decoder.bias.add_(1)
    save_checkpoint(tmp_path / "tuned.pt", loaded, tuned, CALIBRATION)
    after = torch.load(tmp_path / "tuned.pt", weights_only=True)
    before = torch.load(loaded.path, weights_only=True, map_location="cpu")
    assert torch.equal(
        after["model_state_dict"]["aux_decoder.bias"], before["model_state_dict"]["aux_decoder.bias"] + 1
    )
    after["model_state_dict"]["aux_decoder.bias"] = before["model_state_dict"]["aux_decoder.bias"]
    del after["deploy_kit"]
    assert equal_values(after, before)


@pytest.mark.parametrize("kind", ["joint-2", "joint-3", "split", "safetensors"])
def test_a_recorded_vehicle_travels_with_the_checkpoint(tmp_path, kind):
    read = load_checkpoint(write(tmp_path, tiny_network(gate_head=True), kind))
    assert read.params.recorded_vehicle is None
    known = replace(read, params=replace(read.params, recorded_vehicle=vehicle_record(TASK_ID)))
    first, second = (tmp_path / f"{name}{read.path.suffix}" for name in ("first", "second"))
    save_checkpoint(first, known, known.network)
    save_checkpoint(second, load_checkpoint(first), known.network, CALIBRATION)
    vehicle = resolve_vehicle(load_checkpoint(second).params)
    # The mass was a guess when it was recorded, and stays one.
    assert {name for name, source in vehicle.sources.items() if source != "checkpoint"} == {"mass_kg"}
    assert vehicle.sources["mass_kg"] == "assumed"
    assert replace(vehicle, sources={}) == replace(resolve_vehicle(RunParams(), TASK_ID), sources={})
    if kind != "safetensors":
        # What rsl_rl reads is as it was, beside one entry more.
        written = torch.load(second, weights_only=True)
        assert isinstance(written.pop("deploy_kit"), str)
        assert equal_values(written, torch.load(read.path, weights_only=True))
