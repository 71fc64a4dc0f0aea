"""Training by several processes gives what one process gives."""

import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy_kit.data.blocks import ShuffledRows
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import OptionError
from deploy_kit.finetuning import helping, run
from deploy_kit.finetuning.group import SHARED_BATCH, TrainingGroup, join_group
from deploy_kit.finetuning.helping import help_train
from deploy_kit.finetuning.inputs import head_vector
from deploy_kit.finetuning.learners.closed_form import ClosedFormLearner
from deploy_kit.finetuning.learners.lbfgs import RobustLoss
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.finetuning.run import finetune
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.ranks import Rank
from helpers import training_group
from helpers.checkpoints import write_racing_run
from helpers.feature_files import write_separable_file
from helpers.networks import make_network


@pytest.mark.slow
def test_two_processes_train_the_head_that_one_process_trains(tmp_path):
    path = write_separable_file(tmp_path / "features.h5", "f" * 64, rows=111)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(training_group.train, (str(path), str(tmp_path), port), nprocs=2)
    found = [np.load(tmp_path / f"rank-{index}.npz") for index in range(2)]
    with open_feature_file(path) as file:
        rows = ShuffledRows([file.train])
        learner = ClosedFormLearner(
            training_group.start_vector(rows.width), training_group.ATTACK, training_group.BATCH, 1e-2
        )
        losses = [
            sum(learner.learn(block) for block in rows.shuffled((0, epoch), 4 * training_group.BATCH))
            for epoch in range(training_group.EPOCHS)
        ]
        terms = RobustLoss(rows, training_group.ATTACK).terms(found[0]["vector"].astype(np.float64), 0.3)
    for results in found:
        # 222 rows in batches of 50: the last batch, of 22, is shared too.
        np.testing.assert_allclose(results["vector"], learner.vector, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(results["losses"], losses, rtol=1e-5)
        expected = [terms.loss, terms.weight, terms.entropy, *terms.weighted_row]
        np.testing.assert_allclose(results["terms"], expected, rtol=1e-12, atol=1e-14)
        assert results["answers"].tolist() == [True, False], "the first process decides"
    np.testing.assert_array_equal(found[0]["vector"], found[1]["vector"])
    assert np.abs(learner.vector - training_group.start_vector(rows.width)).max() > 0.05


@pytest.mark.parametrize(("count", "processes"), [(50, 2), (22, 4), (3, 5), (0, 2)])
def test_shares_are_all_rows_once(count, processes):
    shares = [TrainingGroup(Rank(index, processes, index, processes), "cpu").share(count) for index in range(processes)]
    assert np.concatenate([np.arange(count)[share] for share in shares]).tolist() == list(range(count))


def test_what_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    options = FinetuneOptions(tmp_path / "f.h5", tmp_path / "m.pt")
    assert join_group(options) == (options, None)
    with pytest.raises(OptionError, match="nobody to help"):
        help_train(options)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="in one process"):
        join_group(replace(options, compare=True))


class Group:
    """Stands for two processes: remembers what is decided, and whether the group was left before the training."""

    def __init__(self):
        self.rank, self.answers, self.left = Rank(0, 2, 0, 2), [], False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left = True

    def decide(self, answer):
        assert not self.left
        self.answers.append(answer)
        return answer

    def share(self, count):
        assert not self.left
        return slice(None)

    def add(self, values):
        """Add what the other process does not have."""
        assert not self.left


def test_small_batches_are_trained_by_the_first_process_alone(tmp_path, monkeypatch, caplog):
    network = make_network()
    file = write_separable_file(tmp_path / "features.h5", feature_sha256(network), rows=111)
    source = write_racing_run(tmp_path / "run", network)
    options = FinetuneOptions(file, source, tmp_path / "alone", solver="adam", epochs=1)
    finetune(options)
    heads = {}
    for name, batch_size in (("small", 256), ("large", SHARED_BATCH)):
        group = Group()
        monkeypatch.setattr(run, "join_group", lambda options, group=group: (options, group))
        monkeypatch.setattr(helping, "join_group", lambda options, group=group: (options, group))
        caplog.clear()
        result = finetune(replace(options, output=tmp_path / name, batch_size=batch_size))
        heads[name] = head_vector(load_checkpoint(result.checkpoint).network)
        # Whether the solver is L-BFGS; then, where they train together, whether there is another epoch.
        assert group.answers == ([False] if name == "small" else [False, True, False])
        assert ("trains alone" in caplog.text) == (name == "small")
        other = Group()
        monkeypatch.setattr(helping, "join_group", lambda options, group=other: (options, group))
        helping.help_train(replace(options, output=tmp_path / f"{name}-2", batch_size=batch_size))
        assert other.answers == ([False] if name == "small" else [False, False])
    alone = head_vector(load_checkpoint(tmp_path / "alone" / "policy_finetune_epoch-1.pt").network)
    np.testing.assert_array_equal(heads["small"], alone)
    # There are fewer rows than a batch has, so both are the same training.
    np.testing.assert_allclose(heads["large"], alone, rtol=1e-4, atol=1e-6)
