"""Which held-out tracks are for validation (threshold, early stopping) and which for test (figures alone)."""

import numpy as np


class TrackSplitter:
    """Assigns each new track to test or validation, half and half, by a seeded draw within pairs of new tracks.

    Drawing within pairs keeps the halves equal to within one track, however few there are.

    Args:
        seed: seed of the draw.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._assigned: dict[int, bool] = {}
        self._open: bool | None = None

    def is_test(self, track_id: int) -> bool:
        """Return whether a track is for test; the same answer whenever it is asked again."""
        if track_id not in self._assigned:
            if self._open is None:
                self._assigned[track_id] = bool(self._rng.integers(2))
                self._open = not self._assigned[track_id]
            else:
                self._assigned[track_id], self._open = self._open, None
        return self._assigned[track_id]
