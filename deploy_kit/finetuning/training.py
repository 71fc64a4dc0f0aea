"""Training of the gate head, epoch by epoch with Adam or at once to the optimum."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from deploy_kit.arrays import FloatArray
from deploy_kit.errors import OptionError
from deploy_kit.finetuning.group import TrainingGroup
from deploy_kit.finetuning.inputs import FinetuneInputs
from deploy_kit.finetuning.learners.attack import Attack
from deploy_kit.finetuning.learners.closed_form import ClosedFormLearner
from deploy_kit.finetuning.learners.cuda import CudaLearner, CudaRows
from deploy_kit.finetuning.learners.group import GroupLearner
from deploy_kit.finetuning.learners.iterated import IteratedLearner
from deploy_kit.finetuning.learners.lbfgs import Optimum, minimise
from deploy_kit.finetuning.learners.protocol import Learner
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.progress import Progress

BLOCK_ROWS = 4096
"""Rows that are shuffled together and handed to the learner, in whole batches."""


class TrainedHead(NamedTuple):
    """What an epoch of training gave.

    Attributes:
        vector: (F + 1,) weights and bias, not corrected.
        loss: mean over the perturbed training rows.
        rows_per_second: speed.
    """

    vector: FloatArray
    loss: float
    rows_per_second: float


class AdamTraining:
    """Training with Adam, an epoch at a time.

    Args:
        options: how.
        inputs: the head to begin with, and the rows.
        attack: what the rows suffer.
        group: processes that share the work; None for this one alone.

    Attributes:
        learner: the head in training.
    """

    def __init__(
        self, options: FinetuneOptions, inputs: FinetuneInputs, attack: Attack, group: TrainingGroup | None = None
    ) -> None:
        self._options, self._train, self._group = options, inputs.rows.train, group
        self._adam = options.adam
        self._block_rows = max(1, BLOCK_ROWS // self._adam.batch_size) * self._adam.batch_size
        on_device = torch.device(options.device).type != "cpu"
        resident = on_device and not self._train.streamed
        self._rows = CudaRows(self._train, options.device) if resident else self._train
        self.learner = self._make_learner(inputs.start, attack, on_device)

    def epoch(self, number: int, progress: Callable[[Progress], None], note: str) -> TrainedHead:
        """Train on all rows once.

        Args:
            number: number of the epoch, from 1; with the seed it gives the order of the rows.
            progress: called ten times a second at most.
            note: passed on.

        Raises:
            OptionError: the loss is not finite.
        """
        reporter = EpochProgress(progress, number, self._adam.epochs, self._train.rows, note)
        blocks = self._rows.shuffled((self._options.seed, number), self._block_rows)
        loss = train_epoch(self.learner, blocks, reporter)
        return TrainedHead(self.learner.vector.copy(), loss, reporter.speed(self._train.rows))

    def _make_learner(self, start: FloatArray, attack: Attack, on_device: bool) -> Learner:
        device, adam = self._options.device, self._adam
        if self._group is not None:
            if attack.unit_interval:
                raise OptionError("--masterracing-compatible trains in one process; start it without torchrun")
            return GroupLearner(start, attack, adam.batch_size, adam.lr, device, self._group)
        if attack.unit_interval:
            return IteratedLearner(start, attack, adam.batch_size, adam.lr, device)
        if on_device:
            return CudaLearner(start, attack, adam.batch_size, adam.lr, device, self._block_rows)
        return ClosedFormLearner(start, attack, adam.batch_size, adam.lr)


def train_to_optimum(
    options: FinetuneOptions,
    inputs: FinetuneInputs,
    progress: Callable[[Progress], None],
    group: TrainingGroup | None = None,
) -> tuple[TrainedHead, Optimum]:
    """Train to the optimum of the robust loss; one call is one epoch."""
    rows = inputs.rows.train
    reporter = EpochProgress(progress, 1, 1, 0, "passes over the rows")
    optimum = minimise(rows, inputs.start, options.attack, reporter, group, inputs.rows.negative_weight)
    certificate = optimum.certificate
    speed = reporter.speed(rows.rows * certificate.iterations)
    return TrainedHead(optimum.vector, certificate.loss, speed), optimum


def train_epoch(
    learner: Learner, blocks: Iterator[FloatArray] | Iterator[torch.Tensor], progress: Callable[[int], None]
) -> float:
    """Train on all blocks of an epoch and return the mean loss on the moved rows.

    Args:
        learner: trained in place.
        blocks: signed rows, in whole batches but for the last.
        progress: called with the number of rows done.

    Raises:
        OptionError: the loss is not finite.
    """
    total, done = 0.0, 0
    with _one_thread():
        for block in blocks:
            total += learner.learn(block)
            done += len(block)
            progress(done)
            if not np.isfinite(total):
                raise OptionError("the training loss is not finite any more; lower --lr")
    return total / done


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on one thread: products of one batch are too short to share, and waiting for each other costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


class EpochProgress:
    """Turns rows done within an epoch into progress over all epochs.

    Args:
        progress: told about it, ten times a second at most.
        epoch: this epoch, from 1.
        epochs: all of them.
        rows: rows of an epoch.
        note: passed on.
    """

    def __init__(self, progress: Callable[[Progress], None], epoch: int, epochs: int, rows: int, note: str) -> None:
        self._progress, self._note = progress, note
        self._epoch, self._epochs, self._rows = epoch, epochs, rows
        self._started, self._reported = time.perf_counter(), 0.0

    def __call__(self, done: int) -> None:
        """Report the number of rows done in this epoch."""
        now = time.perf_counter()
        if now - self._reported < 0.1:
            return
        self._reported = now
        total = self._epochs * self._rows
        self._progress(Progress("finetuning", (self._epoch - 1) * self._rows + done, total, self._note))

    def speed(self, rows: int) -> float:
        """Return rows a second since the epoch began."""
        return rows / (time.perf_counter() - self._started)
