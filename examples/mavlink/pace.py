"""When the next step is due: by this computer's clock, or by a simulator's."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from autopilot_link import AutopilotLink


class Pace(Protocol):
    """Says when the next step is due; what arrives meanwhile goes into the vehicle."""

    def wait(self, take: Callable[[Any, float], None]) -> float | None:
        """Return the time of the step, s; None if the clock is lost."""
        ...


class RealTime:
    """One step each policy period, by this computer's monotonic clock.

    Args:
        link: to the autopilot.
        period: s.
        clock: gives the time, s.
    """

    def __init__(self, link: AutopilotLink, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._link, self._period, self._clock = link, period, clock
        self._due = clock()

    def wait(self, take: Callable[[Any, float], None]) -> float:
        """Take in messages until the next step is due, and return the time."""
        while True:
            while (message := self._link.receive()) is not None:
                take(message, self._clock())
            left = self._due - self._clock()
            if left <= 0:
                break
            self._link.wait(left)
        now = self._clock()
        # Steps that were missed are not made up for: two at once would fly on one observation.
        self._due = max(self._due + self._period, now + self._period / 2)
        return now


class Lockstep:
    """One step each time that the vehicle's simulator says that a period is over, by its SYSTEM_TIME.

    The simulator waits for the setpoint of each step. So a flight comes out alike however slow the computers are.

    Args:
        link: to the autopilot.
        period: s, in which setpoints are sent while nothing is heard.
        silence_s: how long nothing may be heard, by this computer's clock.
    """

    def __init__(self, link: AutopilotLink, period: float, silence_s: float) -> None:
        self._link, self._period, self._silence = link, period, silence_s
        self._now, self._lost = 0.0, False

    def wait(self, take: Callable[[Any, float], None]) -> float | None:
        """Take in messages until the simulator says the time, and return it; None if it has fallen silent."""
        limit = time.monotonic() + (self._period if self._lost else self._silence)
        while (left := limit - time.monotonic()) > 0:
            message = self._link.receive()
            if message is None:
                self._link.wait(left)
                continue
            take(message, self._now)
            if message.get_type() == "SYSTEM_TIME":
                self._now, self._lost = message.time_boot_ms / 1e3, False
                return self._now
        self._lost = True
        return None
