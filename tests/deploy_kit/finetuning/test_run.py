import json
import logging
import re
import shlex
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deploy_kit.cli.finetune import finetune_command
from deploy_kit.data import blocks as blocks_module
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.schema import FeatureFileInfo
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import CheckFailedError, CheckpointError, DatasetError, OptionError
from deploy_kit.finetuning import output as output_module
from deploy_kit.finetuning import run as run_module
from deploy_kit.finetuning import training as training_module
from deploy_kit.finetuning.run import FinetuneOptions, FinetuneResult, finetune
from deploy_kit.gate.correction import Correction
from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.metrics import gate_metrics
from deploy_kit.gate.threshold import ThresholdRule
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.progress import Progress
from helpers.checkpoints import write_racing_run
from helpers.feature_files import write_separable_file
from helpers.networks import make_network

pytestmark = pytest.mark.usefixtures("pictures")

F = 192
LAST = "policy_finetune_epoch-3.pt"


@pytest.fixture(scope="module")
def policy() -> VisionActorCritic:
    return make_network()


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, policy: VisionActorCritic
) -> tuple[FinetuneOptions, FinetuneResult]:
    """One finetuning that many tests look at; they leave its files as they are."""
    folder = tmp_path_factory.mktemp("finished")
    dataset = write_separable_file(folder / "features.h5", feature_sha256(policy))
    options = FinetuneOptions(
        dataset,
        write_racing_run(folder / "run", policy),
        folder / "out",
        epochs=3,
        lr=2e-2,
    )
    return options, finetune(options)


@pytest.fixture
def result(finished: tuple[FinetuneOptions, FinetuneResult]) -> FinetuneResult:
    return finished[1]


@pytest.fixture
def done(finished: tuple[FinetuneOptions, FinetuneResult]) -> FinetuneOptions:
    """Options of the finished finetuning; not to be changed."""
    return finished[0]


@pytest.fixture
def options(done: FinetuneOptions, tmp_path: Path) -> FinetuneOptions:
    """Options of a finetuning yet to be done, with files of its own."""
    shutil.copytree(done.checkpoint.parent, tmp_path / "run")
    shutil.copy(done.feature_files, tmp_path)
    return replace(
        done,
        feature_files=tmp_path / done.feature_files.name,
        checkpoint=tmp_path / "run" / done.checkpoint.name,
        output=tmp_path / "out",
    )


@pytest.fixture
def earlier(done: FinetuneOptions, options: FinetuneOptions) -> FinetuneOptions:
    """Options whose folder holds the results of an earlier finetuning."""
    shutil.copytree(done.output, options.output)
    return options


def head_of(path: Path) -> torch.Tensor:
    return load_checkpoint(path).network.aux_decoder.weight


def test_only_the_gate_head_changes(done: FinetuneOptions, result: FinetuneResult) -> None:
    before, after = (torch.load(path, weights_only=True) for path in (done.checkpoint, result.checkpoint))
    assert after.pop("deploy_kit")
    assert set(before) == set(after)
    assert (after["iter"], after["infos"], after["optimizer_state_dict"]) == (7, None, {})
    assert list(before["model_state_dict"]) == list(after["model_state_dict"])
    for name, tensor in before["model_state_dict"].items():
        same = torch.equal(tensor, after["model_state_dict"][name])
        assert same != name.startswith("aux_decoder."), name
    agent = "params/agent.yaml"
    assert (done.output / agent).read_bytes() == (done.checkpoint.parent / agent).read_bytes()


def test_every_epoch_leaves_a_checkpoint(done: FinetuneOptions, result: FinetuneResult) -> None:
    paths = [done.output / f"policy_finetune_epoch-{n}.pt" for n in (1, 2, 3)]
    heads = [head_of(path) for path in (done.checkpoint, *paths)]
    assert result.checkpoint == paths[-1]
    for one, other in pairwise(heads):
        assert not torch.equal(one, other)
    assert sorted(p.name for p in done.output.iterdir()) == [
        "metrics.json",
        "params",
        "plots",
        *(p.name for p in paths),
        "report.html",
        "tensorboard",
        "training_state.npz",
    ]


def scores(checkpoint: Path, rows) -> np.ndarray:
    with torch.inference_mode():
        logit = load_checkpoint(checkpoint).network.aux_decoder(torch.from_numpy(rows.features))
    return logit[:, 0].double().numpy()


