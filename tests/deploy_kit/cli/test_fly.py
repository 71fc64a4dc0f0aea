"""What ``fly`` says: which file, task, seed and tracks, the figures, and the next command."""

import json

import pytest
import torch

from deploy_kit.files import file_sha256
from helpers.bundles import make_run

SCRIPTED = ("--task", "helpers.scripted_racing:make")
TOY = ("--task", "helpers.toy_env:make")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small policy's checkpoint and bundle."""
    return make_run(tmp_path_factory.mktemp("fly"))


def test_it_says_what_it_flew_and_what_to_do_next(cli, checkpoint, vehicle, tmp_path):
    record = tmp_path / "flight.json"
    result = cli("fly", checkpoint, *SCRIPTED, "--vehicle", vehicle, "--seed", 4, "--num-envs", 3, "--json", record)
    assert result.code == 0, result
    lines = result.stdout.splitlines()
    task = "Task helpers.scripted_racing:make on mujoco, seed 4, stage 2, 3 environments"
    assert lines[0] == f"{task}; tracks: not told by the environment"
    assert lines[1] == f"Flown: {checkpoint} (checkpoint, sha256 {file_sha256(checkpoint)})"
    assert lines[-2:] == [f"Wrote {record}", f"Next: deploy-kit collect --checkpoint {checkpoint}"]
    inspected = cli("inspect", record)
    assert inspected.stdout.startswith("flight ")
    assert json.loads(cli("inspect", record, "--json").stdout)["flights"][0]["episodes"] == 3


def test_it_tells_the_kinds_of_the_tracks(cli, checkpoint, one_thread):
    options = ("--num-envs", 2, "--tracks", "ellipse", "--threads", 1, "--no-obstacles")
    result = cli("fly", checkpoint, *options)
    assert result.code == 0, result
    assert "seed 0, stage 2, 2 environments; tracks: 2 ellipse" in result.stdout


def test_two_policies_are_flown_and_compared(cli, checkpoint, vehicle):
    other = checkpoint.with_name("model_9.pt")
    entries = torch.load(checkpoint, weights_only=True)
    torch.save({**entries, "iter": 9}, other)
    result = cli("fly", checkpoint, other, *SCRIPTED, "--vehicle", vehicle, "--num-envs", 4)
    assert result.code == 0, result
    for path in (checkpoint, other):
        assert f"Flown: {path} (checkpoint, sha256 {file_sha256(path)})" in result.stdout
    assert "Second policy minus first, 4 paired episodes" in result.stdout
    gates = next(line for line in result.stdout.splitlines() if "+0.000 … +0.000" in line and "gates" in line)
    assert gates.split()[-2] == "4", "all pairs are equal"
    assert "did not repeat itself" not in result.stdout


def test_a_checkpoint_and_its_bundle_are_compared(cli, run, vehicle):
    result = cli("fly", run.checkpoint, run.bundle, *TOY, "--vehicle", vehicle, "--num-envs", 4)
    assert result.code == 0, result
    onnx = run.bundle / "policy.onnx"
    assert f"Flown: {onnx} (bundle, sha256 {file_sha256(onnx)})" in result.stdout
    assert f"Next: deploy-kit verify {run.bundle} --checkpoint {run.checkpoint} --no-replay" in result.stdout


def test_a_calibrated_checkpoint_is_to_be_exported(cli, run, vehicle):
    result = cli("fly", run.checkpoint, *TOY, "--vehicle", vehicle, "--num-envs", 2)
    assert result.code == 0, result
    assert f"Next: deploy-kit export --checkpoint {run.checkpoint} --use-auxiliary-head" in result.stdout


def test_a_finetune_folder_flies_its_best_epoch(cli, checkpoint, vehicle):
    best = checkpoint.rename(checkpoint.with_name("policy_finetune_epoch-3.pt"))
    result = cli("fly", checkpoint.parent, *SCRIPTED, "--vehicle", vehicle, "--num-envs", 2)
    assert result.code == 0, result
    assert f"Flown: {best} (checkpoint" in result.stdout


@pytest.mark.parametrize("count", [3, 5])
def test_more_than_two_policies_are_refused(refused, checkpoint, count):
    refused("fly", *[checkpoint] * count, words=(f"{count} policies are named", "two to compare"))
