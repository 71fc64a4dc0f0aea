"""Announces each passage of a gate once, by the rule that the contract's event figures were measured with."""

from typing import NamedTuple


class DetectorRule(NamedTuple):
    """The contract's detector, in the unit of the graph's gate output (logit or probability).

    Attributes:
        threshold: at and above which an armed detector fires.
        release: below which it is armed again.
        refractory_steps: steps after a firing in which it does not fire.
    """

    threshold: float
    release: float
    refractory_steps: int


class GateDetector:
    """Fires once a passage.

    At each step, in this order: an output below the release arms it (it is armed after a reset); armed, it fires where
    the output reaches the threshold, unless it fired within the last `refractory_steps` steps; firing disarms it.

    Args:
        rule: when.
    """

    def __init__(self, rule: DetectorRule) -> None:
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        """Forget the past, as at the start of an episode: armed, and free to fire."""
        self._armed = True
        self._wait = 0

    def pass_step(self) -> None:
        """Let a step pass that gave no output."""
        if self._wait:
            self._wait -= 1

    def step(self, output: float) -> bool:
        """Return whether this step announces a passage.

        Args:
            output: the gate output of this step.
        """
        threshold, release, refractory = self.rule
        if output < release:
            self._armed = True
        if self._wait:
            self._wait -= 1
            return False
        if not self._armed or output < threshold:
            return False
        self._armed = False
        self._wait = refractory
        return True
