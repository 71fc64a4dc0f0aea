"""Bundles of any policy: exported, verified, and each trap caught with its diagnosis."""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from rsl_rl.models import MLPModel
from tensordict import TensorDict

from deploy_kit.bundle.policy_reader import is_policy_bundle, open_policy_bundle
from deploy_kit.bundle.reader import manifest_text, open_bundle
from deploy_kit.bundle.signature import read_signing_key, sign_bundle
from deploy_kit.errors import BundleError, CheckFailedError, CheckpointError, OptionError, TaskError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, load_policy, save_policy
from deploy_kit.verify.policy import diagnosis
from deploy_kit.verify.policy.sequences import golden_episodes, run_episodes
from deploy_kit.verify.policy.subject import pair_policy
from deploy_kit.verify.report import VerifyReport
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.plan_proof import prove_plan
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.keys import ed25519
from helpers.leapp_export import run_leapp
from helpers.rsl_rl_files import GAUSSIAN, KINDS, make_policy, shape_hints, write_run
from helpers.two_archives import rezipped


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    bundle: Path
    hints: NetworkHints

    def copy(self, folder: Path) -> "Exported":
        shutil.copytree(self.bundle, folder)
        return Exported(self.checkpoint, folder, self.hints)


def export(folder: Path, kind: str, version: int = 5, **options) -> Exported:
    made = make_policy(folder / "run", kind, version)
    hints = NetworkHints(observation_shapes=shape_hints(kind))
    source = load_policy(made.path, hints)
    assert isinstance(source, PolicyCheckpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        save_policy(folder / "head" / "model_7.pt", source, torch.nn.Linear(source.network.spec.feature_size, 1))
    checkpoint = folder / "head" / "model_7.pt"
    bundle = export_bundle(
        ExportOptions(checkpoint, folder / "bundle", use_auxiliary_head=True, hints=hints, num_golden=32, **options)
    )
    return Exported(checkpoint, bundle, hints)


def verify(subject: Exported, **options) -> VerifyReport:
    settings = VerifyOptions(
        subject.bundle,
        subject.checkpoint,
        replay=False,
        hints=subject.hints,
        seed=1,
        random_rows=64,
        **{"torchscript": False, "live": False, **options},
    )
    return verify_bundle(settings)


def failed(report: VerifyReport) -> set[str]:
    return {verdict.name for verdict in report.verdicts if verdict.status == "failed"}


def causes(report: VerifyReport) -> dict[str, str]:
    return {found.part: found.cause for found in report.diagnosis}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Exported]:
    return {kind: export(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def change_onnx(bundle: Path, change) -> None:
    model = onnx.load(bundle / "policy.onnx")
    change(model.graph)
    onnx.save(model, bundle / "policy.onnx")
    sign(bundle)


def sign(bundle: Path) -> None:
    (bundle / "manifest.json").write_text(manifest_text(bundle))


def change_golden(bundle: Path, **arrays) -> None:
    with np.load(bundle / "golden.npz") as stored:
        np.savez(bundle / "golden.npz", **{**dict(stored), **arrays})
    sign(bundle)


def constant(graph, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def test_only_a_signed_bundle_is_opened_where_a_key_is_trusted(exported, tmp_path):
    private, public = ed25519(tmp_path)
    subject = exported["mlp"].copy(tmp_path / "copy")
    unsigned = verify(subject, trust=public)
    assert failed(unsigned) == {"bundle/signature"}
    assert not unsigned.passed
    assert unsigned.verdict("onnx").status == "not run"
    (subject.bundle / "report.json").unlink()
    sign_bundle(subject.bundle, read_signing_key(private))
    signed = verify(subject, trust=public)
    assert signed.passed
    assert signed.verdict("bundle/signature").status == "passed"
    data = signed.to_json()
    data["checks"] = [check for check in data["checks"] if check["name"] != "bundle/signature"]
    assert [check.name for check in VerifyReport.from_json(data).left_out] == ["bundle/signature"]
    with pytest.raises(OptionError, match="is no public key"):
        verify(subject, trust=private)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_bundle_is_verified_through_whole_episodes(exported, kind):
    report = verify(exported[kind], torchscript=True)
    assert report.passed, [(name, report.verdict(name).reasons) for name in failed(report)]
    names = {check.name for check in report.checks}
    assert {"onnx/proof", "torchscript/proof", "safetensors/tensors", "golden/stored-outputs"} <= names
    for artifact in ("onnx", "torchscript", "safetensors"):
        for samples in ("golden", "golden-steps", "sequences", "sequences-steps", "random", "extreme"):
            assert report.verdict(f"replay/{samples}/{artifact}").status == "passed"
    states = {
        output.name for check in report.checks if check.name == "replay/sequences/onnx" for output in check.outputs
    }
    assert ("h_out" in states) == (kind in ("lstm", "gru"))
    assert ("c_out" in states) == (kind == "lstm")


@pytest.mark.parametrize(("kind", "version"), [("lstm", 3), ("mlp", 2)])
def test_files_of_older_versions_go_the_same_way(tmp_path, kind, version):
    report = verify(export(tmp_path, kind, version))
    assert report.passed, [(name, report.verdict(name).reasons) for name in failed(report)]


def test_a_fixed_batch_and_other_names_can_be_asked_for(tmp_path):
    names = {"input_names": ("obs", "h_in"), "output_names": ("a", "fall", "h_out")}
    subject = export(tmp_path, "gru", batch_size=1, **names)
    contract = open_policy_bundle(subject.bundle).contract
    assert [spec.name for spec in contract.inputs] == ["obs", "h_in"]
    assert [spec.shape for spec in contract.outputs] == [(1, 3), (1, 1), (1, 1, 10)]
    assert verify(subject).passed


def test_a_policy_without_head_has_one_output(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    bundle = export_bundle(ExportOptions(made.path, tmp_path / "bundle"))
    assert [spec.name for spec in open_policy_bundle(bundle).contract.outputs] == ["actions"]
    assert verify(Exported(made.path, bundle, NetworkHints())).passed
    with pytest.raises(CheckpointError, match="has no head: export without --use-auxiliary-head"):
        export_bundle(ExportOptions(made.path, tmp_path / "other", use_auxiliary_head=True))
    with pytest.raises(OptionError, match="--physical-actions has no effect on another policy"):
        export_bundle(ExportOptions(made.path, tmp_path / "other", physical_actions=True))
    assert is_policy_bundle(bundle)
    with pytest.raises(BundleError, match="another policy than VisionActorCritic"):
        open_bundle(bundle)


def test_torchscript_of_many_observation_groups_is_read_with_their_order(tmp_path):
    """Torch gives a list of more than two tensors a line of its own."""
    shapes = {"gyro": (3,), "gravity": (3,), "goal": (3,), "command": (2,)}
    observation = TensorDict({name: torch.zeros(1, *shape) for name, shape in shapes.items()}, batch_size=[1])
    settings = {"hidden_dims": [8], "activation": "tanh", "obs_normalization": True, "distribution_cfg": GAUSSIAN}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MLPModel(observation, {"actor": list(shapes)}, "actor", 2, **settings)
    agent = {"obs_groups": {"actor": list(shapes)}, "actor": {"class_name": "MLPModel", **settings}}
    path = write_run(tmp_path / "run", {"actor_state_dict": model.state_dict()}, agent)
    hints = NetworkHints(observation_shapes=tuple(shapes.items()))
    bundle = export_bundle(ExportOptions(path, tmp_path / "bundle", hints=hints, num_golden=32))
    subject = Exported(path, bundle, hints)
    report = verify(subject, torchscript=True)
    assert report.passed, [(name, report.verdict(name).reasons) for name in failed(report)]

    network = load_policy(path, hints).network
    right = rezipped((bundle / "policy.pt").read_bytes())
    assert not prove_plan(read_torchscript(right).graph, network.plan(), None).problems
    swapped = rezipped(
        right, lambda name, content: content.replace(b"[argument_1, argument_2,", b"[argument_2, argument_1,")
    )
    assert prove_plan(read_torchscript(swapped).graph, network.plan(), None).problems
    for value in (b"[argument_1]", b"argument_1", b"(argument_1, argument_2)"):
        unread = rezipped(
            right, lambda name, content, v=value: content.replace(b"    return ", b"    _9 = " + v + b"\n    return ")
        )
        with pytest.raises(StructureError, match="makes _9, which nothing reads"):
            read_torchscript(unread)


def test_a_weight_that_differs_in_the_last_place_is_named(exported, tmp_path):
    subject = exported["lstm"].copy(tmp_path / "bundle")

    def nudge(graph):
        tensor = constant(graph, "rnn.rnn.weight_hh_l1")
        values = numpy_helper.to_array(tensor).copy()
        values[3, 4] = np.nextafter(values[3, 4], np.float32(9))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    change_onnx(subject.bundle, nudge)
    report = verify(subject)
    assert failed(report) == {"onnx/proof"}
    assert "rnn.rnn.weight_hh_l1 differs in 1 of 400 values" in report.verdict("onnx/proof").reasons[0]
    assert "[3, 4]" in report.verdict("onnx/proof").reasons[0]


def test_a_dropped_normaliser_is_found_and_named(exported, tmp_path):
    subject = exported["gru"].copy(tmp_path / "bundle")

    def drop(graph):
        first, second = graph.node[:2]
        assert (first.op_type, second.op_type) == ("Sub", "Div")
        reader = next(node for node in graph.node if second.output[0] in node.input)
        reader.input[0] = first.input[0]
        del graph.node[:2]
        kept = [tensor for tensor in graph.initializer if not tensor.name.startswith("observation_normaliser")]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    change_onnx(subject.bundle, drop)
    report = verify(subject)
    assert {"onnx/proof", "replay/golden/onnx", "replay/random/onnx"} <= failed(report)
    assert causes(report)["onnx"] == diagnosis.NORMALISER_DROPPED


def test_swapped_actions_are_found_and_named(exported, tmp_path, monkeypatch):
    subject = exported["mlp"].copy(tmp_path / "bundle")

    def swap(graph):
        for name in ("mlp.4.weight", "mlp.4.bias"):
            tensor = constant(graph, name)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[[0, 2, 1]].copy(), tensor.name))

    change_onnx(subject.bundle, swap)
    report = verify(subject)
    assert {"onnx/proof", "replay/golden/onnx"} <= failed(report)
    assert causes(report)["onnx"] == f"{diagnosis.ORDER}: action 2 in place of action 1, action 1 in place of action 2"

    def broken(*_):
        raise ArithmeticError("no cause")

    monkeypatch.setattr(diagnosis, "golden_episodes", broken)
    assert causes(verify(subject)) == {"diagnosis": "could not be made: ArithmeticError: no cause"}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_state_that_is_not_reset_is_found_and_named(exported, tmp_path, kind):
    subject = exported[kind].copy(tmp_path / "bundle")
    opened = open_policy_bundle(subject.bundle)
    checkpoint = load_policy(subject.checkpoint, subject.hints)
    pair = pair_policy(opened, checkpoint)
    episodes, names = golden_episodes(opened.golden), pair.reference.state_outputs
    start = pair.reference.initial_state(episodes.reset.shape[1])
    faulty = run_episodes(pair.reference, episodes, names, start, reset=False)
    stacked = {role: np.stack([step[role] for step in faulty]) for role in faulty[0]}
    change_golden(
        subject.bundle,
        actions=stacked["actions"],
        features=stacked["features"],
        head_logit=stacked["head_logit"],
        head_terms=stacked["gate_terms"],
        **{f"state/{name}": stacked[name] for name in names},
    )
    report = verify(subject)
    assert failed(report) == {"golden/stored-outputs"}
    assert causes(report)["golden"] == diagnosis.NOT_RESET


def test_a_graph_that_forgets_its_state_is_found_and_named(exported, tmp_path):
    subject = exported["gru"].copy(tmp_path / "bundle")

    def forget(graph):
        gather = next(node for node in graph.node if node.op_type == "Gather")
        zeros = numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "zeros")
        graph.initializer.append(zeros)
        graph.node.insert(0, onnx.helper.make_node("Mul", ["h_in", "zeros"], ["forgotten"]))
        gather.input[0] = "forgotten"

    change_onnx(subject.bundle, forget)
    report = verify(subject)
    assert {"onnx/proof", "replay/golden/onnx", "replay/random/onnx"} <= failed(report)
    assert causes(report)["onnx"] == diagnosis.NOT_CARRIED


def test_next_states_that_are_swapped_are_refused(exported, tmp_path):
    subject = exported["lstm"].copy(tmp_path / "bundle")

    def swap(graph):
        names = {"h_out": "c_out", "c_out": "h_out"}
        for node in graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]

    change_onnx(subject.bundle, swap)
    report = verify(subject)
    assert {"onnx/proof", "replay/golden/onnx"} <= failed(report)
    assert "expected" in report.verdict("onnx/proof").reasons[0]


