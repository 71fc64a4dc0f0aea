"""How the gate's detector is chosen on validation rows: its threshold by a rule, the rest by what finds most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import OptionError
from deploy_kit.gate.detector import REFRACTORY_S, TOLERANCE_S, EventCounts, Timeline, steps_of
from deploy_kit.gate.metrics import best_f1_threshold
from deploy_kit.policy.calibration import GateDetector

RELEASE_DROPS = (0.0, 1.0, 2.0, 3.0)
"""How far below the threshold the release may lie, logits. Farther away, some passages pass unreleased."""

UNJUDGED_DROP = 2.0
"""How far below where there are no whole episodes to choose it on; best of the above for the reference policy."""

SLOPE_GAINS = (0.0, 0.5, 1.0)
"""Weights of the logit's rise, over a time as long as the tolerance."""

REFRACTORIES_S = (REFRACTORY_S, 1.5 * REFRACTORY_S, 2 * REFRACTORY_S)
"""Shortest times between two firings that are tried."""

COARSE_CANDIDATES = 48
"""Thresholds that are tried first; as many again are tried between the best one's neighbours."""

_PRECISION, _ALARMS = "precision", "false-alarms-per-minute"


class RuleNotKeptError(OptionError):
    """No detector keeps a rule, for the head as it is."""


