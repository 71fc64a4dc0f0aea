"""Which training rows to keep: a uniform sample of each class, in one pass, that survives a kill and can be merged.

Every row that is seen draws a uniform random key. The sample of a class is the rows with the smallest keys, so it is
uniform over all that was seen, whatever the order; samples of several processes, or of a collection before and after
an interruption, are merged by taking the smallest keys of all. A row whose key is not below the class's limit can no
longer be among them and is not stored; limits only fall.

Negatives are about 50 times as many as positives. Their limit is lowered once enough positives have been seen, so
that both classes fill up together.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_kit.data.schema import Columns
from deploy_kit.generators import generator_state, set_generator_state

PILOT_POSITIVES = 256
"""Positives that fix the negatives' limit; its relative error is then about 1/sqrt(256)."""

PILOT_ROWS = 65_536
"""Negatives below their limit at most while the prevalence is unknown (50 MB at 192 features)."""

MARGIN = 1.25
"""How many more negatives are stored than the prevalence of the pilot asks for: positives are what takes time."""

SPARE = 1.25
"""Stored rows of a full class, as a share of those wanted, from which its limit is lowered."""

KEY = "key"
"""Column of the keys."""

_GENERATOR, _FIXED, _DROPPED = "sampler.generator", "sampler.fixed", "sampler.dropped"
"""Arrays of a snapshot."""

Keys = npt.NDArray[np.float64]


class Tally(NamedTuple):
    """What one process has seen and stored; pairs are negatives, positives.

    Attributes:
        seen: rows seen.
        limits: key from which on rows are not stored.
        eligible: stored rows with a key below the limits that all processes share.
    """

    seen: tuple[int, int] = (0, 0)
    limits: tuple[float, float] = (1.0, 1.0)
    eligible: tuple[int, int] = (0, 0)


def class_sizes(eligible: Sequence[int], wanted: Sequence[int]) -> tuple[int, int]:
    """Return how many negatives and positives a file holds: balanced as asked for, also where collecting ended early.

    Args:
        eligible: negatives and positives with keys below the limits.
        wanted: negatives and positives asked for.
    """
    positive = min(eligible[1], wanted[1])
    negative = min(eligible[0], wanted[0])
    if 0 < positive < wanted[1]:
        negative = min(negative, math.ceil(positive * wanted[0] / wanted[1]))
    return negative, positive


