"""Makes a trained head ready to ship: corrects its probability, chooses its threshold, measures it."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from deploy_kit.arrays import FloatArray
from deploy_kit.errors import OptionError
from deploy_kit.finetuning.comparison import evaluate_under_attack
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.finetuning.rows import FinetuneRows
from deploy_kit.gate.correction import Correction, fit_temperature
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.gate.threshold import RuleNotKeptError, ThresholdRule, plain_detector
from deploy_kit.policy.calibration import GateDetector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibratedHead:
    """A head with its threshold.

    Attributes:
        vector: (F + 1,) weights and bias, corrected.
        correction: what was done to the trained weights and bias, None for nothing.
        detector: announces passages.
        rule: how it was chosen, in words.
        rule_kept: whether it keeps the rule that was asked for; if none does, it is that of best F1.
        figures: on the test rows, as in metrics.json.
    """

    vector: FloatArray
    correction: Correction | None
    detector: GateDetector
    rule: str
    rule_kept: bool
    figures: dict[str, float]


class Calibrator:
    """Corrects heads, chooses their thresholds on the validation rows, measures them on the test rows.

    Args:
        rows: all rows of the finetuning.
        options: how.
    """

    def __init__(self, rows: FinetuneRows, options: FinetuneOptions) -> None:
        self._rows, self._options = rows, options
        self._attack = replace(options.attack, unit_interval=False)

    def calibrate(self, trained: FloatArray) -> CalibratedHead:
        """Return a trained head, corrected and judged.

        Args:
            trained: (F + 1,) weights and bias as the training left them.

        Raises:
            OptionError: the head is not finite, or the threshold's rule needs whole episodes.
        """
        correction = self.fit_correction(trained)
        head = trained if correction is None else correction.apply(trained)
        if not np.isfinite(head).all():
            raise OptionError("the gate head is not finite any more; lower --lr")
        return self._judge(head, correction)

    def judge_as_is(self, head: FloatArray) -> CalibratedHead:
        """Return a head (F + 1,) as it is, with a threshold chosen for it; for a new one, of zeros, there is none."""
        if head.any():
            return self._judge(head, None)
        test = self._rows.test
        detector = plain_detector(0.0, test.seconds_per_step)
        figures = evaluate_under_attack(head, test, detector, self._attack)
        return CalibratedHead(head, None, detector, NEW_HEAD, True, figures)

    def fit_correction(self, trained: FloatArray) -> Correction | None:
        """Fit what makes the probability right; it needs to know how often flight passes a gate."""
        options, rows = self._options, self._rows
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
            temperature = fit_temperature(rows.validation.score(trained), rows.validation.label, training, flight)
        return Correction(temperature, training, flight)

    def choose_detector(self, head: FloatArray) -> tuple[GateDetector, bool]:
        """Return the detector and whether it keeps the rule; that of best F1 where none does."""
        return choose_detector(self._options.rule, head, self._rows.validation)

    def _judge(self, head: FloatArray, correction: Correction | None) -> CalibratedHead:
        detector, kept = self.choose_detector(head)
        figures = evaluate_under_attack(head, self._rows.test, detector, self._attack)
        return CalibratedHead(head, correction, detector, self._rule(kept), kept, figures)

    def _rule(self, kept: bool) -> str:
        rule = str(self._options.rule if kept else ThresholdRule())
        rows = self._rows
        return f"{rule} on {VALIDATION if rows.natural_prevalence else f'{rows.source}, {_BALANCED}'}"


def choose_detector(rule: ThresholdRule, head: FloatArray, rows: EvaluationRows) -> tuple[GateDetector, bool]:
    """Return a head's detector on validation rows and whether it keeps the rule; that of best F1 where none does."""
    logit = rows.score(head)
    try:
        return rule.choose(logit, rows.label, rows.timeline, rows.seconds_per_step), True
    except RuleNotKeptError:
        return ThresholdRule().choose(logit, rows.label, rows.timeline, rows.seconds_per_step), False


NEW_HEAD = "none: the head is new and says the same of every step"
"""What stands in place of a rule before a new head is trained."""

VALIDATION = "validation episodes"
"""What a rule is kept on, in words."""


_BALANCED = "not at natural prevalence"
