"""What finetuning leaves in its folder, and what it tells on the way."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.errors import OptionError
from deploy_kit.progress import Progress

CHECKPOINT_STEM = "policy_finetune_epoch-"
METRICS_NAME = "metrics.json"
METRICS_VERSION = 1
TENSORBOARD_NAME = "tensorboard"
PLOTS_NAME = "plots"


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch.

    Attributes:
        epoch: from 1.
        checkpoint: file name of its checkpoint.
        training_loss: mean over the perturbed training rows.
        validation_loss: mean over the validation rows, at their prevalence.
        validation_auroc: on the validation rows.
        validation_average_precision: on the validation rows.
        threshold_logit: best F1 on the validation rows.
        rows_per_second: training speed.
    """

    epoch: int
    checkpoint: str
    training_loss: float
    validation_loss: float
    validation_auroc: float
    validation_average_precision: float
    threshold_logit: float
    rows_per_second: float


def earlier_results(folder: Path, policy: Path, overwrite: bool) -> list[Path]:
    """Return what an earlier finetuning left in a folder, which is made if need be.

    Args:
        folder: where results go.
        policy: the checkpoint about to be read.
        overwrite: whether earlier results may be replaced.

    Raises:
        OptionError: the folder cannot be written, or it holds earlier results that are to be kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--save_path {folder} cannot be made a folder ({error.strerror}); give another") from error
    if not os.access(folder, os.W_OK):
        raise OptionError(f"--save_path {folder} cannot be written to; give another folder")
    names = (METRICS_NAME, TENSORBOARD_NAME, PLOTS_NAME)
    found = sorted([*folder.glob(f"{CHECKPOINT_STEM}*"), *(folder / n for n in names if (folder / n).exists())])
    if found and not overwrite:
        raise OptionError(
            f"--save_path {folder} holds the results of an earlier finetuning ({found[0].name}); "
            "give another folder, or --overwrite to replace them"
        )
    for path in found:
        if policy.exists() and path.samefile(policy):
            raise OptionError(f"--policy_path {path} would be removed by --overwrite; give another --save_path")
    return found


def remove(paths: list[Path]) -> None:
    """Remove files and folders that `earlier_results` found."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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
