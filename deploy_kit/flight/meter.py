"""Counts environment steps and says when to report them."""

import time


class Meter:
    """Tells when to report progress, and the speed since it began.

    Args:
        num_envs: environments stepped at once.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._started = self._reported = time.monotonic()
        self._steps = 0

    def due(self) -> bool:
        """Count one step of all environments; return whether a tenth of a second has passed since the last report."""
        self._steps += 1
        now = time.monotonic()
        if now - self._reported < 0.1:
            return False
        self._reported = now
        return True

    def note(self) -> str:
        """Return the speed, ready to print."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{self._steps * self._num_envs / seconds:,.0f} env steps/s"
