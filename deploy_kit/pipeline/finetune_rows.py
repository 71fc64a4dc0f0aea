"""What finetuning trains on, chooses the threshold on, and is judged on."""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.rows import Rows
from deploy_kit.errors import DatasetError
from deploy_kit.pipeline.gate_head import TrainingRows

logger = logging.getLogger(__name__)

SUBSTITUTE_SHARE = 0.1
"""Share of the training rows that stands in for each held-out part where a file has none."""


@dataclass(frozen=True)
class JudgedRows:
    """Rows that a head is judged on.

    Attributes:
        features: (n, F) float32.
        label: (n,) bool.
    """

    features: Tensor
    label: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FinetuneRows:
    """All rows of one finetuning.

    Attributes:
        train: class-balanced rows.
        validation: the threshold is chosen on these.
        test: figures come from these alone.
        source: where validation and test rows come from, in words.
        natural_prevalence: whether they hold as many positives as flights do.
    """

    train: TrainingRows
    validation: JudgedRows
    test: JudgedRows
    source: str
    natural_prevalence: bool


def load_rows(file: FeatureFile, seed: int, device: torch.device) -> FinetuneRows:
    """Read a feature file's rows.

    A file without held-out episodes gives a tenth of its training rows to validation and another to test, with a
    warning: their figures are at the training rows' class balance and on the same tracks.

    Args:
        file: the feature file.
        seed: of that split.
        device: where the rows go.

    Raises:
        DatasetError: there are no training rows, some part holds one class only, or memory is short.
    """
    if not len(file.train):
        raise DatasetError(
            f"{file.path} holds no training rows; collect with --num-positive and --num-negative above 0"
        )
    _require_both(file, file.train.label, "training rows")
    if file.num_heldout:
        validation, test = (file.heldout(split) for split in ("validation", "test"))
        source, natural = "held-out episodes", True
        train = file.train
    else:
        train, validation, test = _substitute(file, seed)
        source, natural = "a seeded tenth of the training rows", False
        logger.warning(
            "%s has no held-out episodes: threshold and figures come from %d training rows at their class balance, not "
            "at flight's, on tracks the head was trained on; they flatter. Collect with --heldout-episodes",
            file.path,
            len(validation) + len(test),
        )
    for rows, name in ((validation, "validation rows"), (test, "test rows")):
        _require_both(file, rows.label, name)
    label = torch.from_numpy(train.label.astype(np.float32)[:, None]).to(device)
    return FinetuneRows(
        train=TrainingRows(_on_device(train, device), label),
        validation=JudgedRows(_on_device(validation, device), validation.label),
        test=JudgedRows(_on_device(test, device), test.label),
        source=source,
        natural_prevalence=natural,
    )


def _substitute(file: FeatureFile, seed: int) -> tuple[Rows, Rows, Rows]:
    part = np.random.default_rng(seed).random(len(file.train))
    validation, test = part < SUBSTITUTE_SHARE, part >= 1 - SUBSTITUTE_SHARE
    return file.train.select(~validation & ~test), file.train.select(validation), file.train.select(test)


def _require_both(file: FeatureFile, label: npt.NDArray[np.bool_], name: str) -> None:
    if label.all() or not label.any():
        found = f"all {len(label)} {name} have label {int(label[0])}" if len(label) else f"there are no {name}"
        raise DatasetError(f"{file.path}: {found}, and both classes are needed; collect more")


def _on_device(rows: Rows, device: torch.device) -> Tensor:
    return torch.from_numpy(rows.features).to(device)