class KeyedClass:
    """Keys of one class that are below its limit.

    Args:
        capacity: rows wanted.

    Attributes:
        capacity: capacity as given.
        limit: rows with a key from here on are not stored.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.limit = 1.0 if capacity else 0.0
        self._keys: list[Keys] = []
        self.count = 0

    def add(self, keys: Keys) -> None:
        """Take in keys below the limit, and lower it where far more rows than wanted are below."""
        if keys.size:
            self._keys.append(keys)
            self.count += keys.size
        if self.count > SPARE * self.capacity + 64:
            keys = self.keys
            self.lower(float(np.partition(keys, self.capacity)[self.capacity]))

    def lower(self, limit: float) -> None:
        """Lower the limit."""
        if limit < self.limit:
            self.limit = limit
            self._keys = [keys[keys < limit] for keys in self._keys]
            self.count = sum(keys.size for keys in self._keys)

    @property
    def keys(self) -> Keys:
        """All keys below the limit."""
        self._keys = [np.concatenate(self._keys)] if self._keys else []
        return self._keys[0] if self._keys else np.empty(0)

    def below(self, limit: float) -> int:
        """Return how many keys are below a limit."""
        return self.count if limit >= self.limit else int(np.count_nonzero(self.keys < limit))


class KeyedSampler:
    """Decides which training rows are stored, so that both classes fill up together and stay uniform over time.

    Args:
        num_positive: positives wanted.
        num_negative: negatives wanted.
        seed: seed of the keys.

    Attributes:
        wanted: negatives and positives wanted.
        classes: negatives and positives.
        pilot_rows: rows that are seen at least before the negatives' limit is fixed.
        seen: negatives and positives seen.
        base_seen: those seen before an interruption.
        dropped: stored negatives and positives that do not count after all.
        others: what other processes have seen and stored.
    """

    def __init__(self, num_positive: int, num_negative: int, seed: int | Sequence[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self.wanted = (num_negative, num_positive)
        self.classes = (KeyedClass(num_negative), KeyedClass(num_positive))
        self._pilot_positives = min(PILOT_POSITIVES, num_positive)
        self.fixed = num_positive == 0 or num_negative == 0
        self.pilot_rows = 0
        self.seen = [0, 0]
        self.base_seen = (0, 0)
        self.dropped = [0, 0]
        self.others: tuple[Tally, ...] = ()

    def go_on(self, limits: Sequence[float]) -> None:
        """Go on from an interrupted collection, at its rates.

        Args:
            limits: limits of negatives and positives.
        """
        for kept, limit in zip(self.classes, limits, strict=True):
            kept.lower(limit)
        self.fixed = self.fixed or limits[0] < 1.0

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what a snapshot holds of the sampler: all that the stored rows do not tell."""
        return {
            _GENERATOR: generator_state(self._rng),
            _FIXED: np.array([self.fixed]),
            _DROPPED: np.array(self.dropped, np.int64),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], alone: bool) -> None:
        """Go on from a `state`, after `go_on`.

        Args:
            arrays: the state.
            alone: whether all rows so far are of this process.

        Raises:
            ValueError: the arrays are something else.
        """
        expected = {_FIXED: ((1,), np.dtype(np.bool_)), _DROPPED: ((2,), np.dtype(np.int64))}
        if not {_GENERATOR, *expected} <= arrays.keys() or any(
            (arrays[name].shape, arrays[name].dtype) != known for name, known in expected.items()
        ):
            raise ValueError("it lacks the sampler's state")
        if (arrays[_DROPPED] < 0).any():
            raise ValueError(f"{_DROPPED} is no count")
        set_generator_state(self._rng, arrays[_GENERATOR])
        self.fixed = bool(arrays[_FIXED][0])
        if alone:
            self.dropped = [int(count) for count in arrays[_DROPPED]]

    @property
    def total_seen(self) -> tuple[int, int]:
        """Negatives and positives seen by all."""
        own, others = self.tally.seen, self.others
        return own[0] + sum(t.seen[0] for t in others), own[1] + sum(t.seen[1] for t in others)

    @property
    def limits(self) -> tuple[float, float]:
        """Limits that all share: the lowest ones."""
        negative, positive = (
            min(kept.limit, *(tally.limits[label] for tally in self.others), 1.0)
            for label, kept in enumerate(self.classes)
        )
        return negative, positive

    @property
    def eligible(self) -> tuple[int, int]:
        """Stored negatives and positives of all, below the limits."""
        negative, positive = (
            own + sum(tally.eligible[label] for tally in self.others) for label, own in enumerate(self.tally.eligible)
        )
        return negative, positive

    @property
    def tally(self) -> Tally:
        """What this process adds."""
        limits = self.limits
        negative, positive = (
            max(0, kept.below(limits[label]) - self.dropped[label]) for label, kept in enumerate(self.classes)
        )
        own = (self.classes[0].limit, self.classes[1].limit)
        seen = (self.base_seen[0] + self.seen[0], self.base_seen[1] + self.seen[1])
        return Tally(seen, own, (negative, positive))

    @property
    def full(self) -> bool:
        """Whether both classes have all rows wanted."""
        return self.fixed and all(have >= want for have, want in zip(self.eligible, self.wanted, strict=True))

    def count(self, label: int) -> int:
        """Return how many rows of a class there would be if sampling ended now."""
        return class_sizes(self.eligible, self.wanted)[label]

    def offer(self, rows: Columns) -> Columns:
        """Take in a block of rows and return those to store, with their keys."""
        label = rows["supervision"][:, 0] != 0
        keys = self._rng.random(label.size)
        keep = keys < np.where(label, self.classes[1].limit, self.classes[0].limit)
        positives = int(np.count_nonzero(label))
        self.seen[0] += label.size - positives
        self.seen[1] += positives
        self.classes[0].add(keys[keep & ~label])
        self.classes[1].add(keys[keep & label])
        if not self.fixed:
            self._pilot()
        return {name: values[keep] for name, values in {**rows, KEY: keys}.items()}

    def _pilot(self) -> None:
        negative, positive = self.total_seen
        kept = self.classes[0]
        if positive >= self._pilot_positives and negative + positive >= self.pilot_rows:
            if negative:
                kept.lower(MARGIN * positive / negative * self.wanted[0] / self.wanted[1])
            self.fixed = True
        while not self.fixed and kept.count > PILOT_ROWS:
            kept.lower(kept.limit / 2)


class KeyedSample:
    """A uniform sample of bounded size of one kind of rows.

    Args:
        capacity: rows wanted.
        rng: source of the keys.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self._class, self._rng = KeyedClass(capacity), rng

    def draw(self, rows: int) -> Keys:
        """Return a key for each of the next rows, infinity for those left out."""
        keys = self._rng.random(rows)
        keys[keys >= self._class.limit] = np.inf
        self._class.add(keys[np.isfinite(keys)])
        return keys
