"""``deploy-kit demo``: what it prints, its exit codes, and what it hands to the library."""

import json
from dataclasses import replace

import numpy as np
import pytest

import deploy_kit.demo.run
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.thresholds import Thresholds, Tolerance
from deploy_kit.data.reader import open_feature_file
from deploy_kit.demo.options import DemoOptions
from deploy_kit.demo.run import EPOCHS
from deploy_kit.policy import shipped
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from helpers import scripted_racing
from helpers.pages import assert_self_contained

SCRIPTED = ("--task", "helpers.scripted_racing:make")


@pytest.mark.drawn
@pytest.mark.slow
def test_the_whole_job_of_a_random_policy(cli, checkpoint, vehicle, tmp_path, monkeypatch):
    (checkpoint.parent / "params" / "agent.yaml").unlink()
    results = []
    run = deploy_kit.demo.run.run_demo
    monkeypatch.setattr("deploy_kit.demo.run.run_demo", lambda *given: results.append(run(*given)) or results[0])
    output = tmp_path / "out"
    told = cli(
        *("demo", output, "--checkpoint", checkpoint.parent, *SCRIPTED, "--num-envs", 8, "--seed", 4),
        *("--activation", "lrelu", "--image-shape", "72x96", "--vehicle", vehicle),
        *("--num-rows", 60, "--heldout-episodes", 16, "--live-episodes", 16, "--flights", 5),
    )
    assert told.code == 0, told
    (result,) = results
    assert result.finetuned.before["rows"] > 30
    assert not [verdict for verdict in result.report.verdicts if verdict.status == "not run"]
    assert open_bundle(result.bundle).contract.vehicle["max_thrust_to_weight"].source == "file:vehicle.yaml"
    table = " ".join(told.stdout.replace("│", " ").split())
    before, after = result.finetuned.before["auroc"], result.finetuned.after["auroc"]
    statistics = result.flight.statistics
    assert f"{before:.3f} before, {after:.3f} after finetuning" in table
    assert f"gates per episode {statistics.gates_per_episode.mean:.2f} (95 % " in table
    assert f"crashes {statistics.crash_rate.mean:.0%} of 5 flights" in table
    assert "verification VERIFIED" in table
    name, share = result.report.worst_share
    assert f"{share:.2f} of its limit, in {name}" in table
    assert 0 < share < 1
    for path in (result.bundle, output / "pictures"):
        assert str(path) in table.replace(" ", "")
    assert "depth.mp4" in table
    assert str(output / "index.html") in table.replace(" ", "")
    _has_done_the_whole_job(result, output, rows=60, seed=4)
    for place in ("1/5 collect · held-out", "1/5 collect · training", "2/5 finetune", "3/5 export", "4/5 verify"):
        assert place in told.stderr
    assert "5/5 fly · flights" in told.stderr

    # The same report under limits that nothing keeps: the last line names it, the exit code tells.
    failing = replace(result, report=result.report.judged(Thresholds(parity=Tolerance(0.0, 1e-12))))
    monkeypatch.setattr("deploy_kit.demo.run.run_demo", lambda *given: failing)
    told = cli("demo", output, "--checkpoint", checkpoint)
    assert told.code == 1
    assert "FAILED" in told.stdout
    assert told.stdout.splitlines()[-1].startswith("What failed: ")


