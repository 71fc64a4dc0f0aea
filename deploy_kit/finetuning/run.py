"""Finetuning: train the gate head on feature files, choose its threshold, say how good it is."""

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from deploy_kit import __version__
from deploy_kit.arrays import FloatArray, sigmoid
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.errors import CheckFailedError, CheckpointError, OptionError
from deploy_kit.finetuning.comparison import Comparison, compare_heads, evaluate_under_attack
from deploy_kit.finetuning.learners.attack import Attack
from deploy_kit.finetuning.learners.closed_form import ClosedFormLearner, Learner
from deploy_kit.finetuning.learners.cuda import DeviceLearner, DeviceRows
from deploy_kit.finetuning.learners.iterated import IteratedLearner
from deploy_kit.finetuning.learners.lbfgs import Certificate, solve
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.finetuning.output import (
    CHECKPOINT_STEM,
    METRICS_NAME,
    PLOTS_NAME,
    REPORT_NAME,
    TENSORBOARD_NAME,
    EpochProgress,
    EpochRecord,
    TrainingState,
    earlier_results,
    remove,
    write_metrics,
)
from deploy_kit.finetuning.report.page import write_report
from deploy_kit.finetuning.report.plots import HeadScores, write_plots
from deploy_kit.finetuning.rows import FinetuneRows, load_rows
from deploy_kit.gate.correction import Correction, fit_temperature
from deploy_kit.gate.metrics import auroc, average_precision, best_f1_threshold, mean_loss
from deploy_kit.gate.threshold import RuleNotKeptError, ThresholdRule
from deploy_kit.policy.checkpoint import Checkpoint, CheckpointFormat, GateCalibration, load_checkpoint, save_checkpoint
from deploy_kit.progress import Progress, silent

__all__ = ["FinetuneOptions", "FinetuneResult", "finetune"]

logger = logging.getLogger(__name__)

BLOCK_ROWS = 4096
"""Rows that are shuffled together and handed to the learner, in whole batches."""


@dataclass
class FinetuneResult:
    """What finetuning wrote.

    Attributes:
        save_path: the folder.
        checkpoint: of the last finished epoch, or of the best one with `patience`.
        metrics_path: metrics.json.
        before: figures on the test rows before training, as in metrics.json.
        after: the same for `checkpoint`.
        epochs: all finished epochs.
        best_epoch: the epoch with the highest validation AUROC.
        interrupted: whether Ctrl-C ended the training early.
        comparison: the heads side by side on the test rows, clean and attacked.
        certificate: of the optimum, with `solver` "lbfgs".
    """

    save_path: Path
    checkpoint: Path
    metrics_path: Path
    before: dict[str, float]
    after: dict[str, float]
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    interrupted: bool = False
    comparison: Comparison = field(default_factory=dict)
    certificate: Certificate | None = None


def finetune(options: FinetuneOptions, progress: Callable[[Progress], None] = silent) -> FinetuneResult:
    """Train the gate head of a checkpoint on feature files; every other tensor stays as it is.

    Each epoch writes a checkpoint with its threshold and an updated metrics.json, so that Ctrl-C loses at most the
    epoch it falls into, and `resume` goes on from there.

    Args:
        options: what to train on and how.
        progress: called several times a second.

    Raises:
        OptionError: an option makes no sense, the folder holds earlier results, or the loss diverged.
        CheckpointError: the checkpoint cannot be read or has no gate head, or the folder cannot be written.
        DatasetError: a feature file cannot be read, is another policy's, or lacks rows of a class.
        CheckFailedError: no threshold keeps the rule in the end; everything is written, with the one of best F1.
    """
    options.check()
    earlier = earlier_results(options.save_path, options.policy_path, options.overwrite or options.resume)
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
    with ExitStack() as stack:
        files = [stack.enter_context(open_feature_file(path)) for path in options.paths()]
        for file in files:
            file.require_policy(source.network)
        progress(Progress("reading rows", 0, None))
        rows = load_rows(files, options.seed, options.memory, options.seconds_per_step)
        return _Run(options, source, files, rows).train(earlier, progress)


