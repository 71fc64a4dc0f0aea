"""A search for the input on which an artifact differs most from the checkpoint, within the contract's ranges.

Evolution of observations: of all that were tried, the ones with the largest share of the tolerance are changed and
crossed. It needs no gradient, so that it sees whatever the artifact does; what it finds is judged as any other row.
Its budget is a number of evaluations, so that how much was searched does not depend on the machine.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.parity import ParityCheck, ParityComparison, row_shares
from deploy_kit.bundle.runners import FEATURE_TERMS, ArtifactError, Float32, Outputs, Runner
from deploy_kit.bundle.thresholds import FP32_PARITY
from deploy_kit.verify.flight_like import observation_range
from deploy_kit.verify.replay import Advance
from deploy_kit.verify.samples import SampleSet

GENERATION = 64
"""Inputs tried before the next parents are chosen."""

PARENTS = 24
"""Inputs that are changed and crossed."""

WORST = 32
"""Inputs with the largest differences that the other artifacts are run on too."""

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        check: all inputs that it tried, compared.
        worst: those with the largest differences; none if the artifact could not be run.
    """

    check: ParityCheck
    worst: SampleSet


def search(
    start: Float32,
    contract: Contract,
    reference: Runner,
    artifact: Runner,
    comparison: ParityComparison,
    evaluations: int,
    seed: int,
    usual_terms: float,
    advance: Advance,
) -> Found:
    """Search, row by row at batch 1 as in flight.

    Rounding errors grow with the numbers inside the network: an input whose features sum k times larger terms than
    inputs as in flight do is allowed k times the error. Without that the search would find the largest sums.

    Args:
        start: (n, 6928) observations to begin with.
        contract: gives the ranges, which nothing that is tried leaves farther than its ancestor.
        reference: the checkpoint.
        artifact: what is held against it.
        comparison: a fresh accumulator; takes every input that is tried.
        evaluations: how many inputs to try.
        seed: seed of the search.
        usual_terms: largest sum of a feature's terms on inputs as in flight.
        advance: told the number of inputs after each generation.
    """
    rng = np.random.default_rng((seed, 3))
    low, high = observation_range(contract)
    low, high = np.minimum(low, start.min(axis=0)), np.maximum(high, start.max(axis=0))
    breeder = _Breeder(contract, low, high, rng)
    candidates = start[rng.permutation(len(start))[:GENERATION]]
    kept, scales, shares, tried = np.empty((0, start.shape[1]), np.float32), np.empty((0, 1)), np.empty(0), 0
    described = f"the worst of {evaluations} inputs that a search tried, seed {seed}"
    try:
        while tried < evaluations:
            rows = candidates[: evaluations - tried]
            expected, given = reference(rows), _one_by_one(artifact, rows)
            scale = np.maximum(1.0, expected[FEATURE_TERMS].max(axis=1, keepdims=True) / max(usual_terms, _TINY))
            comparison.add(expected, given, scale)
            share = row_shares(expected, given, comparison.roles, comparison.transform, FP32_PARITY, scale)
            kept, scales = np.concatenate((kept, rows)), np.concatenate((scales, scale))
            shares = np.concatenate((shares, share))
            order = np.argsort(-shares, kind="stable")[: max(PARENTS, WORST)]
            kept, scales, shares = kept[order], scales[order], shares[order]
            tried += len(rows)
            advance(len(rows))
            candidates = breeder.children(kept[:PARENTS], GENERATION)
    except ArtifactError as error:
        comparison.fail(str(error))
    worst = SampleSet(
        "search", described, kept[:WORST], lambda row: f"input {row} of the worst that were found", scales[:WORST]
    )
    return Found(comparison.result(lambda row: f"input {row} of the search"), worst)


def _one_by_one(artifact: Runner, rows: Float32) -> Outputs:
    parts = [artifact(rows[index : index + 1]) for index in range(len(rows))]
    return {role: np.concatenate([part[role] for part in parts]) for role in parts[0]}


class _Breeder:
    """Changes and crosses observations.

    Args:
        contract: gives sizes.
        low: (6928,) lowest numbers.
        high: (6928,) highest numbers.
        rng: all randomness.
    """

    def __init__(
        self,
        contract: Contract,
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> None:
        self._low, self._high, self._rng = low, high, rng
        self._split = contract.observation.state_size
        self._shape = (contract.observation.depth.rows, contract.observation.depth.columns)

    def children(self, parents: Float32, count: int) -> Float32:
        """Return changed copies."""
        rng = self._rng
        rows = parents[rng.integers(len(parents), size=count)].astype(np.float64)
        others = parents[rng.integers(len(parents), size=count)]
        for row, other in zip(rows, others, strict=True):
            for change in rng.choice(5, size=rng.integers(1, 3), replace=False):
                (self._cross, self._single, self._jitter, self._patch, self._light)[change](row, other)
        return np.clip(rows, self._low, self._high).astype(np.float32)

    def _cross(self, row: npt.NDArray[np.float64], other: Float32) -> None:
        if self._rng.random() < 0.5:
            row[self._split :] = other[self._split :]
        else:
            taken = self._rng.random(self._split) < 0.5
            row[: self._split][taken] = other[: self._split][taken]

    def _single(self, row: npt.NDArray[np.float64], other: Float32) -> None:
        """Put one number of the state, or a few, anywhere in its range, its ends among it."""
        chosen = self._rng.integers(self._split, size=self._rng.integers(1, 4))
        place = np.clip(self._rng.uniform(-0.3, 1.3, chosen.size), 0.0, 1.0)
        row[chosen] = self._low[chosen] + place * (self._high[chosen] - self._low[chosen])

    def _jitter(self, row: npt.NDArray[np.float64], other: Float32) -> None:
        part = slice(None, self._split) if self._rng.random() < 0.5 else slice(self._split, None)
        amount = 10.0 ** self._rng.uniform(-4.0, -0.5)
        row[part] += amount * (self._high[part] - self._low[part]) * self._rng.standard_normal(row[part].size)

    def _patch(self, row: npt.NDArray[np.float64], other: Float32) -> None:
        """Put a rectangle of the image to one depth."""
        image = row[self._split :].reshape(self._shape)
        (top, bottom), (left, right) = (np.sort(self._rng.integers(size + 1, size=2)) for size in self._shape)
        low, high = self._low[-1], self._high[-1]
        image[top:bottom, left:right] = low + (high - low) * np.clip(self._rng.uniform(-0.5, 1.5), 0.0, 1.0)

    def _light(self, row: npt.NDArray[np.float64], other: Float32) -> None:
        """Stretch or mirror the image."""
        image = row[self._split :].reshape(self._shape)
        kind = self._rng.integers(3)
        if kind == 0:
            image[:] = image[:, ::-1].copy()
        elif kind == 1:
            image[:] = image[::-1].copy()
        else:
            image[:] = self._rng.uniform(0.5, 2.0) * image + self._rng.uniform(-0.3, 0.3)
