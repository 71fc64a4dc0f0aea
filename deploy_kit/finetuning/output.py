"""What finetuning leaves in its folder, and what it tells on the way."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit import __version__
from deploy_kit.data.schema import utc_now
from deploy_kit.errors import OptionError
from deploy_kit.files import replace_file
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.progress import Progress

CHECKPOINT_STEM = "policy_finetune_epoch-"
METRICS_NAME = "metrics.json"
METRICS_VERSION = 2
TENSORBOARD_NAME = "tensorboard"
PLOTS_NAME = "plots"
REPORT_NAME = "report.html"
STATE_NAME = "training_state.npz"


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
        threshold_logit: chosen on the validation rows.
        rows_per_second: training speed.
        rule_kept: whether the threshold keeps the rule; if no threshold does, it is that of best F1.
    """

    epoch: int
    checkpoint: str
    training_loss: float
    validation_loss: float
    validation_auroc: float
    validation_average_precision: float
    threshold_logit: float
    rows_per_second: float
    rule_kept: bool = True


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
    names = (METRICS_NAME, TENSORBOARD_NAME, PLOTS_NAME, REPORT_NAME, STATE_NAME)
    found = sorted([*folder.glob(f"{CHECKPOINT_STEM}*"), *(folder / n for n in names if (folder / n).exists())])
    if found and not overwrite:
        raise OptionError(
            f"--save_path {folder} holds the results of an earlier finetuning ({found[0].name}); "
            "give another folder, --overwrite to replace them, or --resume to go on"
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


def write_metrics(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write metrics.json and return what stands in it."""
    whole = {
        "schema_version": METRICS_VERSION,
        "tool_version": __version__,
        "created_utc": utc_now(),
        **content,
    }
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    replace_file(folder / METRICS_NAME, lambda path: path.write_text(text))
    return whole


_SAME = ("batch_size", "lr", "pgd_steps", "epsilon", "alpha", "norm", "origin_compatible", "solver", "seed", "device")


class TrainingState:
    """Where a finetuning stands, in a file beside its checkpoints, so that it can be resumed.

    Args:
        options: what is trained and how.
        policy_sha256: of the checkpoint.
        dataset_sha256: of the feature files.
    """

    def __init__(self, options: FinetuneOptions, policy_sha256: str, dataset_sha256: str) -> None:
        self._folder = options.save_path
        self._origin = {"policy": policy_sha256, "dataset": dataset_sha256}
        self._origin |= {name: str(getattr(options, name)) for name in _SAME}

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Store a learner's state after an epoch."""
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in state.items()}
        arrays |= {"epoch": np.array(epoch), "origin": np.array(json.dumps(self._origin))}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        replace_file(self._folder / STATE_NAME, write)

    def load(self) -> tuple[int, dict[str, Any]]:
        """Return the epoch and the learner's state after it.

        Raises:
            OptionError: there is none, it cannot be read, or it is of other options, weights or rows.
        """
        path = self._folder / STATE_NAME
        if not path.exists():
            raise OptionError(f"--resume: {path} does not exist, so there is nothing to go on with; leave --resume out")
        try:
            with np.load(path, allow_pickle=False) as file:
                state: dict[str, Any] = {name: file[name] for name in file.files}
            epoch, origin = int(state.pop("epoch")), json.loads(str(state.pop("origin")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise OptionError(f"--resume: {path} cannot be read ({error}); start again with --overwrite") from error
        for name, value in self._origin.items():
            if origin.get(name) != value:
                raise OptionError(
                    f"--resume: {self._folder} was trained with {name} {origin.get(name)}, not {value}; "
                    "give the same, or start again with --overwrite"
                )
        return epoch, state

    def records(self) -> list[EpochRecord]:
        """Return the finished epochs.

        Raises:
            OptionError: metrics.json cannot be read.
        """
        path = self._folder / METRICS_NAME
        try:
            return [EpochRecord(**record) for record in json.loads(path.read_text())["epochs"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"--resume: {path} cannot be read ({error}); start again with --overwrite") from error


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
