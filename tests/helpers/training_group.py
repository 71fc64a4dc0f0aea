"""What two processes of one training do, to be started by a test."""

import os
from pathlib import Path

import numpy as np
import torch

from deploy_kit.data.blocks import ShuffledRows
from deploy_kit.data.reader import open_feature_file
from deploy_kit.finetuning.group import TrainingGroup
from deploy_kit.finetuning.learners.attack import Attack, Norm
from deploy_kit.finetuning.learners.group import GroupLearner
from deploy_kit.finetuning.learners.lbfgs import RobustLoss
from deploy_kit.ranks import Rank

ATTACK = Attack(3, 0.1, 0.05, Norm.LINF)
BATCH, EPOCHS = 50, 2


def start_vector(size: int) -> np.ndarray:
    """Return the head that training begins with."""
    return np.random.default_rng(0).normal(size=size).astype(np.float32) * 0.1


def train(index: int, feature_file: str, folder: str, port: int) -> None:
    """Train as one of two processes; the results go to the folder."""
    os.environ |= {"RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with open_feature_file(Path(feature_file)) as file, TrainingGroup(Rank(index, 2, index, 2), "cpu") as group:
        rows = ShuffledRows([file.train])
        learner = GroupLearner(start_vector(rows.width), ATTACK, BATCH, 1e-2, "cpu", group)
        losses = [
            sum(learner.learn(block) for block in rows.shuffled((0, epoch), 4 * BATCH)) for epoch in range(EPOCHS)
        ]
        terms = RobustLoss(rows, ATTACK, group).terms(learner.vector.astype(np.float64), 0.3)
        answers = [group.decide(index == 0), group.decide(index == 1)]
        np.savez(
            Path(folder) / f"rank-{index}.npz",
            vector=learner.vector,
            losses=losses,
            terms=[terms.loss, terms.weight, terms.entropy, *terms.weighted_row],
            answers=answers,
        )
