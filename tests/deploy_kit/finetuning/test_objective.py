"""Training for passages: which rows are left out, how often the others count, and what refuses it."""

from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import DatasetError, OptionError
from deploy_kit.finetuning import rows as rows_module
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.finetuning.rows import just_before_a_passage, load_rows
from deploy_kit.finetuning.run import finetune
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from helpers.checkpoints import write_racing_run
from helpers.feature_files import write_separable_file
from helpers.networks import make_network

pytestmark = pytest.mark.usefixtures("pictures")


def rows(episode, step, label):
    found = SimpleNamespace(
        episode_id=None if episode is None else np.array(episode, np.int64),
        step=np.array(step, np.int32),
        label=np.array(label, bool),
    )
    return SimpleNamespace(train=found, path="features.h5")


def test_rows_that_lead_to_a_passage_within_the_tolerance_are_found():
    # In the file's order, not by episode: episode 7 passes at steps 9 and 20, episode 8 at step 10.
    file = rows([7, 8, 7, 7, 8, 7, 7, 8, 7], [4, 8, 9, 3, 10, 10, 20, 2, 19], [0, 0, 1, 0, 1, 0, 1, 0, 0])
    assert just_before_a_passage(file, 5).tolist() == [True, True, False, False, False, False, False, False, True]
    assert just_before_a_passage(file, 1).sum() == 1
    assert not just_before_a_passage(rows([1, 1], [3, 4], [1, 0]), 5).any()
    with pytest.raises(DatasetError, match="does not say which episodes"):
        just_before_a_passage(rows(None, [1], [0]), 5)


@pytest.fixture(scope="module")
def policy():
    return make_network()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, policy):
    return write_separable_file(tmp_path_factory.mktemp("rows") / "features.h5", feature_sha256(policy))


def test_rows_count_as_often_as_in_flight(dataset, monkeypatch):
    asked = []

    def every_fifth_negative(file, steps):
        asked.append(steps)
        return ~file.train.label & (np.arange(len(file.train)) % 5 == 0)

    monkeypatch.setattr(rows_module, "just_before_a_passage", every_fifth_negative)
    with open_feature_file(dataset) as file:
        near, whole = every_fifth_negative(file, 0), len(file.train)
        positives = int(file.train.label.sum())
        found = load_rows([file], 0, None, 0.03, for_events=True)
    # The detector's tolerance: 0.15 s of steps of 0.03 s.
    assert asked == [0, 5]
    assert near.sum() > 10
    assert (found.train.rows, found.train.positives) == (whole - near.sum(), positives)
    assert found.training_prior == pytest.approx(found.flight_prior)
    assert found.negative_weight > 1
    with open_feature_file(dataset) as file:
        plain = load_rows([file], 0, None, 0.03)
    assert (plain.train.rows, plain.negative_weight) == (whole, 1.0)


def test_objective_is_trained_for_and_recorded(dataset, policy, tmp_path):
    checkpoint = write_racing_run(tmp_path / "run", policy)
    result = finetune(FinetuneOptions(dataset, checkpoint, tmp_path / "out", objective="events"))
    record = load_checkpoint(result.checkpoint).calibration.training
    assert (record["objective"], record["solver"]) == ("events", "lbfgs")
    assert record["correction"]["training_prior"] == pytest.approx(record["correction"]["flight_prior"])
    assert result.certificate.gap < 1e-2
    assert result.after["auroc"] > 0.9


def test_objective_needs_the_solver_that_weights_rows(dataset, policy, tmp_path):
    checkpoint = write_racing_run(tmp_path / "run", policy)
    with pytest.raises(OptionError, match="--objective events trains with L-BFGS, and --epochs is given"):
        finetune(FinetuneOptions(dataset, checkpoint, tmp_path / "out", objective="events", epochs=2))
    with pytest.raises(OptionError, match="--objective 'passages' is not one of steps, events"):
        finetune(FinetuneOptions(dataset, checkpoint, tmp_path / "out", objective="passages"))