@dataclass(frozen=True)
class ThresholdRule:
    """A rule of `--threshold-rule`.

    Attributes:
        kind: "f1", "precision" or "false-alarms-per-minute".
        value: the number after "=", 0 for "f1".
    """

    kind: str = "f1"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``f1``, ``precision=P`` or ``false-alarms-per-minute=R``.

        Raises:
            OptionError: it is none of these.
        """
        kind, equals, number = text.partition("=")
        try:
            value = float(number) if equals else 0.0
        except ValueError:
            value = float("nan")
        fits = {"f1": not equals, _PRECISION: 0 < value <= 1, _ALARMS: bool(equals) and 0 <= value < float("inf")}
        if not fits.get(kind, False):
            raise OptionError(
                f"--threshold-rule {text!r} is not f1, precision=P (0 < P <= 1) or false-alarms-per-minute=R"
            )
        return cls(kind, value)

    def __str__(self) -> str:
        if self.kind == _PRECISION:
            return f"precision of at least {self.value:g}"
        return f"at most {self.value:g} false alarms a minute" if self.kind == _ALARMS else "best F1"

    def choose(
        self,
        logit: npt.NDArray[np.float64],
        label: npt.NDArray[np.bool_],
        timeline: Timeline | None,
        seconds_per_step: float,
    ) -> GateDetector:
        """Return the detector on validation rows; of those that keep the rule, the one that finds most passages.

        With whole episodes, precision and F1 are those of passages; without, of single steps.

        Args:
            logit: (n,).
            label: (n,).
            timeline: the rows' episodes, None where they are no whole episodes.
            seconds_per_step: duration of a step, s.

        Raises:
            RuleNotKeptError: no detector keeps the rule.
            OptionError: the rule needs whole episodes and there are none.
        """
        if timeline is not None:
            return _Search(self, logit, timeline, seconds_per_step).best()
        if self.kind == _ALARMS:
            raise OptionError(
                "--threshold-rule false-alarms-per-minute needs held-out episodes; choose f1 or precision"
            )
        threshold = best_f1_threshold(logit, label) if self.kind == "f1" else _precise(logit, label, self.value)
        return plain_detector(threshold, seconds_per_step)


def plain_detector(threshold_logit: float, seconds_per_step: float) -> GateDetector:
    """Return a detector with a threshold and otherwise usual numbers, for a head without episodes to choose them on."""
    refractory, tolerance = (steps_of(seconds, seconds_per_step) for seconds in (REFRACTORY_S, TOLERANCE_S))
    return GateDetector(threshold_logit, threshold_logit - UNJUDGED_DROP, refractory, tolerance)


class _Search:
    """Tries detectors on whole episodes."""

    def __init__(
        self,
        rule: ThresholdRule,
        logit: npt.NDArray[np.float64],
        timeline: Timeline,
        seconds_per_step: float,
    ) -> None:
        self._rule, self._logit, self._timeline = rule, logit, timeline
        self._minutes = logit.size * seconds_per_step / 60
        self._rise = timeline.usual_rise(logit, timeline.tolerance_steps)
        self._shapes = [
            self._shape(gain, steps_of(seconds, seconds_per_step))
            for gain in SLOPE_GAINS
            if gain == 0 or self._rise > 0
            for seconds in REFRACTORIES_S
        ]
        self._use(self._shapes[0])

    def _shape(self, gain: float, refractory: int) -> GateDetector:
        """Return a detector without a threshold yet."""
        tolerance = self._timeline.tolerance_steps
        slope = (gain, tolerance, self._rise) if gain else ()
        return GateDetector(0.0, 0.0, refractory, tolerance, *slope)

    def _use(self, shape: GateDetector) -> None:
        self._chosen = shape
        self._values = np.unique(self._timeline.score(self._logit, shape))

    def best(self) -> GateDetector:
        """Return the best detector: its slope and rest by a coarse row of thresholds, then release and threshold."""
        found = [(self._kept(shape), -number) for number, shape in enumerate(self._shapes)]
        # Of equally good ones the plainest, which comes first.
        self._use(self._shapes[-max(found)[1]])
        return self._fine()

    def _kept(self, shape: GateDetector) -> float:
        """Return how good the best of a coarse row of thresholds is, −∞ if none keeps the rule."""
        self._use(shape)
        counts = self._timeline.count(
            self._logit, [self._detector(int(number), UNJUDGED_DROP) for number in self._coarse()]
        )
        return float(self._score(counts).max())

    def _coarse(self) -> npt.NDArray[np.int64]:
        last = self._values.size - 1
        # Denser towards the highest scores, where the answer lies.
        return np.unique((last * (1 - np.linspace(0, 1, COARSE_CANDIDATES) ** 3)).astype(np.int64))

    def _fine(self) -> GateDetector:
        """Return the best detector: first on a coarse row of thresholds, then between the best one's neighbours."""
        coarse = self._coarse()
        number = self._best_number(coarse, RELEASE_DROPS)
        place = int(np.searchsorted(coarse, number[0]))
        low, high = coarse[max(place - 1, 0)], coarse[min(place + 1, coarse.size - 1)]
        fine = np.unique(np.linspace(low, high, COARSE_CANDIDATES).astype(np.int64))
        number = self._best_number(np.union1d(fine, [number[0]]), (number[1],))
        return self._detector(*number)

    def _best_number(self, numbers: npt.NDArray[np.int64], drops: Sequence[float]) -> tuple[int, float]:
        """Return which value the threshold accepts from on, and how far below it the release lies."""
        tried = [(int(number), drop) for drop in drops for number in numbers]
        counts = self._timeline.count(self._logit, [self._detector(*item) for item in tried])
        score = self._score(counts)
        # Of equally good ones the highest threshold, then the nearest release.
        order = sorted(range(len(tried)), key=lambda index: (score[index], tried[index][0], -tried[index][1]))
        if not np.isfinite(score[order[-1]]) or score[order[-1]] <= 0:
            rule = f"{self._rule.kind}={self._rule.value:g}" if self._rule.value else self._rule.kind
            raise RuleNotKeptError(
                f"--threshold-rule {rule} cannot be kept on the validation episodes with a single passage found; "
                "ask for less, or train longer"
            )
        return tried[order[-1]]

    def _score(self, counts: EventCounts) -> npt.NDArray[np.float64]:
        """Return what is to be largest, −∞ where the rule is not kept."""
        hits, alarms = (array.sum(axis=1).astype(np.float64) for array in (counts.hits, counts.false_alarms))
        if self._rule.kind == "f1":
            return np.asarray(2 * hits / (hits + alarms + counts.passes.sum()))
        if self._rule.kind == _PRECISION:
            kept = hits >= self._rule.value * (hits + alarms)
        else:
            kept = alarms <= self._rule.value * self._minutes
        return np.where(kept, hits, -np.inf)

    def _detector(self, number: int, drop: float) -> GateDetector:
        values = self._values
        threshold = float(values[number] if number == 0 else 0.5 * (values[number - 1] + values[number]))
        return replace(self._chosen, threshold_logit=threshold, release_logit=threshold - drop)


def _precise(logit: npt.NDArray[np.float64], label: npt.NDArray[np.bool_], wanted: float) -> float:
    """Return the lowest threshold whose decisions are as precise as wanted."""
    values, inverse = np.unique(logit, return_inverse=True)
    alarms = np.cumsum(np.bincount(inverse)[::-1])[::-1]
    hits = np.cumsum(np.bincount(inverse, label)[::-1])[::-1]
    precision = hits / alarms
    fit = np.flatnonzero(precision >= wanted)
    if not fit.size:
        raise RuleNotKeptError(
            f"--threshold-rule precision={wanted:g} cannot be kept: the best precision on the validation rows is "
            f"{precision.max():.3f}; ask for less, or train longer"
        )
    number = int(fit[0])
    return float(values[number] if number == 0 else 0.5 * (values[number - 1] + values[number]))
