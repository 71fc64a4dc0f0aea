"""One finished epoch of a finetuning, and what is chosen among several."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_kit.finetuning.calibrator import CalibratedHead


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch, as it stands in metrics.json.

    Attributes:
        epoch: number, from 1.
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


@dataclass(frozen=True)
class Epoch:
    """One finished epoch with its head.

    Attributes:
        record: what metrics.json says of it.
        head: head as saved.
    """

    record: EpochRecord
    head: CalibratedHead


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest validation AUROC, the first of equals."""
    return max(epochs, key=lambda epoch: epoch.record.validation_auroc)


def kept_epoch(epochs: Sequence[Epoch], patience: int | None) -> Epoch:
    """Return the epoch that the results are of: the best one with `patience`, else the last one."""
    return best_epoch(epochs) if patience else epochs[-1]


def out_of_patience(epochs: Sequence[Epoch], patience: int | None) -> bool:
    """Return whether so many epochs have passed without a better validation AUROC."""
    return bool(patience and epochs and len(epochs) - best_epoch(epochs).record.epoch >= patience)


def last_fall(losses: Sequence[float]) -> float | None:
    """Return by which share the loss fell in the last epoch, None where a single epoch does not tell."""
    return 1 - losses[-1] / losses[-2] if len(losses) > 1 else None
