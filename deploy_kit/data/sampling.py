"""Which training rows to keep: class balance at a uniform rate over time and environments, in one pass.

Positives are all kept. Negatives outnumber them about 50 to 1, so each gets a uniform random key and stays if the key
is below a rate that makes both classes fill up together. The rate is unknown at first: rows wait in a bounded pilot
buffer until enough positives have been seen. A class that is full before the other goes on as a reservoir (algorithm
R: Vitter, "Random sampling with a reservoir", 1985), so its rows stay a uniform sample of everything seen so far.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_kit.data.schema import Columns

PILOT_POSITIVES = 256
"""Positives that fix the rate; its relative error is then about 1/sqrt(256)."""

PILOT_ROWS = 65_536
"""Negatives held in memory at most while the rate is unknown (50 MB at 192 features)."""


class Placement(NamedTuple):
    """Rows of one class and where they go.

    Attributes:
        label: the class, 0 or 1.
        slots: (n,) slot of each row within its class.
        new: the first so many rows take new slots, the others overwrite, the later one winning.
        rows: the rows' columns.
    """

    label: int
    slots: npt.NDArray[np.int64]
    new: int
    rows: Columns


class Reservoir:
    """A uniform sample of bounded size from a stream of unknown length (algorithm R).

    Args:
        capacity: number of slots.
        rng: source of randomness.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self.capacity = capacity
        self.seen = 0
        self._rng = rng

    @property
    def count(self) -> int:
        """Slots in use."""
        return min(self.seen, self.capacity)

    def place(self, rows: int) -> npt.NDArray[np.int64]:
        """Return a slot for each of the next rows, -1 for those left out."""
        order = np.arange(self.seen, self.seen + rows)
        self.seen += rows
        slots = np.where(order < self.capacity, order, self._rng.integers(0, order + 1))
        return np.where(slots < self.capacity, slots, -1)


def _take(rows: Columns, index: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Columns:
    return {name: values[index] for name, values in rows.items()}


class BalancedSampler:
    """Decides which training rows stay, so that both classes fill up together and stay uniform over time.

    Args:
        num_positive: positives wanted.
        num_negative: negatives wanted.
        seed: of all random choices.

    Attributes:
        pilot_rows: rows that are seen at least before the rate is fixed.
        seen: negatives and positives seen.
    """

    def __init__(self, num_positive: int, num_negative: int, seed: int) -> None:
        self._key_rng, positive_rng, negative_rng = (
            np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
        )
        self._reservoirs = (Reservoir(num_negative, negative_rng), Reservoir(num_positive, positive_rng))
        self._pilot_positives = min(PILOT_POSITIVES, num_positive)
        self._rate = 0.0 if num_negative == 0 else 1.0
        self._fixed = num_positive == 0 or num_negative == 0
        self.pilot_rows = 0
        self._pilot: list[list[Columns]] = [[], []]
        self._pilot_keys: npt.NDArray[np.float64] = np.empty(0)
        self.seen = [0, 0]

    @property
    def full(self) -> bool:
        """Whether both classes have all rows wanted."""
        return self._fixed and all(r.count == r.capacity for r in self._reservoirs)

    def count(self, label: int) -> int:
        """Return how many rows of a class there would be if sampling ended now."""
        waiting = sum(len(rows["supervision"]) for rows in self._pilot[label])
        if label == 0 and not self._fixed:
            waiting = int(np.count_nonzero(self._pilot_keys < self._target_rate()))
        reservoir = self._reservoirs[label]
        return min(reservoir.count + waiting, reservoir.capacity)

    def rate(self, label: int) -> float:
        """Return the share of a class's rows seen that are kept; NaN if none were seen."""
        return self.count(label) / self.seen[label] if self.seen[label] else float("nan")

    def offer(self, rows: Columns) -> Iterator[Placement]:
        """Take in a block of rows in the order of time and yield what is to be stored."""
        positive = rows["supervision"][:, 0] != 0
        negative = np.flatnonzero(~positive)
        keys = self._key_rng.random(negative.size)
        negatives = _take(rows, negative[keys < self._rate])
        positives = _take(rows, positive)
        self.seen[0] += negative.size
        self.seen[1] += rows["supervision"].shape[0] - negative.size
        if self._fixed:
            yield from self._place(0, negatives)
            yield from self._place(1, positives)
            return
        self._pilot[0].append(negatives)
        self._pilot[1].append(positives)
        self._pilot_keys = np.concatenate([self._pilot_keys, keys[keys < self._rate]])
        if self.seen[1] >= self._pilot_positives and sum(self.seen) >= self.pilot_rows:
            yield from self.settle()
        while self._pilot_keys.size > PILOT_ROWS:
            self._thin_pilot(self._rate / 2)

    def settle(self) -> Iterator[Placement]:
        """Fix the rate from the prevalence seen so far and yield the rows that waited for it."""
        if self._fixed:
            return
        self._thin_pilot(self._target_rate())
        self._fixed = True
        waiting, self._pilot, self._pilot_keys = self._pilot, [[], []], np.empty(0)
        for label, blocks in enumerate(waiting):
            for rows in blocks:
                yield from self._place(label, rows)

    def _target_rate(self) -> float:
        if not self.seen[0] or not self.seen[1]:
            return self._rate
        negative, positive = self._reservoirs
        return min(self._rate, self.seen[1] / self.seen[0] * negative.capacity / positive.capacity)

    def _thin_pilot(self, rate: float) -> None:
        # One key decides for ever: lowering the rate keeps exactly the rows it would have kept from the start.
        self._rate = rate
        keep = self._pilot_keys < rate
        start = 0
        for block, rows in enumerate(self._pilot[0]):
            stop = start + len(rows["supervision"])
            self._pilot[0][block] = _take(rows, keep[start:stop])
            start = stop
        self._pilot_keys = self._pilot_keys[keep]

    def _place(self, label: int, rows: Columns) -> Iterator[Placement]:
        reservoir = self._reservoirs[label]
        before = reservoir.count
        slots = reservoir.place(rows["supervision"].shape[0])
        kept = slots >= 0
        if kept.any():
            yield Placement(label, slots[kept], reservoir.count - before, _take(rows, kept))
