"""Finetuning: train the gate head on a feature file, choose its threshold, say how good it is."""

import copy
import json
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit import __version__
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.data.schema import utc_now
from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.pipeline.finetune_output import (
    CHECKPOINT_STEM,
    METRICS_NAME,
    METRICS_VERSION,
    PLOTS_NAME,
    TENSORBOARD_NAME,
    EpochProgress,
    EpochRecord,
    earlier_results,
    remove,
)
from deploy_kit.pipeline.finetune_plots import HeadScores, write_plots
from deploy_kit.pipeline.finetune_rows import FinetuneRows, JudgedRows, load_rows
from deploy_kit.pipeline.gate_head import Attack, train_epoch, worst_case_logits
from deploy_kit.pipeline.metrics import (
    auroc,
    average_precision,
    best_f1_threshold,
    gate_metrics,
    mean_loss,
    sigmoid,
)
from deploy_kit.policy.checkpoint import Checkpoint, CheckpointFormat, GateCalibration, load_checkpoint, save_checkpoint
from deploy_kit.policy.files import replace_file
from deploy_kit.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `finetune`.

    Attributes:
        h5_path: feature file, collected with this policy.
        policy_path: checkpoint whose gate head is trained.
        save_path: folder for checkpoints, metrics, plots and logs.
        epochs: passes over the training rows.
        batch_size: rows a step.
        lr: Adam's learning rate.
        pgd_steps: gradient steps of the perturbation, 0 for none.
        epsilon: largest change of a feature.
        alpha: change of a feature in one step.
        seed: of the order of the rows.
        device: torch device.
        overwrite: replace the results of an earlier finetuning in the folder.
        activation: see `load_checkpoint`.
        image_shape: see `load_checkpoint`.
        normalizer_eps: see `load_checkpoint`.
    """

    h5_path: Path
    policy_path: Path
    save_path: Path
    epochs: int = 5
    batch_size: int = 256
    lr: float = 3e-4
    pgd_steps: int = 3
    epsilon: float = 0.1
    alpha: float = 0.01
    seed: int = 0
    device: str = "cpu"
    overwrite: bool = False
    activation: str | None = None
    image_shape: tuple[int, int] | None = None
    normalizer_eps: float | None = None

    def check(self) -> torch.device:
        """Return the device after checking the numbers.

        Raises:
            OptionError: a number makes no sense, or the device is not there.
        """
        for name, low in (("epochs", 1), ("batch_size", 1), ("pgd_steps", 0)):
            if getattr(self, name) < low:
                raise OptionError(f"--{name} {getattr(self, name)} is below {low}")
        for name in ("lr", "alpha", "epsilon"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name == "lr" and value == 0):
                raise OptionError(f"--{name} {value} is not a positive number")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise OptionError(f"--device {self.device} is not available here ({str(error).splitlines()[0]})") from error


@dataclass
class FinetuneResult:
    """What finetuning wrote.

    Attributes:
        save_path: the folder.
        checkpoint: of the last finished epoch.
        metrics_path: metrics.json.
        before: figures on the test rows before training, as in metrics.json.
        after: the same after the last finished epoch.
        epochs: all finished epochs.
        best_epoch: the epoch with the highest validation AUROC.
        interrupted: whether Ctrl-C ended the training early.
    """

    save_path: Path
    checkpoint: Path
    metrics_path: Path
    before: dict[str, float]
    after: dict[str, float]
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    interrupted: bool = False


def finetune(options: FinetuneOptions, progress: Callable[[Progress], None] = silent) -> FinetuneResult:
    """Train the gate head of a checkpoint on a feature file; every other tensor stays as it is.

    Each epoch writes a checkpoint with its threshold and an updated metrics.json, so that Ctrl-C loses at most the
    epoch it falls into.

    Args:
        options: what to train on and how.
        progress: called several times a second.

    Raises:
        OptionError: a number makes no sense, the folder holds earlier results, or the loss diverged.
        CheckpointError: the checkpoint cannot be read or has no gate head, or the folder cannot be written.
        DatasetError: the feature file cannot be read, is another policy's, or lacks rows of a class.
    """
    device = options.check()
    earlier = earlier_results(options.save_path, options.policy_path, options.overwrite)
    source = load_checkpoint(
        options.policy_path,
        activation=options.activation,
        image_shape=options.image_shape,
        normalizer_eps=options.normalizer_eps,
    )
    if source.network.aux_decoder is None:
        raise CheckpointError(
            f"{options.policy_path}: aux_decoder.weight is missing, so this policy was trained without the gate head "
            "and there is none to finetune; train the policy with its auxiliary head"
        )
    with open_feature_file(options.h5_path) as file:
        file.require_policy(source.network)
        progress(Progress("reading rows", 0, None))
        rows = load_rows(file, options.seed, device)
        run = _Run(options, source, file, rows, earlier)
    return run.train(progress)


class _Run:
    """One finetuning: the head being trained, and what is known of it so far."""

    def __init__(
        self,
        options: FinetuneOptions,
        source: Checkpoint,
        file: FeatureFile,
        rows: FinetuneRows,
        earlier: list[Path],
    ) -> None:
        assert source.network.aux_decoder is not None
        self.options = options
        self.earlier = earlier
        self.source = source
        self.rows = rows
        self.info = file.attrs
        self.dataset = {
            "path": str(file.path),
            "sha256": file.sha256,
            "complete": None if file.attrs is None else file.attrs.complete,
            "training_rows": len(rows.train.label),
            "training_positives": int(rows.train.label.sum()),
        }
        self.attack = Attack(options.pgd_steps, options.epsilon, options.alpha)
        self.head = copy.deepcopy(source.network.aux_decoder).to(rows.train.features.device).requires_grad_(True)
        self.epochs: list[EpochRecord] = []
        self.before_scores = self._score(rows.test)
        self.before = self._figures(best_f1_threshold(self._score(rows.validation), rows.validation.label))
        self.after = self.before

    def train(self, progress: Callable[[Progress], None]) -> FinetuneResult:
        """Train all epochs, writing results after each."""
        from torch.utils.tensorboard import SummaryWriter

        options, count = self.options, len(self.rows.train.label)
        optimizer = torch.optim.Adam(self.head.parameters(), lr=options.lr)
        generator = torch.Generator().manual_seed(options.seed)
        interrupted = False
        with ExitStack() as stack:
            try:
                for epoch in range(1, options.epochs + 1):
                    reporter = EpochProgress(progress, epoch, options.epochs, count, self._note())
                    loss = train_epoch(
                        self.head, optimizer, self.rows.train, self.attack, options.batch_size, generator, reporter
                    )
                    if epoch == 1:
                        # Only now is there something to put in the place of an earlier finetuning's results.
                        remove(self.earlier)
                        board = stack.enter_context(SummaryWriter(str(options.save_path / TENSORBOARD_NAME)))
                    self._finish_epoch(epoch, loss, reporter.speed(count))
                    self._log(board)
            except KeyboardInterrupt:
                if not self.epochs:
                    raise
                interrupted = True
        progress(Progress("plots", options.epochs * count, options.epochs * count, self._note()))
        self._plot()
        return FinetuneResult(
            save_path=options.save_path,
            checkpoint=options.save_path / self.epochs[-1].checkpoint,
            metrics_path=options.save_path / METRICS_NAME,
            before=self.before,
            after=self.after,
            epochs=self.epochs,
            best_epoch=self._best_epoch(),
            interrupted=interrupted,
        )

    def _finish_epoch(self, epoch: int, loss: float, rows_per_second: float) -> None:
        validation = self.rows.validation
        logit = self._score(validation)
        suffix = "safetensors" if self.source.format is CheckpointFormat.SAFETENSORS else "pt"
        record = EpochRecord(
            epoch=epoch,
            checkpoint=f"{CHECKPOINT_STEM}{epoch}.{suffix}",
            training_loss=loss,
            validation_loss=mean_loss(logit, validation.label),
            validation_auroc=auroc(logit, validation.label),
            validation_average_precision=average_precision(logit, validation.label),
            threshold_logit=best_f1_threshold(logit, validation.label),
            rows_per_second=rows_per_second,
        )
        figures = self._figures(record.threshold_logit)
        network = copy.deepcopy(self.source.network)
        assert network.aux_decoder is not None
        network.aux_decoder.load_state_dict(self.head.state_dict())
        save_checkpoint(
            self.options.save_path / record.checkpoint, self.source, network, self._calibration(record, figures)
        )
        self.after = figures
        self.epochs.append(record)
        self._write_metrics()

    def _score(self, rows: JudgedRows) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            logit: npt.NDArray[np.float64] = self.head(rows.features)[:, 0].double().cpu().numpy()
        return logit

    def _figures(self, threshold: float) -> dict[str, float]:
        """Return the figures of the head as it is, on the test rows."""
        test = self.rows.test
        logit = self._score(test)
        label = torch.from_numpy(test.label.astype(np.float32)[:, None]).to(test.features.device)
        attacked = JudgedRows(self.attack.perturb(self.head, test.features, label), test.label)
        worst = worst_case_logits(self.head, logit, test.label, self.options.epsilon)
        return {
            **gate_metrics(logit, test.label, threshold).to_json(),
            "auroc_pgd": auroc(self._score(attacked), test.label),
            "auroc_worst_case": auroc(worst, test.label),
        }

    def _rule(self) -> str:
        on = "validation episodes" if self.rows.natural_prevalence else f"{self.rows.source}, not at natural prevalence"
        return f"best F1 on {on}"

    def _calibration(self, record: EpochRecord, figures: dict[str, float]) -> GateCalibration:
        options = self.options
        return GateCalibration(
            threshold_logit=record.threshold_logit,
            rule=self._rule(),
            base_rate=float(self.rows.validation.label.mean()),
            # Files of the origin do not say; they pair an observation with the label of the step it led to.
            label_rule="not recorded in the feature file" if self.info is None else self.info.label_rule,
            label_offset_steps=1 if self.info is None else self.info.label_offset_steps,
            dataset_sha256=str(self.dataset["sha256"]),
            metrics=figures,
            tool_version=__version__,
            training={
                "policy_sha256": self.source.sha256,
                "epoch": record.epoch,
                "rows": len(self.rows.train.label),
                **{name: getattr(options, name) for name in ("batch_size", "lr", "seed")},
                **asdict(self.attack),
            },
        )

    def _write_metrics(self) -> None:
        judged = {
            name: {"rows": len(rows.label), "positives": int(rows.label.sum()), "prevalence": float(rows.label.mean())}
            for name, rows in (("validation", self.rows.validation), ("test", self.rows.test))
        }
        threshold = self.epochs[-1].threshold_logit
        content: dict[str, Any] = {
            "schema_version": METRICS_VERSION,
            "tool_version": __version__,
            "created_utc": utc_now(),
            "policy": {"path": str(self.source.path), "sha256": self.source.sha256},
            "dataset": self.dataset,
            "options": {key: _plain(value) for key, value in asdict(self.options).items()},
            "judged_on": {
                "source": self.rows.source,
                "natural_prevalence": self.rows.natural_prevalence,
                **judged,
            },
            "threshold": {
                "logit": threshold,
                "probability": float(sigmoid(np.array(threshold))),
                "rule": self._rule(),
            },
            "before": self.before,
            "after": self.after,
            "best_epoch": self._best_epoch(),
            "epochs": [asdict(record) for record in self.epochs],
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        replace_file(self.options.save_path / METRICS_NAME, lambda path: path.write_text(text))

    def _best_epoch(self) -> int:
        return max(self.epochs, key=lambda record: record.validation_auroc).epoch

    def _log(self, board: Any) -> None:
        record = self.epochs[-1]
        for name, value in (
            ("loss/training", record.training_loss),
            ("loss/validation", record.validation_loss),
            ("validation/auroc", record.validation_auroc),
            ("validation/average_precision", record.validation_average_precision),
            ("validation/threshold_logit", record.threshold_logit),
            *((f"test/{name}", self.after[name]) for name in ("auroc", "auroc_pgd", "precision", "recall")),
        ):
            board.add_scalar(name, value, record.epoch)
        board.flush()

    def _plot(self) -> None:
        label = self.rows.test.label
        scores = (
            HeadScores("before", self.before_scores, self.before["threshold_logit"]),
            HeadScores("after", self._score(self.rows.test), self.after["threshold_logit"]),
        )
        write_plots(self.options.save_path / PLOTS_NAME, label, scores, self.epochs, self.rows.source)

    def _note(self) -> str:
        return f"validation AUROC {self.epochs[-1].validation_auroc:.4f}" if self.epochs else ""


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