def test_figures_are_those_of_the_saved_checkpoints(done: FinetuneOptions, result: FinetuneResult) -> None:
    found = json.loads(result.metrics_path.read_text())
    with open_feature_file(done.feature_files) as file:
        validation, test = file.heldout("validation"), file.heldout("test")
        for name, path in (("before", done.checkpoint), ("after", result.checkpoint)):
            timeline = Timeline(validation.episode_id, validation.label, 5)
            detector = ThresholdRule().choose(scores(path, validation), validation.label, timeline, 0.03)
            expected = gate_metrics(scores(path, test), test.label, detector.threshold_logit).to_json()
            for key, value in expected.items():
                assert found[name][key] == pytest.approx(value, abs=1e-9), (name, key)
        assert found["dataset"]["sha256"] == file.sha256
        assert found["judged_on"]["test"] == {"rows": 400, "positives": 12, "prevalence": 0.03}
    assert found["judged_on"]["source"] == "held-out episodes"
    assert found["judged_on"]["natural_prevalence"] is True
    assert found["threshold"]["logit"] == found["after"]["threshold_logit"] == found["detector"]["threshold_logit"]
    assert found["detector"] == asdict(load_checkpoint(result.checkpoint).calibration.detector)
    assert found["threshold"]["probability"] == pytest.approx(1 / (1 + np.exp(-found["threshold"]["logit"])))
    assert found["policy"]["sha256"] == load_checkpoint(done.checkpoint).sha256
    assert found["dataset"]["training_rows"] == 1200
    assert found["dataset"]["training_positives"] == 600
    assert found["options"]["lr"] == 2e-2
    assert (found["before"], found["after"]) == (result.before, result.after)
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 3]
    best = max(found["epochs"], key=lambda epoch: epoch["validation_auroc"])["epoch"]
    assert found["best_epoch"] == result.best_epoch == best


def test_the_head_learns_and_the_attacks_cost_something(result: FinetuneResult) -> None:
    assert result.before["auroc"] < 0.7
    assert result.after["auroc"] > 0.85
    assert result.after["auroc_worst_case"] < result.after["auroc_pgd"] < result.after["auroc"]
    assert result.epochs[2].training_loss < result.epochs[0].training_loss


def test_the_threshold_and_its_provenance_are_in_the_checkpoint(done: FinetuneOptions, result: FinetuneResult) -> None:
    source = load_checkpoint(done.checkpoint)
    assert source.calibration is None
    for number, record in enumerate(result.epochs, start=1):
        calibration = load_checkpoint(done.output / record.checkpoint).calibration
        assert calibration.threshold_logit == record.threshold_logit
        assert calibration.training["epoch"] == number
    assert calibration.metrics == result.after
    assert calibration.rule == "best F1 on validation episodes"
    assert calibration.base_rate == 0.03
    assert (calibration.label_rule, calibration.label_offset_steps) == ("the drone is near the gate", 1)
    assert (calibration.label_distance_m, calibration.policy_period_s, calibration.clip_actions) == (
        0.1 + 0.2,
        0.03,
        None,
    )
    assert calibration.dataset_sha256 == json.loads(result.metrics_path.read_text())["dataset"]["sha256"]
    assert calibration.training == {
        "policy_sha256": source.sha256,
        "epoch": 3,
        "rows": 1200,
        "solver": "adam",
        "objective": "steps",
        "batch_size": 256,
        "lr": 2e-2,
        "seed": 0,
        "steps": 3,
        "epsilon": 0.1,
        "alpha": 0.01,
        "norm": "linf",
        "unit_interval": False,
        "correction": json.loads(result.metrics_path.read_text())["correction"],
    }


def test_the_logs_hold_the_curve(done: FinetuneOptions, result: FinetuneResult) -> None:
    log = EventAccumulator(str(done.output / "tensorboard"))
    log.Reload()
    losses = log.Scalars("loss/training")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([r.training_loss for r in result.epochs])
    assert log.Scalars("test/auroc")[-1].value == pytest.approx(result.after["auroc"])


@pytest.mark.parametrize("name", ["training", "curves", "reliability", "probabilities", "events"])
def test_the_plots_are_pictures(result: FinetuneResult, name: str) -> None:
    with Image.open(result.output / "plots" / f"{name}.png") as picture:
        assert picture.width > 500
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_seed_decides(options: FinetuneOptions, result: FinetuneResult) -> None:
    for seed, same in ((0, True), (1, False)):
        other = finetune(replace(options, seed=seed, output=options.output / str(seed)))
        assert torch.equal(head_of(result.checkpoint), head_of(other.checkpoint)) is same


def test_a_safetensors_checkpoint_gives_safetensors(
    options: FinetuneOptions, policy: VisionActorCritic, tmp_path: Path
) -> None:
    save_safetensors(tmp_path / "policy.safetensors", policy)
    result = finetune(replace(options, checkpoint=tmp_path / "policy.safetensors", epochs=1))
    assert result.checkpoint.name == "policy_finetune_epoch-1.safetensors"
    loaded = load_checkpoint(result.checkpoint)
    assert loaded.calibration.threshold_logit == result.epochs[0].threshold_logit
    assert not torch.equal(loaded.network.aux_decoder.weight, policy.aux_decoder.weight)


