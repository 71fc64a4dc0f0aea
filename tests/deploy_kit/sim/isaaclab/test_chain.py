"""The whole chain on Isaac Lab with four environments: collect, finetune, export, verify."""

import json

import h5py
import pytest
from click.testing import CliRunner

pytest.importorskip("isaaclab")

from deploy_kit.cli.main import main
from deploy_kit.task.racing import TASK_ID
from helpers.isaaclab import user_tasks

pytestmark = pytest.mark.slow

NEWTON = ("--", "--physics", "newton_mjwarp")
VEHICLE = """
max_thrust_to_weight: 3.0
max_body_rate: 6.0
gravity: 9.81
policy_period_s: 0.02
depth_period_s: 0.02
action_latency_steps: 0
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stdout + result.stderr
    return result.stdout


def chain(folder, policy, simulator, network=(), vehicle=(), launcher=()):
    """Collect, finetune, export and verify with four environments; return the feature file."""
    rows, tuned, bundle = folder / "features.h5", folder / "finetune", folder / "bundle"
    simulator = ("--backend", "isaaclab", *simulator)
    run(
        *("collect", "--checkpoint", policy, *network, *simulator, "--num-envs", 4, "--dataset", rows),
        *("--num-positive", 12, "--num-negative", 12, "--heldout-episodes", 4, "--keep-observations", 16, *launcher),
    )
    run("finetune", "--policy-path", policy, *network, "--h5-path", rows, "--save-path", tuned, "--epochs", 1)
    (checkpoint,) = tuned.glob("policy_finetune_epoch-1.*")
    run(
        *("export", "--checkpoint", checkpoint, *vehicle, "--use-auxiliary-head", "--samples", rows),
        *("--output", bundle),
    )
    # Few episodes, and policies that need not fly.
    profile = folder / "profile.json"
    limits = {"min_episodes": 4, "min_gates": 0.0}
    profile.write_text(json.dumps({"profile_version": 1, "profile": "few", "limits": limits}))
    live = ("--episodes", 4, "--live-mode", "shadow", "--profile", profile)
    said = run("verify", bundle, "--checkpoint", checkpoint, *vehicle, "--h5", rows, *simulator, *live, *launcher)
    assert "VERIFIED" in said
    verdicts = json.loads((bundle / "report.json").read_text())["verdicts"]
    assert {verdict["name"]: verdict["status"] for verdict in verdicts}["live/shadow"] == "passed"
    with h5py.File(rows) as file:
        assert file["supervision"][:].sum() == 12
        assert file["features"].shape == (24, 192)
        assert file.attrs["backend"] == "isaaclab"
    return rows


def test_the_racing_task(shipped_policy, tmp_path):
    simulator = ("--tracks", "circular", "--no-obstacles")
    rows = chain(tmp_path, shipped_policy, simulator, vehicle=("--task", TASK_ID), launcher=NEWTON)
    with h5py.File(rows) as file:
        assert not set(file["track_id"][:]) & set(file["heldout/track_id"][:])


def test_a_task_of_the_users(cube_checkpoint, tmp_path):
    (tmp_path / "vehicle.yaml").write_text(VEHICLE)
    chain(
        tmp_path,
        cube_checkpoint,
        ("--task", "Cube-Seeing-v0", "--extension", user_tasks.__name__),
        ("--activation", "lrelu", "--image-shape", "18x36"),
        ("--vehicle", tmp_path / "vehicle.yaml"),
    )
