"""How the gate threshold is chosen on validation rows."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import OptionError
from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.metrics import best_f1_threshold

CANDIDATES = 512
"""Thresholds that are tried where the whole detector has to run for each."""

_PRECISION, _ALARMS = "precision", "false-alarms-per-minute"


class RuleNotKeptError(OptionError):
    """No threshold keeps a rule, for the head as it is."""


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
    ) -> float:
        """Return the threshold on validation rows; of those that keep the rule, the one that finds most passages.

        Args:
            logit: (n,).
            label: (n,).
            timeline: the rows' episodes, None where they are no whole episodes.
            seconds_per_step: duration of a step, s.

        Raises:
            RuleNotKeptError: no threshold keeps the rule.
            OptionError: the rule needs whole episodes and there are none.
        """
        if self.kind == "f1":
            return best_f1_threshold(logit, label)
        if self.kind == _PRECISION:
            return _lowest_precise(logit, label, self.value)
        if timeline is None:
            raise OptionError(
                "--threshold-rule false-alarms-per-minute needs held-out episodes; choose f1 or precision"
            )
        return _lowest_quiet(logit, timeline, self.value * timeline.row.size * seconds_per_step / 60, self.value)


def _lowest_precise(logit: npt.NDArray[np.float64], label: npt.NDArray[np.bool_], wanted: float) -> float:
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
    return _midpoint_below(values, int(fit[0]))


def _lowest_quiet(logit: npt.NDArray[np.float64], timeline: Timeline, allowed: float, rate: float) -> float:
    """Return the lowest threshold down to which false alarms stay within their number."""
    values = np.unique(logit)
    share = np.linspace(0, 1, CANDIDATES) ** 2  # denser towards the highest logits, where the answer lies
    index = np.unique(((values.size - 1) * (1 - share)).astype(np.int64))[::-1]
    candidates = np.array([_midpoint_below(values, number) for number in index.tolist()])
    counts = timeline.count(logit, candidates)
    too_many = np.flatnonzero(counts.false_alarms.sum(axis=1) > allowed)
    quiet = int(too_many[0]) if too_many.size else candidates.size
    if not quiet or not counts.hits[:quiet].any():
        raise RuleNotKeptError(
            f"--threshold-rule false-alarms-per-minute={rate:g} cannot be kept on the validation episodes with "
            "a single passage found; allow more, or train longer"
        )
    return float(candidates[quiet - 1])


def _midpoint_below(values: npt.NDArray[np.float64], number: int) -> float:
    """Return the threshold that accepts the values from a number on: half-way to the one before."""
    return float(values[number] if number == 0 else 0.5 * (values[number - 1] + values[number]))