def test_progress_counts_rows(options: FinetuneOptions) -> None:
    seen: list[Progress] = []
    finetune(options, seen.append)
    training = [p for p in seen if p.phase == "finetuning"]
    assert {p.total for p in training} == {3600}
    assert [p.completed for p in training] == sorted(p.completed for p in training)
    assert training[-1].note.startswith("validation AUROC 0.")


def test_earlier_results_are_kept_without_overwrite(earlier: FinetuneOptions) -> None:
    before = {p: p.read_bytes() for p in earlier.output.rglob("*") if p.is_file()}
    with pytest.raises(OptionError, match=r"holds the results of an earlier finetuning \(metrics\.json\)"):
        finetune(earlier)
    assert before == {p: p.read_bytes() for p in earlier.output.rglob("*") if p.is_file()}


def test_overwrite_leaves_no_epoch_of_the_earlier_run(earlier: FinetuneOptions) -> None:
    (earlier.output / "notes.txt").write_text("mine")
    finetune(replace(earlier, epochs=1, overwrite=True))
    assert [p.name for p in earlier.output.glob("policy_*")] == ["policy_finetune_epoch-1.pt"]
    assert len(list((earlier.output / "tensorboard").iterdir())) == 1
    assert (earlier.output / "notes.txt").read_text() == "mine"


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_overwrite_refuses_another_runs_parameters_before_it_trains(earlier: FinetuneOptions) -> None:
    agent = earlier.checkpoint.parent / "params" / "agent.yaml"
    agent.write_text(agent.read_text() + "seed: 5\n")
    before = everything_in(earlier.output)
    seen: list[Progress] = []
    with pytest.raises(CheckpointError, match=r"agent\.yaml belongs to another run .*: save into a folder of its own"):
        finetune(replace(earlier, overwrite=True), seen.append)
    assert everything_in(earlier.output) == before
    assert not seen


def test_parameters_that_the_checkpoint_lacks_are_another_runs(earlier: FinetuneOptions) -> None:
    shutil.copytree(earlier.output / "params", earlier.output / "kept")
    (earlier.output / "params" / "env.yaml").write_text("another: vehicle\n")
    before = everything_in(earlier.output)
    with pytest.raises(CheckpointError, match=r"env\.yaml belongs to another run .*, which has none"):
        finetune(replace(earlier, overwrite=True))
    assert everything_in(earlier.output) == before


@pytest.mark.parametrize("failing", ["save_with_head", "write_metrics"])
def test_a_first_epoch_that_cannot_be_written_leaves_the_earlier_results(
    earlier: FinetuneOptions, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*args: object) -> None:
        raise OptionError("no space left")

    before = everything_in(earlier.output)
    monkeypatch.setattr(output_module if failing == "save_with_head" else run_module, failing, fail)
    with pytest.raises(OptionError, match="no space left"):
        finetune(replace(earlier, overwrite=True, seed=3))
    assert everything_in(earlier.output).items() >= before.items()
    monkeypatch.undo()
    finetune(replace(earlier, overwrite=True, epochs=1, seed=3))
    assert [p.name for p in earlier.output.glob("policy_*")] == ["policy_finetune_epoch-1.pt"]
    assert not list(earlier.output.glob("earlier_results.*"))