def _has_done_the_whole_job(result, output, rows, seed):
    assert {path.name for path in output.iterdir()} == {
        *("features.h5", "finetune", "bundle", "pictures", "index.html")
    }
    with open_feature_file(output / "features.h5") as file:
        assert (file.attrs.complete, file.attrs.seed) == (True, seed)
        assert len(file.heldout().label) > 16
    metrics = json.loads((output / "finetune" / "metrics.json").read_text())
    assert metrics["dataset"]["training_rows"] == 2 * rows
    assert (metrics["before"], metrics["after"]) == (result.finetuned.before, result.finetuned.after)
    assert metrics["options"]["epochs"] == len(metrics["epochs"]) == EPOCHS
    trained = load_checkpoint(result.finetuned.checkpoint, NetworkHints("lrelu", (72, 96)))
    bundle = open_bundle(result.bundle)
    assert bundle.contract.provenance.checkpoint_sha256 == trained.sha256
    assert bundle.contract.gate.threshold_logit == trained.calibration.threshold_logit
    assert bundle.golden.source == "recorded"
    assert result.report.passed
    ran = {check.name for check, verdict in zip(result.report.checks, result.report.verdicts, strict=True)}
    assert {"replay/heldout/onnx-head", "replay/kept/onnx", "live/shadow", "live/driving"} <= ran
    gates = [sum(scripted_racing.label_of(i, 0, s) for s in range(scripted_racing.length_of(i, 0))) for i in range(5)]
    assert result.flight.statistics.episodes == 5
    assert result.flight.statistics.gates_per_episode.mean == np.mean(gates)
    names = ["actions.png", "auxiliary_prob.png", "depth.mp4", "index.html"]
    assert [path.name for path in result.flight.pictures] == names
    assert all(path.parent == output / "pictures" and path.stat().st_size > 1000 for path in result.flight.pictures)
    page = assert_self_contained(result.page.read_text())
    assert page.text.index("VERIFIED") < page.text.index("In the air") < page.text.index("What was verified")
    verified = {row[0]: row[-1] for row in page.tables["Checks"][1:]}
    assert verified == {verdict.name: verdict.status for verdict in result.report.verdicts}
    head = {row[0]: row[1:] for row in page.tables["Figures on the test episodes"][1:]}
    assert head["AUROC"] == [f"{figures['auroc']:.3f}" for figures in (metrics["before"], metrics["after"])]


def test_the_defaults_are_the_shipped_policy_and_a_folder_of_outputs(cli, checkpoint, tmp_path, monkeypatch):
    given = []

    def refuse(options, progress):
        given.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(shipped, "DEMO_POLICY", checkpoint)
    monkeypatch.setattr("deploy_kit.demo.run.run_demo", refuse)
    monkeypatch.chdir(tmp_path)
    told = cli("demo")
    assert (told.code, told.stderr.strip()) == (130, "Interrupted")
    sizes = ("--num-rows", 5, "--heldout-episodes", 6, "--live-episodes", 17, "--flights", 8)
    cli("demo", "there", "--num-envs", 3, "--seed", 9, "--normalizer-eps", 0.5, *sizes)
    first, second = given
    assert (first.checkpoint, str(first.output)) == (checkpoint, "outputs/demo")
    assert (first.env.num_envs, first.env.seed) == (16, 0)
    assert (str(second.output), second.env.num_envs, second.env.seed) == ("there", 3, 9)
    assert (second.num_rows, second.heldout_episodes, second.live_episodes, second.flights) == (5, 6, 17, 8)
    assert first == replace(DemoOptions(checkpoint), hints=first.hints)
    assert [options.hints.normalizer_eps for options in given] == [None, 0.5]


def test_what_it_refuses(refused, checkpoint, tmp_path):
    refused("demo", tmp_path, "--checkpoint", checkpoint, words=("exists and is kept", "name another folder"))
    refused("demo", checkpoint, "--checkpoint", checkpoint, words=("is given with --checkpoint",))
    refused("demo", tmp_path / "new", "--checkpoint", tmp_path / "no.pt", words=("no.pt does not exist",))
    refused("demo", tmp_path / "new", "--num-envs", 0, words=("--num-envs", "x>=1"))
    refused("demo", tmp_path / "new", "--checkpoint", checkpoint, "--task", "Nothing-v0", words=("Nothing-v0",))


def test_an_interrupt_that_a_compiled_module_meets_while_it_is_imported_is_one(cli, checkpoint, tmp_path, monkeypatch):
    def fail(options, progress):
        raise ImportError("initialization failed") from options

    for cause, code in ((KeyboardInterrupt(), 130), (ValueError(), None)):
        monkeypatch.setattr("deploy_kit.demo.run.run_demo", lambda *_, cause=cause: fail(cause, None))
        if code is None:
            with pytest.raises(ImportError):
                cli("demo", tmp_path / "there", "--checkpoint", checkpoint)
        else:
            told = cli("demo", tmp_path / "there", "--checkpoint", checkpoint)
            assert (told.code, told.stderr.strip()) == (code, "Interrupted")
