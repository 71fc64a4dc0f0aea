"""Announces each passage of a gate once, by the rule that the contract's event figures were measured with."""

import math
from collections import deque
from typing import Any, NamedTuple

_MOST_STEPS = 1000
"""A rise over more steps is a mistake."""

_LARGEST_LOGIT = 100.0
"""A probability of exactly 0 or 1 has no logit; none that a head gives is as large."""


class Slope(NamedTuple):
    """How the score is made: the logit, plus `gain` times what it rose by within `steps` steps beyond `rise`.

    Attributes:
        gain: weight of the rise.
        steps: steps that the rise is taken over; in the first ones since the reset.
        rise: rise at which the score is the logit.
        threshold_logit: the detector's threshold as a logit.
        release_logit: its release as a logit.
        probability: whether the graph's output is a probability.
    """

    gain: float
    steps: int
    rise: float
    threshold_logit: float
    release_logit: float
    probability: bool


def slope_of(detector: dict[str, Any], probability: bool) -> Slope | None:
    """Return the slope of a contract's detector, None for the output itself.

    Args:
        detector: of the contract.
        probability: whether the graph's output is a probability.

    Raises:
        ValueError: its numbers make no sense.
    """
    gain, rise, steps = float(detector["slope_gain"]), float(detector["slope_rise"]), int(detector["slope_steps"])
    threshold, release = float(detector["threshold_logit"]), float(detector["release_logit"])
    # Written so that NaN is refused too.
    if not (0 <= gain < math.inf and -math.inf < rise < math.inf and 0 <= steps <= _MOST_STEPS):
        raise ValueError(f"the detector's slope: gain {gain}, rise {rise}, {steps} steps")
    if not -math.inf < release <= threshold < math.inf:
        raise ValueError(f"the detector's threshold {threshold} and release {release} as logits")
    return Slope(gain, steps, rise, threshold, release, probability) if gain else None


class DetectorRule(NamedTuple):
    """The contract's detector, in the unit of the graph's gate output (logit or probability).

    Attributes:
        threshold: at and above which an armed detector fires.
        release: below which it is armed again.
        refractory_steps: steps after a firing in which it does not fire.
        slope: how the score is made that is held against the two; None for the output itself.
    """

    threshold: float
    release: float
    refractory_steps: int
    slope: Slope | None = None


class GateDetector:
    """Fires once a passage.

    At each step, in this order: a score below the release arms it (it is armed after a reset); armed, it fires where
    the score reaches the threshold, unless it fired within the last `refractory_steps` steps; firing disarms it.

    Args:
        rule: when.
    """

    def __init__(self, rule: DetectorRule) -> None:
        self.rule = rule
        slope = rule.slope
        self._past: deque[float] = deque(maxlen=1 if slope is None else slope.steps + 1)
        self._bounds = rule[:2] if slope is None else (slope.threshold_logit, slope.release_logit)
        self.reset()

    def reset(self) -> None:
        """Forget the past, as at the start of an episode: armed, and free to fire."""
        self._armed = True
        self._wait = 0
        self._past.clear()

    def pass_step(self) -> None:
        """Let a step pass that gave no output; the one before it stands for it."""
        if self._wait:
            self._wait -= 1
        if self._past:
            self._past.append(self._past[-1])

    def step(self, output: float) -> bool:
        """Return whether this step announces a passage.

        Args:
            output: the gate output of this step.
        """
        threshold, release = self._bounds
        score = output if self.rule.slope is None else self._score(self.rule.slope, output)
        if score < release:
            self._armed = True
        if self._wait:
            self._wait -= 1
            return False
        if not self._armed or score < threshold:
            return False
        self._armed = False
        self._wait = self.rule.refractory_steps
        return True

    def _score(self, slope: Slope, output: float) -> float:
        logit = _logit(output) if slope.probability else output
        past = self._past
        past.append(logit)
        return logit + slope.gain * (logit - past[0] - slope.rise)


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return _LARGEST_LOGIT if probability >= 1 else -_LARGEST_LOGIT
    return math.log(probability) - math.log1p(-probability)