def test_earlier_results_lie_beside_the_first_epoch_until_it_is_written(
    earlier: FinetuneOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[str] = []

    def write(*args: object) -> object:
        waiting.extend(p.name for p in earlier.output.glob("earlier_results.*/*"))
        return write_metrics(*args)

    write_metrics = run_module.write_metrics
    monkeypatch.setattr(run_module, "write_metrics", write)
    finetune(replace(earlier, overwrite=True, epochs=1))
    assert {LAST, "metrics.json", "training_state.npz"} <= set(waiting)


def test_overwrite_does_not_remove_the_policy_it_reads(earlier: FinetuneOptions) -> None:
    with pytest.raises(OptionError, match="would be removed by --overwrite"):
        finetune(replace(earlier, checkpoint=earlier.output / LAST, overwrite=True))
    assert (earlier.output / LAST).is_file()


def test_finetuning_goes_on_from_a_finetuned_head(earlier: FinetuneOptions) -> None:
    again = finetune(replace(earlier, checkpoint=earlier.output / LAST, output=earlier.output / "again"))
    assert again.before["auroc"] == load_checkpoint(earlier.output / LAST).calibration.metrics["auroc"]


def interrupted_in(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    calls = iter(range(1, 100))
    train_epoch = training_module.train_epoch

    def train(*args: object) -> float:
        if next(calls) == epoch:
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(training_module, "train_epoch", train)


def test_ctrl_c_keeps_the_finished_epochs(options: FinetuneOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_in(monkeypatch, 3)
    result = finetune(options)
    assert result.interrupted
    assert result.checkpoint.name == "policy_finetune_epoch-2.pt"
    assert load_checkpoint(result.checkpoint).calibration.metrics == result.after
    assert len(json.loads(result.metrics_path.read_text())["epochs"]) == 2
    assert not (options.output / LAST).exists()


def test_ctrl_c_in_the_first_epoch_keeps_the_earlier_results(
    earlier: FinetuneOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.read_bytes() for p in earlier.output.rglob("*") if p.is_file()}
    interrupted_in(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        finetune(replace(earlier, overwrite=True, seed=3))
    assert before == {p: p.read_bytes() for p in earlier.output.rglob("*") if p.is_file()}


@pytest.mark.parametrize("origin", [True, False])
def test_without_heldout_episodes_it_says_what_the_figures_are(
    options: FinetuneOptions, caplog: pytest.LogCaptureFixture, origin: bool
) -> None:
    with h5py.File(options.feature_files, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        del file["heldout"]
        if origin:
            for name in ("episode_id", "env_id", "track_id", "step"):
                del file[name]
            file.attrs.clear()
    with caplog.at_level(logging.WARNING):
        result = finetune(options)
    assert "has no held-out episodes" in caplog.text
    assert "they flatter" in caplog.text
    found = json.loads(result.metrics_path.read_text())
    assert found["judged_on"]["natural_prevalence"] is False
    assert found["judged_on"]["source"] == "a seeded tenth of the training rows"
    rows = [found["judged_on"][part]["rows"] for part in ("validation", "test")]
    assert all(80 < count < 160 for count in rows)
    assert found["dataset"]["training_rows"] == 1200 - sum(rows)
    calibration = load_checkpoint(result.checkpoint).calibration
    assert "not at natural prevalence" in calibration.rule
    assert calibration.label_rule == ("not recorded in the feature file" if origin else "the drone is near the gate")


def one_class(name: str, value: int) -> Callable[[h5py.File], None]:
    return lambda file: file[name].write_direct(np.full(file[name].shape, value, np.int8))


@pytest.mark.drawn
def test_the_report_says_where_figures_flatter(options: FinetuneOptions) -> None:
    with h5py.File(options.feature_files, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        del file["heldout"]
    page = (finetune(replace(options, epochs=1)).output / "report.html").read_text()
    assert "These figures flatter:" in page
    assert "Of steps: precision" in page


def no_positive_test_row(file: h5py.File) -> None:
    is_test, label = file["heldout/is_test"][()], file["heldout/supervision"][()]
    file["heldout/supervision"][...] = np.where(is_test[:, None], 0, label)


def no_training_rows(file: h5py.File) -> None:
    for name in ("features", "supervision", "episode_id", "env_id", "track_id", "step"):
        file[name].resize(0, axis=0)


def put_nan(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][7, 5] = np.nan

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_class("supervision", 0), "all 1200 training rows have label 0, and both classes are needed"),
        (one_class("supervision", 1), "all 1200 training rows have label 1"),
        (one_class("heldout/supervision", 0), "all 400 validation rows have label 0"),
        (no_positive_test_row, "all 400 test rows have label 0"),
        (no_training_rows, "holds no training rows; collect with --num-positive"),
        (put_nan("features"), "/features row 7 holds NaN or Inf"),
        (put_nan("heldout/features"), "/heldout/features row 7 holds NaN or Inf"),
    ],
)
def test_unusable_rows_are_refused(options: FinetuneOptions, change: Callable, message: str) -> None:
    with h5py.File(options.feature_files, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        change(file)
    with pytest.raises(DatasetError, match=message):
        finetune(options)
    assert not list(options.output.iterdir())


def test_another_policys_features_are_refused(options: FinetuneOptions, tmp_path: Path) -> None:
    other = write_separable_file(tmp_path / "other.h5", "0" * 64)
    with pytest.raises(DatasetError, match="collected with another policy"):
        finetune(replace(options, feature_files=other))


def test_features_of_another_width_are_refused(
    options: FinetuneOptions, policy: VisionActorCritic, tmp_path: Path
) -> None:
    with FeatureFileWriter(
        tmp_path / "narrow.h5",
        FeatureFileInfo(191, feature_sha256(policy), "a" * 64, "near", 0.35, 1, 0, 2, "mujoco"),
        10,
        10,
        seed=0,
    ) as writer:
        writer.add_training(np.ones((4, 191)), [0, 1, 0, 1], *np.zeros((4, 4), int))
    with pytest.raises(DatasetError, match="the features have 191 columns, the policy's have 192"):
        finetune(replace(options, feature_files=tmp_path / "narrow.h5"))


def test_a_policy_without_a_gate_head_is_refused(options: FinetuneOptions) -> None:
    content = torch.load(options.checkpoint, weights_only=True)
    for name in ("aux_decoder.weight", "aux_decoder.bias"):
        del content["model_state_dict"][name]
    torch.save(content, options.checkpoint)
    with pytest.raises(CheckpointError, match=r"aux_decoder\.weight is missing, so this policy was trained without"):
        finetune(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0 is below 1"),
        ({"batch_size": 0}, "--batch_size 0 is below 1"),
        ({"pgd_steps": -1}, "--pgd_steps -1 is below 0"),
        ({"lr": 0.0}, "--lr 0.0 is not a positive number"),
        ({"lr": float("nan")}, "--lr nan is not a positive number"),
        ({"epsilon": -0.1}, "--epsilon -0.1 is not a positive number"),
        ({"device": "cuda:77"}, "--device cuda:77 is not available here"),
        ({"device": "nonsense"}, "--device nonsense is not available here"),
        ({"norm": "l1"}, "--norm 'l1' is not one of linf, l2"),
        ({"solver": "newton"}, "--solver 'newton' is not one of adam, lbfgs"),
        ({"patience": 0}, "--patience 0 is below 1"),
        ({"threshold_rule": "f3"}, "--threshold-rule 'f3' is not f1"),
        ({"solver": "lbfgs", "masterracing_compatible": True}, "needs the closed form"),
        ({"solver": "lbfgs"}, "--solver lbfgs has no use for --epochs, --lr, which Adam takes; leave one out"),
        ({"solver": "lbfgs", "epochs": None, "lr": None, "batch_size": 64}, "no use for --batch-size, which"),
        ({"memory": 1}, "--memory 0 MiB is too little"),
        ({"lr": 1e37}, "loss is not finite any more; lower --lr"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: FinetuneOptions, change: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(replace(options, **change))


def test_a_output_that_is_a_file_is_refused(options: FinetuneOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be made a folder"):
        finetune(replace(options, output=tmp_path / "file"))


def test_no_perturbation_can_be_asked_for(options: FinetuneOptions) -> None:
    result = finetune(replace(options, pgd_steps=0, epsilon=0.0, alpha=0.0, epochs=1))
    assert result.after["auroc"] == result.after["auroc_pgd"] == result.after["auroc_worst_case"]


@pytest.mark.reference
def test_the_reference_policys_other_tensors_stay(
    options: FinetuneOptions, reference_run: Path, tmp_path: Path
) -> None:
    reference = reference_run / "model_7998.pt"
    network = load_checkpoint(reference).network
    path = write_separable_file(tmp_path / "reference.h5", feature_sha256(network))
    result = finetune(replace(options, feature_files=path, checkpoint=reference, epochs=1))
    before, after = (torch.load(p, weights_only=True, map_location="cpu") for p in (reference, result.checkpoint))
    for name, tensor in before["model_state_dict"].items():
        assert torch.equal(tensor, after["model_state_dict"][name]) != name.startswith("aux_decoder."), name
    assert before["iter"] == after["iter"] == 7998


def test_the_head_that_ships_is_the_corrected_one(done: FinetuneOptions, result: FinetuneResult) -> None:
    found = json.loads(result.metrics_path.read_text())
    correction = Correction(**found["correction"])
    with open_feature_file(done.feature_files) as file:
        assert correction.flight_prior == file.attrs.prevalence
    assert correction.training_prior == 0.5
    head = load_checkpoint(result.checkpoint).network.aux_decoder
    shipped = torch.cat([head.weight[0], head.bias]).numpy()
    with np.load(done.output / "training_state.npz") as state:
        np.testing.assert_allclose(correction.apply(state["vector"]), shipped, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"prior_correction": False, "temperature": False}, None), ({"temperature": False}, 1.0)],
)
def test_the_correction_can_be_left_out(options: FinetuneOptions, change: dict, expected: float | None) -> None:
    with h5py.File(options.feature_files, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        file.attrs["prevalence"] = 0.02
    result = finetune(replace(options, epochs=1, **change))
    found = json.loads(result.metrics_path.read_text())["correction"]
    assert (None if found is None else found["temperature"]) == expected
    head = load_checkpoint(result.checkpoint).network.aux_decoder
    with np.load(result.output / "training_state.npz") as state:
        same = np.allclose(state["vector"], torch.cat([head.weight[0], head.bias]).numpy())
    assert same is (expected is None)


def test_a_corrected_head_is_trained_on_from_where_its_training_ended(
    earlier: FinetuneOptions, options: FinetuneOptions
) -> None:
    again = finetune(
        replace(earlier, checkpoint=earlier.output / LAST, output=earlier.output / "on", lr=1e-9, epochs=1)
    )
    assert again.after["auroc"] == pytest.approx(again.before["auroc"], abs=1e-6)
    assert again.after["expected_calibration_error"] == pytest.approx(
        again.before["expected_calibration_error"], abs=1e-4
    )


def test_a_resumed_finetuning_ends_where_an_uninterrupted_one_does(
    options: FinetuneOptions, result: FinetuneResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupted_in(patched, 3)
        finetune(options)
    resumed = finetune(replace(options, resume=True))
    assert torch.equal(head_of(resumed.checkpoint), head_of(result.checkpoint))
    assert resumed.after == result.after
    plain = [[replace(record, rows_per_second=0) for record in r.epochs] for r in (resumed, result)]
    assert plain[0] == plain[1]
    assert finetune(replace(options, resume=True)).after == result.after
    assert len(finetune(replace(options, resume=True, epochs=4)).epochs) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, r"was trained with lr 0\.02, not 0\.001; give the same"),
        ({"seed": 4}, "was trained with seed 0, not 4"),
        ({"threshold_rule": "precision=0.5"}, r"was trained with threshold_rule f1, not precision=0\.5"),
        ({"prior_correction": False}, "was trained with prior_correction True, not False"),
        ({"temperature": False}, "was trained with temperature True, not False"),
        ({"seconds_per_step": 0.02}, r"--seconds-per-step 0\.02, but .* says 0\.03; leave the option out"),
        ({"overwrite": True}, "--resume goes on with what --overwrite would replace"),
        ({"solver": "lbfgs"}, "has no epochs; leave out --resume"),
    ],
)
def test_only_the_same_finetuning_is_resumed(earlier: FinetuneOptions, change: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(replace(earlier, resume=True, epochs=9, **change))


def test_a_state_that_cannot_be_resumed_is_named(earlier: FinetuneOptions) -> None:
    (earlier.output / "training_state.npz").write_bytes(b"PK damaged")
    with pytest.raises(OptionError, match=r"training_state\.npz cannot be read"):
        finetune(replace(earlier, resume=True))
    (earlier.output / "training_state.npz").unlink()
    with pytest.raises(OptionError, match="does not exist, so there is nothing to go on with"):
        finetune(replace(earlier, resume=True))


def test_patience_stops_and_keeps_the_best_epoch(options: FinetuneOptions) -> None:
    result = finetune(replace(options, epochs=40, lr=0.5, patience=2))
    scores = [record.validation_auroc for record in result.epochs]
    assert len(scores) < 40
    assert result.best_epoch == len(scores) - 2 == 1 + int(np.argmax(scores))
    assert result.checkpoint.name == f"policy_finetune_epoch-{result.best_epoch}.pt"
    assert result.after == load_checkpoint(result.checkpoint).calibration.metrics
    found = json.loads(result.metrics_path.read_text())
    assert found["threshold"]["logit"] == result.epochs[result.best_epoch - 1].threshold_logit


@pytest.mark.parametrize("change", [{}, {"solver": "lbfgs", "epochs": None, "lr": None}])
def test_streamed_rows_give_the_same_head(
    options: FinetuneOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict
) -> None:
    other = tmp_path / "features2.h5"
    shutil.copy(options.feature_files, other)
    renumber(other, 10_000)
    both = replace(options, feature_files=(options.feature_files, other), **change)
    loaded = finetune(replace(both, output=tmp_path / "loaded"))
    monkeypatch.setattr(blocks_module, "_room", lambda memory: 800 * 193 * 4)
    streamed = finetune(replace(both, output=tmp_path / "streamed"))
    for result, expected in ((loaded, False), (streamed, True)):
        assert json.loads(result.metrics_path.read_text())["dataset"]["streamed"] is expected
    assert torch.equal(head_of(streamed.checkpoint), head_of(loaded.checkpoint))
    assert streamed.after == loaded.after


def renumber(path: Path, tracks: int) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        for name in ("track_id", "heldout/track_id"):
            file[name][...] = file[name][()] + tracks


@pytest.mark.parametrize("pattern", [True, False])
def test_several_files_are_used_as_one(options: FinetuneOptions, tmp_path: Path, pattern: bool) -> None:
    other = tmp_path / "features2.h5"
    shutil.copy(options.feature_files, other)
    renumber(other, 10_000)
    given = (tmp_path / "feat*.h5",) if pattern else (options.feature_files, other)
    result = finetune(replace(options, feature_files=given, epochs=1))
    found = json.loads(result.metrics_path.read_text())
    assert found["dataset"]["training_rows"] == 2400
    assert found["judged_on"]["test"]["rows"] == 800
    assert found["dataset"]["path"] == f"{options.feature_files}, {other}"
    # Episode numbers repeat; whole episodes do not grow together.
    assert result.after["event_hit_rate"] <= 1


def set_attribute(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs.pop("layout_sha256", None)
        file.attrs[name] = value


def test_files_of_a_task_of_ones_own_go_together(options: FinetuneOptions, tmp_path: Path, caplog) -> None:
    """Their labels speak of no distance, and their environments name no tracks."""
    other = tmp_path / "other.h5"
    shutil.copy(options.feature_files, other)
    for path in (options.feature_files, other):
        set_attribute(path, "label_threshold_m", np.nan)
        set_attribute(path, "env_config", json.dumps({"task": "hopper:make"}))
        with h5py.File(path, "r+") as file:
            for name in ("track_id", "heldout/track_id"):
                file[name][...] = -1
    set_attribute(other, "seed", 1)
    result = finetune(replace(options, feature_files=(options.feature_files, other), epochs=1))
    found = json.loads(result.metrics_path.read_text())
    assert found["dataset"]["training_rows"] == 2400
    assert found["judged_on"]["source"] == "held-out episodes, from groups that are not known"
    assert "figures may flatter" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: None, "holds the same as .*features.h5; give each file once"),
        (lambda path: set_attribute(path, "seed", 1), "track 0|for training here"),
        (lambda path: renumber(path, 1000), "so figures would flatter"),
        (lambda path: set_attribute(path, "label_rule", "far"), "use files of one rule"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    options: FinetuneOptions, tmp_path: Path, change: Callable, message: str
) -> None:
    other = tmp_path / "other.h5"
    shutil.copy(options.feature_files, other)
    change(other)
    if "track 0" in message:
        with h5py.File(other, "r+") as file:
            file.attrs.pop("layout_sha256", None)
            file["heldout/is_test"][...] = ~file["heldout/is_test"][()]
        message = "is for .* here and for .* in"
    with pytest.raises(DatasetError, match=message):
        finetune(replace(options, feature_files=(options.feature_files, other)))


def test_a_pattern_that_matches_nothing_is_refused(options: FinetuneOptions, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nothing-\*\.h5 matches no file"):
        finetune(replace(options, feature_files=tmp_path / "nothing-*.h5"))


@pytest.mark.drawn
def test_the_optimum_comes_with_its_certificate(options: FinetuneOptions) -> None:
    result = finetune(replace(options, solver="lbfgs", epochs=None, lr=None))
    found = json.loads(result.metrics_path.read_text())
    assert found["certificate"]["gap"] == result.certificate.gap < 1e-3
    assert result.epochs[0].training_loss == result.certificate.loss
    assert [p.name for p in result.output.glob("policy_*")] == ["policy_finetune_epoch-1.pt"]
    assert result.after["auroc"] > 0.9
    assert found["losses"][-1] == pytest.approx(result.certificate.loss, abs=1e-6)
    assert found["losses"][-1] < found["losses"][0]
    pictures = sorted((result.output / "plots").glob("*.png"))
    assert len(pictures) == 5
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 500
    assert f"lbfgs, loss {result.certificate.loss:.6f}" in (result.output / "report.html").read_text()
    assert {"batch_size", "lr"}.isdisjoint(load_checkpoint(result.checkpoint).calibration.training)
    adam = finetune(replace(options, output=options.output / "adam", epochs=3))
    assert adam.epochs[-1].training_loss > result.certificate.lower_bound


@pytest.mark.parametrize(
    ("change", "rows", "streamed", "solver", "reason"),
    [
        ({}, 4_000, False, "lbfgs", "4,000 training rows are at most 100,000"),
        ({}, 100_001, False, "adam", "100,001 training rows are more than 100,000"),
        ({}, 4_000, True, "adam", "do not fit into memory"),
        ({"epochs": 5}, 4_000, False, "adam", "--epochs is given"),
        ({"batch_size": 256}, 4_000, False, "adam", "--batch-size is given"),
        ({"patience": 3}, 4_000, False, "adam", "--patience is given"),
        ({"resume": True}, 4_000, False, "adam", "--resume is given"),
        ({"device": "cuda"}, 4_000, False, "adam", "--device is given"),
        ({"masterracing_compatible": True}, 4_000, False, "adam", "--masterracing-compatible is given"),
        ({"epochs": 5, "compare": True}, 4_000, False, "adam", "--epochs is given"),
        ({"compare": True}, 4_000, False, "lbfgs", "at most"),
        ({"solver": "adam"}, 4_000, False, "adam", "--solver adam is given"),
        ({"solver": "lbfgs"}, 10**7, True, "lbfgs", "--solver lbfgs is given"),
    ],
)
def test_the_solver_is_chosen_by_the_number_of_rows(
    change: dict, rows: int, streamed: bool, solver: str, reason: str
) -> None:
    chosen, why = FinetuneOptions(Path("f.h5"), Path("p.pt"), Path("out"), **change).choose_solver(rows, streamed)
    assert chosen == solver
    assert reason in why


def test_the_chosen_solver_is_told_and_recorded(options: FinetuneOptions, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = finetune(replace(options, epochs=None, lr=None))
    assert "solver lbfgs: 1,200 training rows are at most 100,000" in caplog.text
    assert result.certificate.converged
    assert json.loads(result.metrics_path.read_text())["options"]["solver"] == "lbfgs"


def test_adam_that_has_not_levelled_out_says_how_to_go_on(
    options: FinetuneOptions, caplog: pytest.LogCaptureFixture
) -> None:
    result = finetune(replace(options, lr=1e-3, epochs=2, norm="l2", prior_correction=False))
    losses = [record.training_loss for record in result.epochs]
    fall = 100 * (1 - losses[1] / losses[0])
    assert fall > 1
    message = next(record.getMessage() for record in caplog.records if "levelled out" in record.getMessage())
    command = (
        f"deploy-kit finetune --feature-file {options.feature_files} --checkpoint {options.checkpoint} "
        f"--output {options.output} --epochs 8 --lr 0.001 --norm l2 --solver adam "
        "--no-prior-correction --resume"
    )
    assert message == (
        f"training stopped before it levelled out: the loss still fell by {fall:.1f} % in the last epoch; "
        f"go on with: {command}"
    )
    typed = CliRunner().invoke(finetune_command, shlex.split(command)[2:])
    assert typed.exit_code == 0, typed.output
    assert len(json.loads(result.metrics_path.read_text())["epochs"]) == 8


def test_adam_that_has_levelled_out_says_nothing(options: FinetuneOptions, caplog: pytest.LogCaptureFixture) -> None:
    result = finetune(replace(options, lr=1e-6, epochs=3))
    losses = [record.training_loss for record in result.epochs]
    assert losses[-1] > 0.99 * losses[-2]
    assert "levelled out" not in caplog.text


def test_what_is_known_of_the_head_before_is_told(earlier: FinetuneOptions, result: FinetuneResult) -> None:
    assert json.loads(result.metrics_path.read_text())["policy"]["gate_head"] == result.gate_head_before
    assert result.gate_head_before == "not known whether it was trained: the file has no record of it"
    again = finetune(replace(earlier, checkpoint=earlier.output / LAST, output=earlier.output / "again", epochs=1))
    assert again.gate_head_before == "finetuned by deploy-kit"


@pytest.mark.drawn
def test_the_comparison_stands_in_metrics_and_report(options: FinetuneOptions) -> None:
    result = finetune(replace(options, compare=True))
    found = json.loads(result.metrics_path.read_text())["comparison"]
    assert list(found) == [
        "before",
        "majority",
        "MasterRacing",
        "MasterRacing, corrected",
        "after",
    ]
    for figure, key in (("auroc", "auroc"), ("brier", "brier"), ("event_hit_rate", "event_hit_rate")):
        entry = found["after"]["clean"][figure]
        assert entry["value"] == pytest.approx(result.after[key], abs=1e-9)
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert found["after"]["worst_case"]["auroc"]["value"] == pytest.approx(result.after["auroc_worst_case"], abs=1e-9)
    assert found["MasterRacing"]["clean"]["auroc"] == found["MasterRacing, corrected"]["clean"]["auroc"]
    page = (result.output / "report.html").read_text()
    assert f"<small>[{found['after']['clean']['auroc']['low']:.3f}" in page
    for name in found:
        assert f'<th scope="row">{name}</th>' in page
    after = result.after
    verdict = f"AUROC on the test rows: {result.before['auroc']:.3f} before, {after['auroc']:.3f} after."
    assert f"finds {after['event_hit_rate']:.0%} of the passages, with " in page
    assert f"with {after['event_false_alarms_per_minute']:.1f} false alarms a minute" in page
    assert page.index(verdict) < page.index("<img") < page.rindex("<img") < page.index("<table")
    assert "these figures flatter" not in page.lower()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(pictures) == 5
    for picture in pictures:
        with Image.open(BytesIO(b64decode(picture))) as image:
            assert image.width > 500


def test_the_origins_cut_gives_another_head(options: FinetuneOptions, result: FinetuneResult) -> None:
    other = finetune(replace(options, masterracing_compatible=True, epochs=1))
    assert load_checkpoint(other.checkpoint).calibration.training["unit_interval"] is True
    ours = head_of(result.output / "policy_finetune_epoch-1.pt")
    assert (ours - head_of(other.checkpoint)).abs().max() > 1e-3


def test_a_rule_that_cannot_be_kept_fails_after_everything_is_written(options: FinetuneOptions) -> None:
    with pytest.raises(CheckFailedError, match=r"precision=1 cannot be kept .* has the detector of best F1"):
        finetune(replace(options, threshold_rule="precision=1", lr=1e-6, epochs=1))
    calibration = load_checkpoint(options.output / "policy_finetune_epoch-1.pt").calibration
    assert calibration.rule == "best F1 on validation episodes"
    page = (options.output / "report.html").read_text()
    assert "No threshold keeps precision=1." in page


def test_the_rule_is_kept_and_recorded(options: FinetuneOptions) -> None:
    result = finetune(replace(options, threshold_rule="false-alarms-per-minute=60", lr=0.05))
    calibration = load_checkpoint(result.checkpoint).calibration
    assert calibration.rule == "at most 60 false alarms a minute on validation episodes"
    assert result.epochs[-1].rule_kept
