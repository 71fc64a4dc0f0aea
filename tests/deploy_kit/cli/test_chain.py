"""The four commands one after the other, and what the others say of the files."""

import json

import pytest
import torch

from helpers import scripted_racing

SCRIPTED = ("--task", "helpers.scripted_racing:make")


def test_collect_finetune_export_verify(cli, checkpoint, vehicle, tmp_path):
    dataset, folder, bundle = tmp_path / "f.h5", tmp_path / "finetuned", tmp_path / "bundle"
    result = cli(
        *("collect", "--checkpoint", checkpoint, *SCRIPTED, "--num_envs", 3, "--dataset", dataset),
        *("--num_positive", 60, "--num_negative", 60, "--heldout_episodes", 12),
    )
    assert result.code == 0, result
    assert "Complete: " in result.stdout
    assert "60 positive and 60 negative training rows, 12 held-out episodes" in result.stdout

    result = cli("finetune", "--policy_path", checkpoint, "--h5_path", dataset, "--save_path", folder, "--epochs", 2)
    assert result.code == 0, result
    trained = folder / "policy_finetune_epoch-2.pt"
    before, after = (torch.load(path, weights_only=True)["model_state_dict"] for path in (checkpoint, trained))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["aux_decoder.weight", "aux_decoder.bias"]

    result = cli(
        *("export", "--checkpoint", trained, "--use-auxiliary-head", "--samples", dataset, "--output", bundle),
        *("--vehicle", vehicle),
    )
    assert result.code == 0, result
    contract = json.loads((bundle / "contract.json").read_text())
    assert [output["name"] for output in contract["outputs"]] == ["action", "gate_logit"]

    verify = ("verify", bundle, "--checkpoint", trained, "--h5", dataset, "--vehicle", vehicle)
    result = cli(*verify, *SCRIPTED, "--episodes", 16)
    assert result.code == 0, result.stdout
    assert result.stdout.splitlines()[-2:] == ["VERIFIED", f"Next: deploy-kit fly {bundle}"]
    assert json.loads((bundle / "report.json").read_text())["passed"] is True

    # Against the checkpoint before finetuning, the same bundle fails.
    result = cli("verify", bundle, "--checkpoint", checkpoint, "--h5", dataset, "--vehicle", vehicle, "--no-live")
    assert result.code == 1, result.stdout
    assert result.stdout.rstrip().splitlines()[-1].startswith("FAILED")

    result = cli("fly", bundle, *SCRIPTED, "--num_envs", 3, "--json", tmp_path / "flight.json")
    assert result.code == 0, result
    flown = json.loads((tmp_path / "flight.json").read_text())
    expected = [
        sum(scripted_racing.label_of(i, 0, s) for s in range(scripted_racing.length_of(i, 0))) for i in range(3)
    ]
    assert flown["flights"][0]["statistics"]["gates_per_episode"]["mean"] == pytest.approx(sum(expected) / 3)

    for path, kind in ((trained, "checkpoint"), (dataset, "feature file"), (bundle, "bundle")):
        assert json.loads(cli("inspect", path, "--json").stdout)["kind"] == kind
        assert cli("inspect", path).stdout.startswith(kind)
