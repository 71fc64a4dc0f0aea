"""Judging a head without training."""

from dataclasses import replace

import h5py
import pytest
import torch
from click.testing import CliRunner

from deploy_kit.cli.main import main
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import CheckpointError, DatasetError, OptionError
from deploy_kit.finetuning.judge import JudgeOptions, judge_head
from deploy_kit.gate.detector import Timeline
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256
from helpers.checkpoints import CALIBRATION
from helpers.feature_files import write_separable_file
from helpers.networks import make_network


@pytest.fixture
def options(tmp_path) -> JudgeOptions:
    network = make_network()
    write_separable_file(tmp_path / "features.h5", feature_sha256(network))
    # The file's first four features tell the classes apart.
    network.aux_decoder.weight.copy_((torch.arange(192) < 4)[None].float())
    save_safetensors(tmp_path / "policy.safetensors", network, 3)
    return JudgeOptions(tmp_path / "policy.safetensors", tmp_path / "features.h5", tmp_path / "judged.safetensors")


def test_the_detector_is_stored_and_every_tensor_stays(options):
    result = judge_head(options)
    before, after = load_checkpoint(options.checkpoint), load_checkpoint(result.checkpoint)
    assert before.calibration is None
    assert after.calibration == result.calibration
    assert after.iteration == 3
    theirs = after.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in before.network.state_dict().items())
    assert after.calibration.rule == "best F1 on validation episodes"
    assert (after.calibration.policy_period_s, after.calibration.training) == (0.03, {})


def test_the_figures_are_those_of_the_test_episodes_with_the_stored_detector(options):
    result = judge_head(options)
    network = load_checkpoint(options.checkpoint).network
    with open_feature_file(options.feature_files) as file:
        test = file.heldout("test")
        logit = network.aux_decoder(torch.from_numpy(test.features))[:, 0].double().numpy()
        counts = Timeline(test.episode_id, test.label, 5).count(logit, [result.calibration.detector])
        assert result.calibration.dataset_sha256 == file.sha256
    hit_rate = counts.hits.sum() / counts.passes.sum()
    assert result.calibration.metrics["event_hit_rate"] == hit_rate == result.figures.event_hit_rate.value
    assert result.figures.expected_calibration_error.low is None


def test_what_an_earlier_calibration_says_of_the_training_stays(options):
    network = load_checkpoint(options.checkpoint).network
    save_safetensors(options.checkpoint, network, 3, replace(CALIBRATION, training={"epoch": 4}))
    assert judge_head(options).calibration.training == {"epoch": 4}


def test_a_file_without_held_out_episodes_cannot_judge(options):
    with h5py.File(options.feature_files, "a") as file:
        del file["heldout"], file.attrs["layout_sha256"]
    with pytest.raises(DatasetError, match="has no held-out episodes; collect with --heldout-episodes"):
        judge_head(options)


def test_nothing_is_written_over(options):
    judge_head(options)
    with pytest.raises(OptionError, match="exists and is kept"):
        judge_head(options)
    with pytest.raises(CheckpointError, match="is the checkpoint itself"):
        judge_head(replace(options, output=options.checkpoint, overwrite=True))
    with pytest.raises(OptionError, match=r"end its name in \.safetensors"):
        judge_head(replace(options, output=options.checkpoint.with_suffix(".pt")))
    judge_head(replace(options, overwrite=True))


def test_a_rule_that_cannot_be_kept_writes_nothing(options):
    network = load_checkpoint(options.checkpoint).network
    network.aux_decoder.weight.zero_()
    save_safetensors(options.checkpoint, network)
    with pytest.raises(OptionError, match="cannot be kept on the validation episodes"):
        judge_head(replace(options, threshold_rule="precision=1"))
    assert not options.output.exists()


def test_the_period_must_not_contradict_the_file(options):
    with pytest.raises(OptionError, match=r"--seconds-per-step 0\.02, but .* says 0\.03"):
        judge_head(replace(options, seconds_per_step=0.02))


def test_the_command_prints_the_detector(options):
    arguments = ["judge", str(options.checkpoint), "--feature-file", str(options.feature_files)]
    found = CliRunner().invoke(main, [*arguments, "--output", str(options.output)])
    assert found.exit_code == 0, found.output
    assert "event hit rate" in found.output
    assert f"Wrote {options.output}" in found.output.replace("\n", "")
    assert f"Next: deploy-kit export --checkpoint {options.output} --use-auxiliary-head" in found.stdout