class _Run:
    """One finetuning: the head being trained, and what is known of it so far."""

    def __init__(
        self, options: FinetuneOptions, source: Checkpoint, files: list[FeatureFile], rows: FinetuneRows
    ) -> None:
        head = source.network.aux_decoder
        assert head is not None
        self.options, self.source, self.rows = options, source, rows
        self.info = files[0].attrs
        self.dataset = _dataset(files, rows)
        self.untrained: FloatArray = torch.cat([head.weight[0], head.bias]).numpy()
        self.start = _as_trained(source, self.untrained)
        on_device = torch.device(options.device).type != "cpu" and not rows.train.streamed
        self.device_rows = DeviceRows(rows.train.loaded, options.device) if on_device else None
        self.state = TrainingState(options, source.sha256, str(self.dataset["sha256"]))
        self.certificate: Certificate | None = None
        self.epochs: list[EpochRecord] = []
        # By epoch: the head as saved, and its figures on the test rows.
        self.heads: dict[int, FloatArray] = {}
        self.figures: dict[int, dict[str, float]] = {}
        self.corrections: dict[int, Correction | None] = {}
        self.before_threshold, _ = self._threshold(self.untrained)
        self.before = self._figures(self.untrained, self.before_threshold)

    def train(self, earlier: list[Path], progress: Callable[[Progress], None]) -> FinetuneResult:
        """Train, writing results after each epoch, then compare and draw."""
        from torch.utils.tensorboard import SummaryWriter

        options = self.options
        interrupted = False
        with ExitStack() as stack:
            try:
                steps = self._optimum(progress) if options.solver == "lbfgs" else self._adam(progress)
                for number, (vector, loss, speed) in enumerate(steps):
                    if number == 0:
                        if not options.resume:
                            # Only now is there something to put in the place of an earlier finetuning's results.
                            remove(earlier)
                        board = stack.enter_context(SummaryWriter(str(options.save_path / TENSORBOARD_NAME)))
                    self._finish_epoch(len(self.epochs) + 1, vector, loss, speed)
                    self._log(board)
                    if self._out_of_patience():
                        break
            except KeyboardInterrupt:
                if not self.epochs:
                    raise
                interrupted = True
        return self._conclude(interrupted, progress)

    def _adam(self, progress: Callable[[Progress], None]) -> Iterator[tuple[FloatArray, float, float]]:
        """Yield the head, its training loss and the speed after each epoch."""
        options, rows = self.options, self.rows.train
        learner = self._learner(options.attack)
        if options.resume:
            self._restore(learner)
            if self._out_of_patience():
                return
        for epoch in range(len(self.epochs) + 1, options.epochs + 1):
            reporter = EpochProgress(progress, epoch, options.epochs, rows.rows, self._note())
            loss = self._epoch(learner, epoch, reporter)
            yield learner.vector.copy(), loss, reporter.speed(rows.rows)
            self.state.save(epoch, learner.state())

    def _epoch(self, learner: Learner, epoch: int, progress: Callable[[int], None]) -> float:
        rows = self.device_rows or self.rows.train
        return train_epoch(learner, rows.shuffled((self.options.seed, epoch), _block_rows(self.options)), progress)

    def _optimum(self, progress: Callable[[Progress], None]) -> Iterator[tuple[FloatArray, float, float]]:
        reporter = EpochProgress(progress, 1, 1, 0, "passes over the rows")
        vector, self.certificate = solve(self.rows.train, self.start, self.options.attack, reporter)
        yield vector, self.certificate.loss, reporter.speed(self.rows.train.rows * self.certificate.iterations)

    def _learner(self, attack: Attack) -> Learner:
        options = self.options
        if attack.unit_interval:
            return IteratedLearner(self.start, attack, options.batch_size, options.lr, options.device)
        if torch.device(options.device).type != "cpu":
            return DeviceLearner(
                self.start, attack, options.batch_size, options.lr, options.device, _block_rows(options)
            )
        return ClosedFormLearner(self.start, attack, options.batch_size, options.lr)

    def _restore(self, learner: Learner) -> None:
        epoch, state = self.state.load()
        learner.restore(state)
        for record in self.state.records()[:epoch]:
            path = self.options.save_path / record.checkpoint
            checkpoint = load_checkpoint(path)
            head, calibration = checkpoint.network.aux_decoder, checkpoint.calibration
            assert head is not None
            if calibration is None:
                raise CheckpointError(f"{path} has no calibration, so it is no epoch to resume from; use --overwrite")
            self.heads[record.epoch] = torch.cat([head.weight[0], head.bias]).numpy()
            self.figures[record.epoch] = calibration.metrics
            self.corrections[record.epoch] = Correction.from_json(calibration.training.get("correction"))
            self.epochs.append(record)

    def _finish_epoch(self, epoch: int, vector: FloatArray, loss: float, rows_per_second: float) -> None:
        validation = self.rows.validation
        correction = self.corrections[epoch] = self._fit_correction(vector)
        head = vector if correction is None else correction.apply(vector)
        if not np.isfinite(head).all():
            raise OptionError("the gate head is not finite any more; lower --lr")
        logit = validation.score(head)
        threshold, rule_kept = self._threshold(head)
        suffix = "safetensors" if self.source.format is CheckpointFormat.SAFETENSORS else "pt"
        record = EpochRecord(
            epoch=epoch,
            checkpoint=f"{CHECKPOINT_STEM}{epoch}.{suffix}",
            training_loss=loss,
            validation_loss=mean_loss(logit, validation.label),
            validation_auroc=auroc(logit, validation.label),
            validation_average_precision=average_precision(logit, validation.label),
            threshold_logit=threshold,
            rows_per_second=rows_per_second,
            rule_kept=rule_kept,
        )
        found = self._figures(head, record.threshold_logit)
        network = copy.deepcopy(self.source.network)
        assert network.aux_decoder is not None
        network.aux_decoder.weight.copy_(torch.from_numpy(head[None, :-1]))
        network.aux_decoder.bias.copy_(torch.from_numpy(head[-1:]))
        save_checkpoint(
            self.options.save_path / record.checkpoint, self.source, network, self._calibration(record, found)
        )
        self.epochs.append(record)
        self.heads[epoch], self.figures[epoch] = head, found
        self._write_metrics({})

    def _fit_correction(self, vector: FloatArray) -> Correction | None:
        """Fit what makes the probability right; it needs to know how often flight passes a gate."""
        options, rows = self.options, self.rows
        training = rows.training_prior
        flight = rows.flight_prior if options.prior_correction else training
        if flight is None:
            logger.warning(
                "the files do not tell how many steps of a flight are passes: probabilities are not corrected"
            )
            return None
        if not (options.prior_correction or options.temperature):
            return None
        temperature = 1.0
        if options.temperature:
            temperature = fit_temperature(rows.validation.score(vector), rows.validation.label, training, flight)
        return Correction(temperature, training, flight)

    def _threshold(self, head: FloatArray) -> tuple[float, bool]:
        """Return the threshold and whether it keeps the rule; that of best F1 where none does."""
        rows = self.rows.validation
        logit = rows.score(head)
        try:
            return self.options.rule.choose(logit, rows.label, rows.timeline, self.options.seconds_per_step), True
        except RuleNotKeptError:
            return best_f1_threshold(logit, rows.label), False

    def _figures(self, head: FloatArray, threshold: float) -> dict[str, float]:
        return evaluate_under_attack(head, self.rows.test, threshold, self._judging_attack())

    def _judging_attack(self) -> Attack:
        return replace(self.options.attack, unit_interval=False)

    def _out_of_patience(self) -> bool:
        patience = self.options.patience
        return bool(patience and self.epochs and len(self.epochs) - self._best_epoch() >= patience)

    def _best_epoch(self) -> int:
        return max(self.epochs, key=lambda record: record.validation_auroc).epoch

    def _kept(self) -> EpochRecord:
        """Return the epoch that the results are of."""
        return self.epochs[self._best_epoch() - 1 if self.options.patience else -1]

    def _rule(self, record: EpochRecord) -> str:
        rule = str(self.options.rule if record.rule_kept else ThresholdRule())
        on = "validation episodes" if self.rows.natural_prevalence else f"{self.rows.source}, not at natural prevalence"
        return f"{rule} on {on}"

    def _calibration(self, record: EpochRecord, found: dict[str, float]) -> GateCalibration:
        options = self.options
        return GateCalibration(
            threshold_logit=record.threshold_logit,
            rule=self._rule(record),
            base_rate=float(self.rows.validation.label.mean()),
            # Files of the origin do not say; they pair an observation with the label of the step it led to.
            label_rule="not recorded in the feature file" if self.info is None else self.info.label_rule,
            label_offset_steps=1 if self.info is None else self.info.label_offset_steps,
            dataset_sha256=str(self.dataset["sha256"]),
            metrics=found,
            tool_version=__version__,
            training={
                "policy_sha256": self.source.sha256,
                "epoch": record.epoch,
                "rows": self.rows.train.rows,
                "solver": options.solver,
                **{name: getattr(options, name) for name in ("batch_size", "lr", "seed")},
                **asdict(options.attack),
                "correction": _json(self.corrections[record.epoch]),
            },
        )

    def _conclude(self, interrupted: bool, progress: Callable[[Progress], None]) -> FinetuneResult:
        options = self.options
        kept = self._kept()
        heads = {"untrained": (self.untrained, self.before_threshold)}
        if options.compare and not options.origin_compatible:
            heads |= self._origin_heads(progress)
        heads["ours" if not options.origin_compatible else "origin-compatible"] = (
            self.heads[kept.epoch],
            kept.threshold_logit,
        )
        progress(Progress("judging", 0, None, self._note()))
        prior = self.rows.flight_prior or self.rows.training_prior
        comparison = compare_heads(heads, self.rows.test, self._judging_attack(), prior, options.seed)
        metrics = self._write_metrics(comparison)
        progress(Progress("plots", 0, None, self._note()))
        scores = (
            HeadScores("before", self.rows.test.score(self.untrained), self.before_threshold),
            HeadScores("after", self.rows.test.score(self.heads[kept.epoch]), kept.threshold_logit),
        )
        plots = write_plots(options.save_path / PLOTS_NAME, self.rows.test, scores, self.epochs, self.rows.source)
        write_report(options.save_path / REPORT_NAME, metrics, plots)
        if not kept.rule_kept:
            raise CheckFailedError(
                f"--threshold-rule {options.threshold_rule} cannot be kept on the validation rows; "
                f"{options.save_path / kept.checkpoint} has the threshold of best F1: ask for less, or train longer"
            )
        return FinetuneResult(
            save_path=options.save_path,
            checkpoint=options.save_path / kept.checkpoint,
            metrics_path=options.save_path / METRICS_NAME,
            before=self.before,
            after=self.figures[kept.epoch],
            epochs=self.epochs,
            best_epoch=self._best_epoch(),
            interrupted=interrupted,
            comparison=comparison,
            certificate=self.certificate,
        )

    def _origin_heads(self, progress: Callable[[Progress], None]) -> dict[str, tuple[FloatArray, float]]:
        """Train the origin's way, for the comparison: as it was used, and with our correction and threshold."""
        learner = self._learner(replace(self.options.attack, unit_interval=True))
        count = self.options.epochs
        for epoch in range(1, count + 1):
            reporter = EpochProgress(progress, epoch, count, self.rows.train.rows, "the origin's way, to compare")
            self._epoch(learner, epoch, reporter)
        vector = learner.vector
        correction = self._fit_correction(vector)
        corrected = vector if correction is None else correction.apply(vector)
        return {
            # The origin decided where the probability exceeded one half.
            "origin-compatible": (vector, 0.0),
            "origin-compatible, corrected": (corrected, self._threshold(corrected)[0]),
        }

    def _write_metrics(self, comparison: Comparison) -> dict[str, Any]:
        kept = self._kept()
        judged = {
            name: {"rows": len(rows.label), "positives": int(rows.label.sum()), "prevalence": float(rows.label.mean())}
            for name, rows in (("validation", self.rows.validation), ("test", self.rows.test))
        }
        content: dict[str, Any] = {
            "policy": {"path": str(self.source.path), "sha256": self.source.sha256},
            "dataset": self.dataset,
            "options": {key: _plain(value) for key, value in asdict(self.options).items()},
            "judged_on": {
                "source": self.rows.source,
                "natural_prevalence": self.rows.natural_prevalence,
                **judged,
            },
            "threshold": {
                "logit": kept.threshold_logit,
                "probability": float(sigmoid(np.array(kept.threshold_logit))),
                "rule": self._rule(kept),
            },
            "correction": _json(self.corrections[kept.epoch]),
            "certificate": _json(self.certificate),
            "before": self.before,
            "after": self.figures[kept.epoch],
            "comparison": comparison,
            "best_epoch": self._best_epoch(),
            "epochs": [asdict(record) for record in self.epochs],
        }
        return write_metrics(self.options.save_path, content)

    def _log(self, board: Any) -> None:
        record = self.epochs[-1]
        found = self.figures[record.epoch]
        for name, value in (
            ("loss/training", record.training_loss),
            ("loss/validation", record.validation_loss),
            ("validation/auroc", record.validation_auroc),
            ("validation/average_precision", record.validation_average_precision),
            ("validation/threshold_logit", record.threshold_logit),
            *((f"test/{name}", found[name]) for name in ("auroc", "auroc_pgd", "precision", "recall")),
        ):
            board.add_scalar(name, value, record.epoch)
        board.flush()

    def _note(self) -> str:
        return f"validation AUROC {self.epochs[-1].validation_auroc:.4f}" if self.epochs else ""


def train_epoch(
    learner: Learner, blocks: Iterator[FloatArray | torch.Tensor], progress: Callable[[int], None]
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


def _block_rows(options: FinetuneOptions) -> int:
    return max(1, BLOCK_ROWS // options.batch_size) * options.batch_size


def _as_trained(source: Checkpoint, vector: FloatArray) -> FloatArray:
    """Return the head to begin with: a head that deploy-kit corrected is taken as it was before that."""
    stored = None if source.calibration is None else source.calibration.training.get("correction")
    correction = Correction.from_json(stored)
    return vector if correction is None else correction.undo(vector)


def _dataset(files: list[FeatureFile], rows: FinetuneRows) -> dict[str, object]:
    hashes = [file.sha256 for file in files]
    return {
        "path": ", ".join(str(file.path) for file in files),
        # Of several files: the hash of their hashes, in their order.
        "sha256": hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "complete": all(file.attrs.complete for file in files if file.attrs) if files[0].attrs else None,
        "training_rows": rows.train.rows,
        "training_positives": rows.train.positives,
        "streamed": rows.train.streamed,
    }


def _json(value: Correction | Certificate | None) -> dict[str, Any] | None:
    return None if value is None else dict(value.to_json())


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