def test_the_parameters_of_another_run_are_found_and_named(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    bundle = export_bundle(ExportOptions(made.path, tmp_path / "bundle"))
    agent = made.path.parent / "params" / "agent.yaml"
    agent.write_text(agent.read_text().replace("activation: elu", "activation: relu"))
    report = verify(Exported(made.path, bundle, NetworkHints()))
    assert {"contract/run", "contract/network", "onnx/proof", "replay/golden/onnx"} <= failed(report)
    assert causes(report)["contract"] == diagnosis.OTHER_RUN
    problems = " ".join(report.verdict("onnx/proof").reasons)
    assert "mlp.1: no Relu reads" in problems


def test_another_checkpoint_of_the_run_is_told(exported, tmp_path):
    other = make_policy(tmp_path / "other", "mlp", seed=9)
    source = load_policy(other.path)
    save_policy(tmp_path / "head" / "model_7.pt", source, torch.nn.Linear(8, 1))
    report = verify(Exported(tmp_path / "head" / "model_7.pt", exported["mlp"].bundle, NetworkHints()))
    assert {"onnx/proof", "safetensors/tensors", "contract/provenance", "contract/checkpoint"} <= failed(report)
    assert causes(report)["onnx"].startswith(diagnosis.OTHER_WEIGHTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": []}, "inputs do not fit groups and state"),
        ({"schema_version": 99}, "schema version 99"),
        ({"surprise": 1}, "surprise"),
        ({"groups": []}, "there is no observation group"),
    ],
)
def test_a_contract_that_does_not_fit_is_a_failed_check(exported, tmp_path, change, words):
    subject = exported["gru"].copy(tmp_path / "bundle")
    path = subject.bundle / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    sign(subject.bundle)
    report = verify(subject)
    assert failed(report) == {"contract/schema"}
    assert words in report.verdict("contract/schema").reasons[0]


