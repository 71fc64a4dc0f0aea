"""The whole job on a scripted task: what it refuses, what an interruption leaves; cli/test_demo.py sees it through."""

import logging
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.data.reader import open_feature_file
from deploy_kit.demo.run import EPOCHS, DemoOptions, run_demo
from deploy_kit.errors import CheckpointError, OptionError, TaskError
from deploy_kit.policy.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID
from helpers import scripted_racing
from helpers.checkpoints import CALIBRATION
from helpers.networks import make_network

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture
def options(checkpoint, vehicle, tmp_path) -> DemoOptions:
    return DemoOptions(
        checkpoint=checkpoint,
        output=tmp_path / "demo",
        env=EnvOptions(num_envs=4, seed=5),
        task="helpers.scripted_racing:make",
        vehicle_file=vehicle,
        num_rows=40,
        heldout_episodes=12,
        live_episodes=16,
        flights=3,
    )


@pytest.fixture
def logged(caplog, monkeypatch):
    """What the library logs, also after the command line has switched its propagation off."""
    monkeypatch.setattr(logging.getLogger("deploy_kit"), "propagate", True)
    caplog.set_level(logging.INFO, "deploy_kit")
    return caplog


@pytest.fixture
def calibrated(options):
    """The options with a checkpoint whose head deploy-kit has trained."""
    source = load_checkpoint(options.checkpoint)
    source.network.aux_decoder.weight.fill_(0.25)
    trained = options.checkpoint.with_name("trained.pt")
    save_checkpoint(trained, source, source.network, replace(CALIBRATION, metrics={}))
    return replace(options, checkpoint=trained)


def interrupt_in(phase):
    def progress(moment):
        if phase in moment.phase:
            raise KeyboardInterrupt

    return progress


def test_an_output_that_exists_is_kept(options):
    options.output.mkdir()
    (options.output / "mine.txt").touch()
    with pytest.raises(OptionError, match=r"demo exists and is kept; remove it, or name another folder$"):
        run_demo(options)
    assert [path.name for path in options.output.iterdir()] == ["mine.txt"]


def test_an_output_that_another_run_makes_in_the_same_moment_is_kept(options, monkeypatch):
    make, exists = Path.mkdir, Path.exists

    def after_another(path, *given, **named):
        if path == options.output and not exists(path):
            make(path)
            (path / "theirs.txt").touch()
        make(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", after_another)
    with pytest.raises(OptionError, match="demo exists and is kept"):
        run_demo(options)
    assert [path.name for path in options.output.iterdir()] == ["theirs.txt"]


def test_a_checkpoint_in_the_output_s_place_is_told_where_it_belongs(options):
    with pytest.raises(OptionError, match=r"exists and is kept; .* a checkpoint is given with --checkpoint"):
        run_demo(replace(options, output=options.checkpoint))


def test_a_policy_that_passes_no_gate_is_refused_after_a_while(options, logged, monkeypatch):
    monkeypatch.setattr("deploy_kit.demo.run.MOST_ENV_STEPS", 200)
    monkeypatch.setattr(scripted_racing, "label_of", lambda env, episode, step: False)
    with pytest.raises(CheckpointError, match=r"passed no gate in \d+ env steps"):
        run_demo(options)
    kept = f"what was finished is kept in {options.output} (features.h5); for the next try remove it, or name another"
    assert kept in logged.text


def test_a_vehicle_that_contradicts_the_task_is_refused_before_any_flight(
    options, vehicle_params, tmp_path, monkeypatch
):
    class FlightError(Exception):
        pass

    monkeypatch.setattr("deploy_kit.demo.run.collect", Mock(side_effect=FlightError))
    vehicle_params.write_text(vehicle_params.read_text().replace("ratio: 3.0", "ratio: 4.0"))
    racing = replace(options, task=TASK_ID, vehicle_file=None)
    with pytest.raises(OptionError, match=r"says 4\.0.*--vehicle FILE"):
        run_demo(racing)
    assert not options.output.exists()
    decided = tmp_path / "vehicle.yaml"
    decided.write_text("max_thrust_to_weight: 4.0\n")
    with pytest.raises(FlightError):
        run_demo(replace(racing, vehicle_file=decided))


def test_what_fails_before_anything_is_finished_leaves_no_folder(calibrated):
    with pytest.raises(TaskError, match="Nothing-v0"):
        run_demo(replace(calibrated, task="Nothing-v0"))
    assert not calibrated.output.exists()


def test_a_policy_without_a_gate_head_is_refused_at_once(options):
    path = options.checkpoint.with_name("headless.safetensors")
    save_safetensors(path, make_network(gate_head=False))
    with pytest.raises(CheckpointError, match="trained without the gate head"):
        run_demo(replace(options, checkpoint=path))
    assert not options.output.exists()


def test_a_head_that_was_trained_before_begins_anew_and_all_else_stays(calibrated, logged):
    with pytest.raises(KeyboardInterrupt):
        run_demo(calibrated, interrupt_in("1/5 collect · training rows"))
    assert "its trained gate head is set aside and a new, random one is trained" in logged.text
    begun, given = (load_checkpoint(p) for p in (calibrated.output / "untrained.pt", calibrated.checkpoint))
    assert begun.calibration is None
    before, after = given.network.state_dict(), begun.network.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"aux_decoder.weight", "aux_decoder.bias"}
    with open_feature_file(calibrated.output / "features.h5") as file:
        assert file.attrs.policy_sha256 == begun.sha256
    first = after["aux_decoder.weight"]
    again = replace(calibrated, output=calibrated.output.with_name("again"))
    other = replace(calibrated, output=calibrated.output.with_name("other"), env=EnvOptions(num_envs=4, seed=6))
    for options, equal in ((again, True), (other, False)):
        with pytest.raises(KeyboardInterrupt):
            run_demo(options, interrupt_in("1/5 collect · training rows"))
        head = load_checkpoint(options.output / "untrained.pt").network.aux_decoder
        assert torch.equal(head.weight, first) is equal, "the seed decides"


@pytest.mark.parametrize(
    ("phase", "left"),
    [
        ("1/5 collect · training rows", {"features.h5", "features.h5.partial"}),
        ("2/5 finetune · finetuning", {"features.h5", "finetune"}),
        ("3/5 export · writing ONNX", {"features.h5", "finetune"}),
        ("4/5 verify · replay kept", {"features.h5", "finetune", "bundle"}),
    ],
)
def test_an_interruption_ends_it_and_keeps_what_is_finished(options, logged, phase, left):
    seen = []

    def progress(moment):
        seen.append(moment.phase)
        if phase in moment.phase and (not phase.startswith("2") or "AUROC" in moment.note):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(options, progress)
    assert seen[-1].startswith(phase[:5]), "no later step begins"
    assert {path.name for path in options.output.iterdir()} == left
    with open_feature_file(options.output / "features.h5") as file:
        assert file.attrs.complete is (phase[0] != "1")
    if "finetune" in left:
        epoch = 1 if phase[0] == "2" else EPOCHS
        assert load_checkpoint(options.output / "finetune" / f"policy_finetune_epoch-{epoch}.pt").calibration
    if "bundle" in left:
        open_bundle(options.output / "bundle")
    assert f"what was finished is kept in {options.output} ({', '.join(sorted(left))}); for the next" in logged.text
