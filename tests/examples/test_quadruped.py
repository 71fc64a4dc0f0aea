"""The quadruped's policy goes through the whole chain: collect, finetune, export, verify, run on board by terms."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper

from deploy_kit.bundle.reader import manifest_text
from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.errors import CheckpointError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.finetuning.run import FinetuneOptions, finetune
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.onboard import OnboardFault, OnboardOptions, TermPolicy
from deploy_kit.sim.options import EnvOptions
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

pytestmark = pytest.mark.usefixtures("pictures")

FOLDER = Path(__file__).parents[2] / "examples" / "quadruped"
POLICY = FOLDER / "policy" / "model.pt"


@pytest.fixture(scope="module")
def quadruped():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("quadruped")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def collected(quadruped, tmp_path_factory):
    options = CollectOptions(
        checkpoint=POLICY,
        feature_file=tmp_path_factory.mktemp("quadruped") / "features.h5",
        env=EnvOptions(num_envs=32, seed=2),
        task="quadruped:make",
        label="quadruped:going_down",
        num_positive=120,
        num_negative=120,
        heldout_episodes=32,
        keep_observations=16,
    )
    return options, collect(options)


@pytest.fixture(scope="module")
def trained(collected, tmp_path_factory):
    _, result = collected
    options = FinetuneOptions(result.path, POLICY, tmp_path_factory.mktemp("head") / "out", pgd_steps=0, new_head=True)
    return finetune(options)


@pytest.fixture(scope="module")
def bundle(collected, trained, tmp_path_factory):
    return export_bundle(
        ExportOptions(
            trained.checkpoint,
            tmp_path_factory.mktemp("bundle") / "bundle",
            use_auxiliary_head=True,
            feature_file=collected[1].path,
            num_golden=16,
        )
    )


def judged(bundle: Path, checkpoint: Path, features: Path, **live):
    settings = {"live": False, "torchscript": False, "random_rows": 32, **live}
    report = verify_bundle(VerifyOptions(bundle, checkpoint, feature_file=features, **settings))
    return report, {verdict.name: verdict for verdict in report.verdicts if verdict.status == "failed"}


def test_the_head_foresees_falls(collected, trained):
    assert collected[1].complete
    assert trained.before["auroc"] == 0.5
    assert trained.after["auroc"] > 0.98
    assert trained.after["event_hit_rate"] > 0.5


def test_the_bundle_is_verified_and_runs_by_its_terms(quadruped, collected, trained, bundle, tmp_path, capsys):
    live = {"live": True, "torchscript": True, "task": "quadruped:make", "episodes": 16}
    report, failed = judged(bundle, trained.checkpoint, collected[1].path, **live)
    assert (failed, report.passed, report.complete) == ({}, True, True)
    contract = json.loads((bundle / "contract.json").read_text())
    assert contract["head"]["training"]["label"]["function"] == "quadruped:going_down"
    assert contract["task"]["actions"]["names"] == list(quadruped.JOINTS)
    on_board = importlib.import_module("run_on_board")
    on_board.main([str(bundle), "--steps", "120", "--log", str(tmp_path / "run.dklog")])
    assert "120 steps" in capsys.readouterr().out
    with open_flight_log(tmp_path / "run.dklog") as log:
        assert len(log.flown) == 120


def test_the_runner_flies_what_the_task_would(quadruped, bundle):
    """The runner makes the task's own observation of the terms, whatever the order of the robot's joints."""
    on_board = importlib.import_module("run_on_board")
    policy = TermPolicy(bundle, OnboardOptions(joint_order=on_board.ROBOT_JOINTS))
    env = quadruped.QuadrupedEnv(num_envs=1, seed=3)
    order = [quadruped.JOINTS.index(name) for name in on_board.ROBOT_JOINTS]
    try:
        for _ in range(20):
            sensors = env.sensors()
            output = policy.step({**sensors, **{name: sensors[name][order] for name in ("joint_pos", "joint_vel")}})
            seen = env.get_observations()["policy"][0].numpy()
            np.testing.assert_allclose(policy._graph.groups["policy"], seen, atol=1e-6)
            expected = quadruped.DEFAULT + quadruped.ACTION_SCALE * np.clip(output.action, -4.0, 4.0)
            np.testing.assert_allclose(output.command, expected[order])
            env.step(torch.from_numpy(output.action)[None])
    finally:
        env.close()


def swap_joints(task):
    names = task["actions"]["names"]
    names[0], names[2] = names[2], names[0]


def swap_terms(task):
    terms = task["groups"][0]["terms"]
    terms[0]["name"], terms[1]["name"] = terms[1]["name"], terms[0]["name"]


@pytest.mark.parametrize(
    ("change", "problem", "cause"),
    [
        (
            swap_joints,
            "task.actions.names[0] is front_right_hip, expected front_left_hip",
            "the joints of the actions stand in another order than in the run: first at place 0, front_right_hip in "
            "place of front_left_hip",
        ),
        (
            swap_terms,
            "task.groups[0].terms[0].name is projected_gravity, expected base_ang_vel",
            "the terms of policy stand in another order than in the run: first at place 0, projected_gravity in place "
            "of base_ang_vel",
        ),
        (
            lambda task: task["groups"][0]["terms"][3]["components"].reverse(),
            "terms[3].components[0] is rear_right_knee, expected front_left_hip",
            "the joints of policy.joint_pos stand in another order than in the run: first at place 0, rear_right_knee "
            "in place of front_left_hip",
        ),
        (
            lambda task: task["actions"].update(scale=[0.25] * 8),
            "task.actions.scale[0] is 0.25, expected 0.3",
            "observations or actions are described otherwise than the run's files do",
        ),
    ],
)
def test_a_contract_that_says_otherwise_is_caught(collected, trained, bundle, tmp_path, change, problem, cause):
    """Trap: joints or terms in another order in contract and graph alike, with a manifest that fits."""
    forged = tmp_path / "bundle"
    shutil.copytree(bundle, forged)
    contract = json.loads((forged / "contract.json").read_text())
    change(contract["task"])
    text = json.dumps(contract, indent=2, ensure_ascii=False)
    (forged / "contract.json").write_text(text)
    model = onnx.load(forged / "policy.onnx")
    onnx.helper.set_model_props(model, {"deploy_kit_contract": text})
    onnx.save(model, forged / "policy.onnx")
    (forged / "manifest.json").write_text(manifest_text(forged))
    report, failed = judged(forged, trained.checkpoint, collected[1].path)
    assert problem in " ".join(failed["contract/task"].reasons)
    assert [found.cause for found in report.diagnosis if found.part == "contract"] == [cause]


def test_a_graph_whose_joints_are_swapped_is_caught_and_they_are_named(collected, trained, bundle, tmp_path):
    forged = tmp_path / "bundle"
    shutil.copytree(bundle, forged)
    model = onnx.load(forged / "policy.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("mlp.4.weight", "mlp.4.bias"):
            values = numpy_helper.to_array(tensor).copy()
            values[[0, 2]] = values[[2, 0]]
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, forged / "policy.onnx")
    (forged / "manifest.json").write_text(manifest_text(forged))
    report, failed = judged(forged, trained.checkpoint, collected[1].path)
    assert "onnx/proof" in failed
    assert [found.cause for found in report.diagnosis if found.part == "onnx"] == [
        "actions come in another order: front_right_hip in place of front_left_hip, front_left_hip in place of "
        "front_right_hip"
    ]


def test_a_run_with_joints_in_another_order_is_not_flown(collected, tmp_path):
    shutil.copytree(POLICY.parent, tmp_path / "policy")
    path = tmp_path / "policy" / "params" / "interface.yaml"
    told = yaml.safe_load(path.read_text())
    joints = told["actions"]["joints"]
    joints[0], joints[1] = joints[1], joints[0]
    path.write_text(yaml.safe_dump(told))
    options = CollectOptions(tmp_path / "policy" / "model.pt", tmp_path / "f.h5", EnvOptions(4), "quadruped:make")
    with pytest.raises(CheckpointError, match=r"the joints stand in another order than in params/interface\.yaml"):
        collect(CollectOptions(**{**vars(options), "label": "quadruped:going_down"}))


def test_a_robot_that_does_not_name_its_joints_is_refused(bundle):
    with pytest.raises(OnboardFault, match="give your robot's as"):
        TermPolicy(bundle)


def test_a_policy_is_trained_by_the_script(quadruped, tmp_path, capsys):
    quadruped.main([str(tmp_path), "--iterations", "2", "--num-envs", "8"])
    assert (tmp_path / "model_1.pt").is_file()
    for name in ("agent", "interface"):
        theirs, ours = (folder / "params" / f"{name}.yaml" for folder in (tmp_path, POLICY.parent))
        assert theirs.read_text() == ours.read_text()
