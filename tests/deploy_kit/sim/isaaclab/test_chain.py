"""The whole chain on Isaac Lab with four environments: collect, finetune, export, verify."""

import json

import h5py
import pytest
from click.testing import CliRunner

pytest.importorskip("isaaclab")

from deploy_kit.cli.main import main

pytestmark = [pytest.mark.reference, pytest.mark.slow]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stdout + result.stderr
    return result.stdout


def test_collect_finetune_export_verify(reference_run, tmp_path):
    policy, rows, tuned = reference_run / "model_7998.pt", tmp_path / "features.h5", tmp_path / "finetune"
    simulator = ("--backend", "isaaclab", "--tracks", "circular", "--no-obstacles")
    launcher = ("--", "--physics", "newton_mjwarp")
    run(
        *("collect", "--checkpoint", policy, *simulator, "--num-envs", 4, "--dataset", rows),
        *("--num-positive", 12, "--num-negative", 12, "--heldout-episodes", 4, "--keep-observations", 16, *launcher),
    )
    with h5py.File(rows) as file:
        assert file["supervision"][:].sum() == 12
        assert file["features"].shape == (24, 192)
        assert file.attrs["backend"] == "isaaclab"
        assert not set(file["track_id"][:]) & set(file["heldout/track_id"][:])
    run("finetune", "--policy-path", policy, "--h5-path", rows, "--save-path", tuned, "--epochs", 1)
    (checkpoint,) = tuned.glob("policy_finetune_epoch-1.*")
    bundle = tmp_path / "bundle"
    run("export", "--checkpoint", checkpoint, "--use-auxiliary-head", "--samples", rows, "--output", bundle)
    live = ("--episodes", 4, "--live-mode", "shadow")
    said = run("verify", bundle, "--checkpoint", checkpoint, "--h5", rows, *simulator, *live, *launcher)
    assert "VERIFIED" in said
    checks = {check["name"]: check for check in json.loads((bundle / "report.json").read_text())["checks"]}
    assert "live/shadow" in checks
