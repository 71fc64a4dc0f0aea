"""What the runner should have remembered from step to step: the acting command, and the detector's state."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import sigmoid
from deploy_kit.flightlog.imported import imported
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.flightlog.records import LoggedHold, LoggedReset, LoggedStep
from deploy_kit.policy.calibration import GateDetector

_LARGEST = 100.0
"""Logit of a probability of exactly 1, as on board."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What a step should have had.

    Attributes:
        step: the step.
        acting: command that acted; None where lost records leave it open.
        passed: whether the threshold is reached; None without a detector.
        event: whether the detector fires; None without one, or where lost records leave it open.
    """

    step: LoggedStep
    acting: Float64 | None
    passed: bool | None
    event: bool | None


def replay_history(
    log: FlightLog, first_command: Float64, latency_steps: int, detector: GateDetector | None, probability: bool
) -> list[Expected]:
    """Go through a log's records and return what each step that was flown should have had.

    Args:
        log: the log.
        first_command: command of a zero action, which acts until the first computed one does.
        latency_steps: of the contract.
        detector: of the checkpoint; None for none.
        probability: whether the log's gate outputs are probabilities.
    """
    queue: deque[Float64 | None] = deque([first_command] * (latency_steps + 1))
    memory = None if detector is None else _Memory(detector, probability)
    # A log that was rotated, or was imported so, begins in the middle of a flight.
    if log.header.get("part", 0) or not imported(log).at_reset:
        queue = deque([None] * (latency_steps + 1))
        if memory is not None:
            memory.lose()
    before, expected = None, []
    for record in log.records:
        if before is not None and record.sequence != before + 1:
            queue = deque([None] * (latency_steps + 1))
            if memory is not None:
                memory.lose()
        before = record.sequence
        if isinstance(record, LoggedReset):
            queue = deque([first_command] * (latency_steps + 1))
            if memory is not None:
                memory.reset()
        elif isinstance(record, LoggedHold):
            queue.popleft()
            queue.append(record.command)
            if memory is not None:
                memory.wait()
        elif record.fault is None:
            passed, event = (None, None) if memory is None else memory.step(record.gate, record.event)
            expected.append(Expected(record, queue.popleft(), passed, event))
            queue.append(record.command)
    return expected


class _Memory:
    """The contract's detector, with a state that may be unknown."""

    def __init__(self, detector: GateDetector, probability: bool) -> None:
        threshold, release = detector.threshold_logit, detector.release_logit
        self._passes_at = float(sigmoid(threshold)) if probability else threshold
        self._sloped = detector.slope_gain > 0
        self._detector, self._probability = detector, probability
        self._past: deque[float] = deque(maxlen=detector.slope_steps + 1)
        self._threshold, self._release = (
            (float(sigmoid(threshold)), float(sigmoid(release)))
            if probability and not self._sloped
            else (threshold, release)
        )
        self._refractory = detector.refractory_steps
        self.reset()

    def reset(self) -> None:
        self._armed, self._wait, self._known = True, 0, True
        self._past.clear()

    def lose(self) -> None:
        self._known, self._quiet = False, 0
        self._past.clear()

    def wait(self) -> None:
        self._wait = max(0, self._wait - 1)
        if self._past:
            self._past.append(self._past[-1])

    def _score(self, output: float) -> float:
        """Return what is held against threshold and release."""
        if not self._sloped:
            return output
        if self._probability:
            output = -_LARGEST if output <= 0 else _LARGEST if output >= 1 else math.log(output) - math.log1p(-output)
        self._past.append(output)
        detector = self._detector
        return output + detector.slope_gain * (output - self._past[0] - detector.slope_rise)

    def step(self, output: float, announced: bool | None) -> tuple[bool, bool | None]:
        passed, score = output >= self._passes_at, self._score(output)
        if not self._known:
            self._find(score, announced)
            return passed, None
        if score < self._release:
            self._armed = True
        blocked = self._wait > 0
        self._wait = max(0, self._wait - 1)
        fires = not blocked and self._armed and score >= self._threshold
        if fires:
            self._armed, self._wait = False, self._refractory
        return passed, fires

    def _find(self, score: float, announced: bool | None) -> None:
        """Know the state again after an announcement, or once it must be armed and free to fire."""
        self._quiet += 1
        if self._sloped and len(self._past) <= self._detector.slope_steps:
            return
        if announced:
            self._armed, self._wait, self._known = False, self._refractory, True
        elif self._quiet > self._refractory and score < self._release:
            self._armed, self._wait, self._known = True, 0, True
