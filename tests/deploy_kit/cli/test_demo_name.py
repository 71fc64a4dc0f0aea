"""Every command takes the shipped policy by its name; here a random one stands in its place."""

import json

import pytest

from deploy_kit.policy import shipped
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors

SCRIPTED = ("--task", "helpers.scripted_racing:make")


@pytest.fixture(autouse=True)
def shipped_policy(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "DEMO_POLICY", checkpoint)
    monkeypatch.chdir(tmp_path)
    return load_checkpoint(checkpoint)


def test_every_command_takes_it_by_its_name(cli, shipped_policy, vehicle, tmp_path):
    collected = cli(
        *("collect", "--checkpoint", "demo", *SCRIPTED, "--num-envs", 3, "--dataset", tmp_path / "f.h5"),
        *("--num-positive", 30, "--num-negative", 30, "--heldout-episodes", 8),
    )
    assert collected.code == 0, collected
    trained = cli("finetune", "--policy-path", "demo", "--h5-path", "f.h5", "--save-path", "out", "--epochs", 1)
    assert trained.code == 0, trained
    exported = cli("export", "--checkpoint", "demo", "--vehicle", vehicle, "--output", "bundle")
    assert exported.code == 0, exported
    contract = json.loads((tmp_path / "bundle" / "contract.json").read_text())
    assert contract["provenance"]["checkpoint_sha256"] == shipped_policy.sha256
    tuned = "out/policy_finetune_epoch-1.pt"
    following = trained.stdout.splitlines()[-1]
    assert following == f"Next: deploy-kit export --checkpoint {tuned} --use-auxiliary-head --feature-file f.h5"
    exported = cli(*following.split()[2:], "--output", "tuned")
    assert exported.code == 0, exported
    contract = json.loads((tmp_path / "tuned" / "contract.json").read_text())
    assert contract["timing"]["policy_period_s"] == {"value": 0.03, "unit": "s", "source": "checkpoint"}
    verified = cli("verify", "tuned", "--checkpoint", tuned, "--no-replay", "--no-live")
    assert verified.code == 0, verified
    verified = cli("verify", "bundle", "--checkpoint", "demo", "--vehicle", vehicle, "--no-replay", "--no-live")
    assert verified.code == 0, verified
    for named in (("demo",), ("--checkpoint", "demo")):
        assert cli("fly", *named, *SCRIPTED, "--vehicle", vehicle, "--num-envs", 1).code == 0
    assert json.loads(cli("inspect", "demo", "--json").stdout)["sha256"] == shipped_policy.sha256


def test_what_lies_here_under_that_name_is_named_as_a_path(cli, refused, shipped_policy, tmp_path):
    (tmp_path / "demo").write_text("not a checkpoint at all\n" * 100)
    assert json.loads(cli("inspect", "demo", "--json").stdout)["sha256"] == shipped_policy.sha256
    refused("inspect", "./demo", words=("demo is a file of an unknown kind",))
    for arguments in (("fly", "./demo"), ("export", "--checkpoint", "./demo")):
        refused(*arguments, words=("demo is no checkpoint",))
    (tmp_path / "f.h5").write_text("")
    refused("finetune", "--policy-path", "./demo", "--h5-path", "f.h5", words=("demo is no checkpoint",))


def test_a_folder_of_that_name_is_no_bundle_to_fly(cli, vehicle, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "manifest.json").write_text("{}")
    assert cli("fly", "demo", *SCRIPTED, "--vehicle", vehicle, "--num-envs", 1).code == 0
    assert cli("fly", "./demo", *SCRIPTED, "--num-envs", 1).code == 2


def test_export_knows_the_task_of_the_shipped_policy_and_of_no_other(cli, refused, checkpoint, tmp_path):
    exported = cli("export", "--checkpoint", "demo", "--output", "bundle")
    assert exported.code == 0, exported
    timing = json.loads((tmp_path / "bundle" / "contract.json").read_text())["timing"]
    assert timing["policy_period_s"] == {"value": 0.03, "unit": "s", "source": "task"}
    other = tmp_path / "mine.safetensors"
    save_safetensors(other, load_checkpoint(checkpoint).network)
    refused("export", "--checkpoint", other, words=("give --vehicle FILE", "--task"))
