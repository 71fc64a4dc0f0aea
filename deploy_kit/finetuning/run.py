"""Finetuning: train the gate head on feature files, choose its threshold, say how good it is."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import CheckFailedError
from deploy_kit.finetuning.calibrator import CalibratedHead, Calibrator
from deploy_kit.finetuning.command import command_line
from deploy_kit.finetuning.comparison import AFTER, BEFORE, Comparison, DecidingHead, compare_heads
from deploy_kit.finetuning.epoch import Epoch, EpochRecord, best_epoch, kept_epoch, last_fall, out_of_patience
from deploy_kit.finetuning.group import SHARED_BATCH, TrainingGroup, is_shared, join_group
from deploy_kit.finetuning.inputs import FinetuneInputs, load_source, read_inputs
from deploy_kit.finetuning.learners.lbfgs import Certificate, Optimum
from deploy_kit.finetuning.metrics_file import Outcome, write_metrics
from deploy_kit.finetuning.options import LBFGS, FinetuneOptions
from deploy_kit.finetuning.output import (
    PLOTS_NAME,
    REPORT_NAME,
    ResultFolder,
    checkpoint_name,
    earlier_results,
    require_own_params,
)
from deploy_kit.finetuning.report.page import write_report
from deploy_kit.finetuning.report.plots import HeadScores, write_plots
from deploy_kit.finetuning.state import TrainingState
from deploy_kit.finetuning.training import AdamTraining, TrainedHead, train_to_optimum
from deploy_kit.gate.metrics import auroc, average_precision, mean_loss
from deploy_kit.gate.threshold import plain_detector
from deploy_kit.policy.run.directory import METRICS_NAME
from deploy_kit.policy.summary import describe_gate_head
from deploy_kit.progress import Progress, silent

__all__ = ["FinetuneOptions", "FinetuneResult", "finetune"]

logger = logging.getLogger(__name__)

LEVELLED_OUT = 0.01
"""Relative fall of the training loss in an epoch below which training counts as levelled out."""


@dataclass(frozen=True)
class FinetuneResult:
    """What finetuning wrote.

    Attributes:
        output: the folder.
        checkpoint: checkpoint of the last finished epoch, or of the best one with `patience`.
        metrics_path: metrics.json.
        before: figures on the test rows before training, as in metrics.json.
        after: the same for `checkpoint`.
        epochs: all finished epochs.
        best_epoch: the epoch with the highest validation AUROC.
        interrupted: whether Ctrl-C ended the training early.
        comparison: the heads side by side on the test rows, clean and attacked.
        certificate: certificate of the optimum, with the solver "lbfgs".
        gate_head_before: what is known of the gate head's training before this one.
        options: options as they were used, with the solver that was chosen.
    """

    output: Path
    checkpoint: Path
    metrics_path: Path
    before: dict[str, float]
    after: dict[str, float]
    epochs: list[EpochRecord]
    best_epoch: int
    gate_head_before: str
    options: FinetuneOptions
    interrupted: bool = False
    comparison: Comparison = field(default_factory=Comparison)
    certificate: Certificate | None = None


def finetune(options: FinetuneOptions, progress: Callable[[Progress], None] = silent) -> FinetuneResult:
    """Train the gate head of a checkpoint on feature files; every other tensor stays as it is.

    Each epoch writes a checkpoint with its detector and an updated metrics.json, so that Ctrl-C loses at most the
    epoch it falls into, and `resume` goes on from there. In the first of several processes that ``torchrun`` started,
    the others, which call `help_train`, do their share of the work.

    Args:
        options: what to train on and how.
        progress: called several times a second.

    Raises:
        OptionError: an option makes no sense, the folder holds earlier results, or the loss diverged.
        CheckpointError: the checkpoint cannot be read or has no gate head, or the folder cannot be written.
        DatasetError: a feature file cannot be read, is another policy's, or lacks rows of a class.
        CheckFailedError: no detector keeps the rule in the end; everything is written, with the one of best F1.
    """
    options, group = join_group(options)
    options.check()
    earlier = earlier_results(options)
    source = load_source(options)
    require_own_params(options, source)
    with ExitStack() as stack:
        joined = stack.enter_context(ExitStack())
        if group is not None:
            joined.enter_context(group)
        files = [stack.enter_context(open_feature_file(path)) for path in options.paths()]
        progress(Progress("reading rows", 0, None))
        inputs = read_inputs(source, files, options)
        solver, reason = options.choose_solver(inputs.rows.train.rows, inputs.rows.train.streamed)
        if options.solver is None:
            logger.info("solver %s: %s; --solver decides", solver, reason)
        if group is not None:
            group.decide(solver == LBFGS)
            if not is_shared(options, solver):
                logger.warning(
                    "the first of %d processes trains alone: sharing pays from --batch-size %d on, and with "
                    "--solver %s",
                    group.rank.count,
                    SHARED_BATCH,
                    LBFGS,
                )
                joined.close()
                group = None
        options = replace(options, solver=solver)
        run = _Run(options, inputs, [] if options.resume else earlier, group)
        stack.callback(run.folder.close)
        try:
            interrupted = False
            run.train(progress)
        except KeyboardInterrupt:
            if not run.epochs:
                raise
            interrupted = True
        return run.conclude(interrupted, progress)


class _Run:
    """One finetuning: its epochs as they are finished."""

    def __init__(
        self,
        options: FinetuneOptions,
        inputs: FinetuneInputs,
        earlier: Sequence[Path],
        group: TrainingGroup | None = None,
    ) -> None:
        self.options, self.inputs, self.group = options, inputs, group
        self.calibrator = Calibrator(inputs.rows, options)
        self.before = self.calibrator.judge_as_is(inputs.head)
        self.folder = ResultFolder(options, inputs, earlier)
        self.epochs: list[Epoch] = []
        self.optimum: Optimum | None = None

    def train(self, progress: Callable[[Progress], None]) -> None:
        """Train, writing results after each epoch."""
        options = self.options
        if options.solver == LBFGS:
            trained, self.optimum = train_to_optimum(options, self.inputs, progress, self.group)
            self._finish_epoch(trained)
            return
        training = AdamTraining(options, self.inputs, options.attack, self.group)
        state = TrainingState(options, self.inputs)
        if options.resume:
            self.epochs, learned = state.load()
            training.learner.restore(learned)
        while self._goes_on():
            number = len(self.epochs) + 1
            self._finish_epoch(training.epoch(number, progress, self._note()))
            state.save(number, training.learner.state())

    def _goes_on(self) -> bool:
        """Return whether there is another epoch, and tell it to the other processes."""
        options = self.options
        more = len(self.epochs) < options.adam.epochs and not out_of_patience(self.epochs, options.patience)
        return more if self.group is None else self.group.decide(more)

    def _finish_epoch(self, trained: TrainedHead) -> None:
        number, validation = len(self.epochs) + 1, self.inputs.rows.validation
        head = self.calibrator.calibrate(trained.vector)
        logit = validation.score(head.vector)
        record = EpochRecord(
            epoch=number,
            checkpoint=checkpoint_name(number, self.inputs.source),
            training_loss=trained.loss,
            validation_loss=mean_loss(logit, validation.label),
            validation_auroc=auroc(logit, validation.label),
            validation_average_precision=average_precision(logit, validation.label),
            threshold_logit=head.detector.threshold_logit,
            rows_per_second=trained.rows_per_second,
            rule_kept=head.rule_kept,
        )
        epoch = Epoch(record, head)
        with self.folder.replacing_earlier():
            self.folder.write_checkpoint(epoch)
            self.epochs.append(epoch)
            write_metrics(self.options.output / METRICS_NAME, self.options, self.inputs, self._outcome())
        self.folder.log(epoch)

    def conclude(self, interrupted: bool, progress: Callable[[Progress], None]) -> FinetuneResult:
        """Compare heads, draw, and write the report."""
        options, rows = self.options, self.inputs.rows
        kept = kept_epoch(self.epochs, options.patience)
        heads = {BEFORE: _deciding(self.before)}
        if options.compare and not options.masterracing_compatible:
            heads |= self._masterracing_heads(progress)
        heads[AFTER] = _deciding(kept.head)
        progress(Progress("judging", 0, None, self._note()))
        if not interrupted and self.optimum is None:
            self._warn_of_unfinished()
        prior = rows.flight_prior or rows.training_prior
        attack = replace(options.attack, unit_interval=False)
        comparison = compare_heads(heads, rows.test, attack, prior, options.seed)
        metrics_path = options.output / METRICS_NAME
        metrics = write_metrics(metrics_path, options, self.inputs, replace(self._outcome(), comparison=comparison))
        progress(Progress("plots", 0, None, self._note()))
        scores = [
            HeadScores(name, rows.test.score(head.vector), head.detector)
            for name, head in ((BEFORE, self.before), (AFTER, kept.head))
        ]
        records = [epoch.record for epoch in self.epochs]
        plots = write_plots(options.output / PLOTS_NAME, rows.test, scores, records, self.optimum, rows.source)
        write_report(options.output / REPORT_NAME, metrics, plots)
        checkpoint = options.output / kept.record.checkpoint
        if not kept.head.rule_kept:
            raise CheckFailedError(
                f"--threshold-rule {options.threshold_rule} cannot be kept on the validation rows; "
                f"{checkpoint} has the detector of best F1: ask for less, or train longer"
            )
        return FinetuneResult(
            output=options.output,
            checkpoint=checkpoint,
            metrics_path=metrics_path,
            before=self.before.figures,
            after=kept.head.figures,
            epochs=records,
            best_epoch=best_epoch(self.epochs).record.epoch,
            interrupted=interrupted,
            comparison=comparison,
            certificate=None if self.optimum is None else self.optimum.certificate,
            gate_head_before=describe_gate_head(self.inputs.source),
            options=options,
        )

    def _warn_of_unfinished(self) -> None:
        fall = last_fall([epoch.record.training_loss for epoch in self.epochs])
        if fall is None or fall < LEVELLED_OUT or out_of_patience(self.epochs, self.options.patience):
            return
        logger.warning(
            "training stopped before it levelled out: the loss still fell by %.1f %% in the last epoch; go on with: %s",
            100 * fall,
            command_line(self.options, epochs=4 * len(self.epochs), resume=True, overwrite=False),
        )

    def _masterracing_heads(self, progress: Callable[[Progress], None]) -> dict[str, DecidingHead]:
        """Train as MasterRacing does, for the comparison: as it was used, and with our correction and threshold."""
        training = AdamTraining(self.options, self.inputs, replace(self.options.attack, unit_interval=True))
        for number in range(1, self.options.adam.epochs + 1):
            training.epoch(number, progress, "MasterRacing's training, to compare")
        vector, rows = training.learner.vector, self.inputs.rows.test
        return {
            # MasterRacing decided where the probability exceeded one half.
            "MasterRacing": DecidingHead(vector, plain_detector(0.0, rows.seconds_per_step)),
            "MasterRacing, corrected": _deciding(self.calibrator.calibrate(vector)),
        }

    def _outcome(self) -> Outcome:
        return Outcome(self.before, self.epochs, self.optimum)

    def _note(self) -> str:
        return f"validation AUROC {self.epochs[-1].record.validation_auroc:.4f}" if self.epochs else ""


def _deciding(head: CalibratedHead) -> DecidingHead:
    return DecidingHead(head.vector, head.detector)
