"""How long collecting will take, from its first seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.collection.options import CollectOptions

FIRST_S = 10.0
"""Time after which the pace is known well enough to say how long it will take, s."""

PATIENCE_S = 60.0
"""Time without a single gate passed after which that is said instead, s."""


@dataclass(frozen=True)
class CollectEstimate:
    """What the first seconds tell of the whole collection.

    Attributes:
        seconds: time that all training rows take, None if no gate was passed.
        env_steps: environment steps flown so far.
        rows_per_second: rows of the scarcer class, each second, None if no gate was passed.
    """

    seconds: float | None
    env_steps: int
    rows_per_second: float | None

    def rows_in(self, seconds: float) -> int:
        """Return how many rows of each class fit into a time: one significant digit, at least 100."""
        rows = (self.rows_per_second or 0.0) * seconds
        if rows < 100:
            return 100
        size: int = 10 ** int(math.log10(rows))
        return int(rows / size) * size


def silent_estimate(estimate: CollectEstimate) -> None:
    """Ignore an estimate."""


class Forecast:
    """Counts labels and steps, and tells once how long all training rows will take.

    Args:
        options: how many rows are asked for.
        tell: given the estimate.
        clock: gives the time, s.
    """

    def __init__(
        self,
        options: CollectOptions,
        tell: Callable[[CollectEstimate], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options, self._tell, self._clock = options, tell, clock
        self._began: float | None = None
        self._steps = self._positive = 0
        self._told = options.only_video

    @property
    def wants_more(self) -> bool:
        """Whether it has not told yet: labels may lie on a GPU, and fetching them holds up the flight."""
        return not self._told

    def add(self, label: npt.NDArray[np.integer]) -> None:
        """Count one step of all environments.

        Args:
            label: 1 where a gate was passed, (N,).
        """
        if self._told:
            return
        now = self._clock()
        if self._began is None:
            self._began = now  # the first step also waits for the simulator to start
            return
        self._steps += len(label)
        self._positive += int(np.count_nonzero(label == 1))
        seconds = now - self._began
        if seconds >= (FIRST_S if self._positive else PATIENCE_S):
            self._told = True
            self._tell(self._estimate(seconds))

    def _estimate(self, seconds: float) -> CollectEstimate:
        options, positive, negative = self._options, self._positive, self._steps - self._positive
        if positive == 0 or negative == 0:
            return CollectEstimate(None, self._steps, None)
        pace = self._steps / seconds
        steps = self._steps * max(options.num_positive / positive, options.num_negative / negative)
        if options.max_steps is not None:
            steps = min(steps, options.max_steps * options.env.num_envs)
        return CollectEstimate(steps / pace, self._steps, min(positive, negative) / seconds)