def test_a_wrong_artifact_is_never_published(tmp_path, monkeypatch):
    made = make_policy(tmp_path / "run", "mlp")
    from deploy_kit.export import policy_exporter

    def other_weights(plan, head, inputs, outputs, opset):
        other = load_policy(make_policy(tmp_path / "other", "mlp", seed=2).path)
        return real(other.network.plan(), head, inputs, outputs, opset)

    real = policy_exporter.plan_model
    monkeypatch.setattr(policy_exporter, "plan_model", other_weights)
    with pytest.raises(CheckFailedError, match=r"onnx/proof: .* nothing was published"):
        export_bundle(ExportOptions(made.path, tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_live_rollouts_keep_a_state_an_environment(exported, kind):
    report = verify(exported[kind], live=True, task="helpers.policy_env:make", episodes=16)
    assert report.passed, [(name, report.verdict(name).reasons) for name in failed(report)]
    for name in ("live/shadow", "live/driving"):
        (check,) = [check for check in report.checks if check.name == name]
        assert check.rows >= 16 * 17


def test_a_runner_that_keeps_its_state_over_episodes_is_seen_live(exported, monkeypatch):
    from deploy_kit.verify.policy import live

    real, calls = live.at_reset, []

    def forgets_every_second(state, reset):
        # The artifact's state is the second one of each step.
        calls.append(1)
        return state if len(calls) % 2 == 0 else real(state, reset)

    monkeypatch.setattr(live, "at_reset", forgets_every_second)
    report = verify(exported["gru"], live=True, task="helpers.policy_env:make", episodes=16)
    assert failed(report) == {"live/shadow", "live/driving"}


def test_a_task_that_does_not_fit_is_refused(exported):
    with pytest.raises(TaskError, match="takes 5 actions, the policy gives 3"):
        verify(exported["mlp"], live=True, task="helpers.policy_env:make_other", episodes=16)
    report = verify(exported["mlp"], live=True, episodes=16)
    assert not report.passed
    assert "no task of this policy is named" in report.verdict("live/shadow").reasons[0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_graph_gives_what_rsl_rls_own_export_gives(exported, tmp_path, kind):
    made = make_policy(tmp_path / "run", kind)
    ours = open_policy_bundle(exported[kind].bundle)
    theirs = rsl_rl_export(made.model, tmp_path / "rsl_rl.onnx")
    mine = onnxruntime.InferenceSession(str(ours.onnx_path))
    state = {item.input: np.zeros((item.layers, 1, item.hidden), np.float32) for item in ours.contract.state}
    flat = [group.name for group in ours.contract.groups if len(group.shape) == 1]
    names = [value.name for value in theirs.get_outputs()]
    for observation in made.observations(12, 1):
        groups = {name: observation[name].numpy() for name in made.shapes}
        joined = {"obs": np.concatenate([groups[name] for name in flat], axis=1)}
        joined |= {name: groups[name] for name in groups if name not in flat}
        expected = dict(zip(names, theirs.run(None, {**joined, **state}), strict=True))
        found = dict(
            zip([spec.name for spec in ours.contract.outputs], mine.run(None, {**groups, **state}), strict=True)
        )
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
        state = {item.input: found[item.output] for item in ours.contract.state}


def rsl_rl_export(model, path: Path) -> onnxruntime.InferenceSession:
    """Write a model as `OnPolicyRunner.export_policy_to_onnx` does."""
    twin = model.as_onnx(verbose=False).to("cpu").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            twin,
            twin.get_dummy_inputs(),
            str(path),
            export_params=True,
            opset_version=18,
            verbose=False,
            input_names=twin.input_names,
            output_names=twin.output_names,
        )
    return onnxruntime.InferenceSession(str(path))


def test_the_graph_gives_what_leapps_export_gives(exported, tmp_path):
    """Step after step: LEAPP's manager feeds a memory back itself."""
    run_leapp("rsl_rl", tmp_path, *KINDS)
    jobs, mine = [], {}
    for kind in KINDS:
        made, ours = make_policy(tmp_path / f"{kind}-again", kind), open_policy_bundle(exported[kind].bundle)
        flat = [group.name for group in ours.contract.groups if len(group.shape) == 1]
        session = onnxruntime.InferenceSession(str(ours.onnx_path))
        names = [spec.name for spec in ours.contract.outputs]
        rows = [{name: observation[name].numpy() for name in made.shapes} for observation in made.observations(6, 1)]
        state = {item.input: np.zeros((item.layers, 1, item.hidden), np.float32) for item in ours.contract.state}
        steps = []
        for row in rows:
            found = dict(zip(names, session.run(names, {**row, **state}), strict=True))
            state = {item.input: found[item.output] for item in ours.contract.state}
            steps.append(found["actions"])
        mine[kind] = np.concatenate(steps)
        joined = [{"obs": np.concatenate([row[name] for name in flat], axis=1), **row} for row in rows]
        inputs = ["obs", *(name for name in rows[0] if name not in flat)]
        np.savez(tmp_path / f"{kind}.npz", **{name: np.concatenate([row[name] for row in joined]) for name in inputs})
        jobs += [tmp_path / kind / f"{kind}.yaml", tmp_path / f"{kind}.npz", tmp_path / f"{kind}-out.npz"]
    run_leapp("run", *jobs)
    for kind in KINDS:
        with np.load(tmp_path / f"{kind}-out.npz") as theirs:
            np.testing.assert_allclose(mine[kind], theirs["actions"], rtol=1e-5, atol=1e-6)
    # It shows a memory: from the same observation the actions would be others without it.
    again = session.run(["actions"], {**rows[-1], **{name: np.zeros_like(old) for name, old in state.items()}})[0]
    assert np.abs(again - mine[kind][-1:]).max() > 1e-3


def test_inspect_says_what_files_hold(exported, capsys):
    from deploy_kit.cli.main import main

    def inspected(path: Path) -> dict:
        with pytest.raises(SystemExit) as ended:
            main(["inspect", str(path), "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    checkpoint = inspected(exported["lstm"].checkpoint)
    assert checkpoint["network"]["kind"] == "RNNModel"
    assert checkpoint["network"]["memory"][1] == {"name": "c_in", "layers": 2, "hidden": 10}
    bundle = inspected(exported["lstm"].bundle)
    assert bundle["contract"]["kind"] == "policy"
    assert bundle["golden_sequences"] == {"steps": 16, "sequences": 2, "source": "synthetic"}
    assert inspected(exported["lstm"].bundle / "policy.onnx")["contract"] == bundle["contract"]
    assert inspected(exported["lstm"].bundle / "contract.json")["contract"] == bundle["contract"]
