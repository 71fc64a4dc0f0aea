"""What differs between two sets of outputs, measured in one pass over blocks and judged elsewhere.

Each accumulator keeps what any later verdict needs, whatever its thresholds: of all elements, those on the Pareto
frontier of (error, magnitude of the reference) are the first to exceed any ``absolute + relative * |reference|``, and
of all flipped decisions the one farthest from the threshold is the first to be outside any band.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.thresholds import Tolerance

Array = npt.NDArray[np.floating]
Locate = Callable[[int], str]


@dataclass(frozen=True)
class Element:
    """One compared number.

    Attributes:
        error: absolute difference, in units of the output's scale.
        reference: magnitude of the checkpoint's number, in units of the output's scale.
        row: index of the row in the order of comparison.
        channel: index within the row.
        where: the row in words (file row, environment and step, name of the input).
    """

    error: float
    reference: float
    row: int
    channel: int
    where: str


@dataclass(frozen=True)
class OutputParity:
    """One output against the checkpoint's.

    Attributes:
        name: output.
        elements: how many numbers were compared.
        nonfinite: how many of them are NaN or infinite on either side; they are in no other figure.
        nonfinite_where: first row with such a number.
        mean_error: mean absolute difference, in units of the output's scale.
        frontier: elements that no other element exceeds in error at a smaller or equal reference, by rising error.
        problem: why nothing could be compared (shape, type), None if it could.
    """

    name: str
    elements: int
    nonfinite: int
    nonfinite_where: str | None
    mean_error: float
    frontier: tuple[Element, ...]
    problem: str | None = None

    def worst(self, tolerance: Tolerance) -> tuple[Element, float] | None:
        """Return the element that uses up most of the tolerance and that share, None if nothing was compared."""
        if not self.frontier:
            return None
        return max(
            ((element, tolerance.share(element.error, element.reference)) for element in self.frontier),
            key=lambda pair: pair[1],
        )

    @property
    def max_error(self) -> float | None:
        """Largest absolute difference, in units of the output's scale; None if nothing was compared."""
        return max((element.error for element in self.frontier), default=None)

    def passes(self, tolerance: Tolerance) -> bool:
        """Return whether every number was compared, is finite and is within the tolerance."""
        worst = self.worst(tolerance)
        return self.problem is None and self.nonfinite == 0 and worst is not None and worst[1] <= 1.0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "OutputParity":
        """Return what `dataclasses.asdict` wrote."""
        return cls(**{**data, "frontier": tuple(Element(**element) for element in data["frontier"])})


class OutputComparison:
    """Accumulates the differences of one output over blocks of rows.

    Args:
        name: output.
        scale: what one unit is, per channel or one for all (a physical command's transform scale).
    """

    def __init__(self, name: str, scale: npt.ArrayLike = 1.0) -> None:
        self.name = name
        self._scale = np.asarray(scale, dtype=np.float64)
        self._elements = 0
        self._nonfinite = 0
        self._first_nonfinite: int | None = None
        self._sum = 0.0
        self._frontier = np.empty((0, 4))
        self._problem: str | None = None

    def add(self, reference: Array, candidate: Array, first_row: int, row_scale: Array | None = None) -> None:
        """Compare a block.

        Args:
            reference: (n, C) what the checkpoint gives.
            candidate: (n, C) what the artifact gives.
            first_row: index of the block's first row.
            row_scale: (n, 1) what one unit is in each row, besides the output's scale; in a row where it is not finite
                nothing is.
        """
        if candidate.shape != reference.shape:
            self.fail(f"shape {candidate.shape}, expected {reference.shape}")
            return
        if not np.issubdtype(candidate.dtype, np.floating):
            self.fail(f"type {candidate.dtype}, expected a floating type")
            return
        self._elements += reference.size
        finite = np.isfinite(reference) & np.isfinite(candidate)
        if row_scale is not None:
            finite &= np.isfinite(row_scale)
        broken = np.flatnonzero(~finite.all(axis=1))
        if broken.size:
            self._nonfinite += int((~finite).sum())
            if self._first_nonfinite is None:
                self._first_nonfinite = first_row + int(broken[0])
        scale = self._scale if row_scale is None else self._scale * row_scale
        with np.errstate(invalid="ignore"):
            error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64)) / scale
            magnitude = np.abs(reference.astype(np.float64)) / scale
        self._sum += float(error.sum(where=finite))
        # Nearly all elements are below the frontier: one look-up instead of sorting them.
        finite &= ~self._below_frontier(error, magnitude)
        rows, channels = np.nonzero(finite)
        block = np.column_stack((error[finite], magnitude[finite], rows + first_row, channels))
        self._frontier = _pareto(np.concatenate((self._frontier, block)))

    def _below_frontier(
        self, error: npt.NDArray[np.float64], magnitude: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Return which elements an element of the frontier exceeds at a smaller or equal reference."""
        if not len(self._frontier):
            return np.zeros(error.shape, np.bool_)
        before = np.searchsorted(self._frontier[:, 1], magnitude, side="right") - 1
        return np.asarray((before >= 0) & (self._frontier[np.maximum(before, 0), 0] >= error))

    def fail(self, problem: str) -> None:
        """Record why a block could not be compared; the first reason stays."""
        self._problem = self._problem or problem

    def result(self, locate: Locate) -> OutputParity:
        """Return the figures; `locate` puts a row index into words."""
        finite = self._elements - self._nonfinite
        return OutputParity(
            name=self.name,
            elements=self._elements,
            nonfinite=self._nonfinite,
            nonfinite_where=None if self._first_nonfinite is None else locate(self._first_nonfinite),
            mean_error=self._sum / finite if finite else 0.0,
            frontier=tuple(
                Element(float(error), float(reference), int(row), int(channel), locate(int(row)))
                for error, reference, row, channel in self._frontier
            ),
            problem=self._problem,
        )


def _pareto(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return those points (n, 4), columns (error, reference, …), whose error exceeds that of all of less reference."""
    if not len(points):
        return points
    ordered = points[np.lexsort((-points[:, 0], points[:, 1]))]
    before = np.maximum.accumulate(np.concatenate(([-1.0], ordered[:-1, 0])))
    return ordered[ordered[:, 0] > before]


@dataclass(frozen=True)
class ChannelError:
    """Largest difference of one physical command.

    Attributes:
        name: action.
        unit: SI unit.
        max_error: largest absolute difference after the action transform, in that unit.
        where: the row where it is.
    """

    name: str
    unit: str
    max_error: float
    where: str


class CommandComparison:
    """Accumulates the largest difference of each physical command.

    Args:
        names: actions.
        units: their SI units.
    """

    def __init__(self, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        self._names, self._units = names, units
        self._largest = np.zeros(len(names))
        self._rows = np.zeros(len(names), dtype=np.int64)

    def add(self, reference: Array, candidate: Array, first_row: int) -> None:
        """Compare a block of physical commands (n, C); rows that are not finite are left to `OutputComparison`."""
        if candidate.shape != reference.shape:
            return
        error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
        error[~np.isfinite(error)] = 0.0
        rows = error.argmax(axis=0)
        largest = error[rows, np.arange(error.shape[1])]
        higher = largest > self._largest
        self._largest[higher] = largest[higher]
        self._rows[higher] = rows[higher] + first_row

    def result(self, locate: Locate) -> tuple[ChannelError, ...]:
        """Return the figures; `locate` puts a row index into words."""
        return tuple(
            ChannelError(name, unit, float(error), locate(int(row)))
            for name, unit, error, row in zip(self._names, self._units, self._largest, self._rows, strict=True)
        )


@dataclass(frozen=True)
class DecisionParity:
    """Gate decisions of an artifact against the checkpoint's.

    Attributes:
        threshold_logit: where the decision is cut; at or above it is a gate pass.
        decisions: how many were compared.
        positive: how many the checkpoint called a gate pass.
        flipped: how many the artifact decided otherwise.
        largest_margin: farthest distance of the checkpoint's logit from the threshold among the flipped ones.
        where: the row of that one, None if nothing flipped.
    """

    threshold_logit: float
    decisions: int
    positive: int
    flipped: int
    largest_margin: float
    where: str | None

    def passes(self, band: float) -> bool:
        """Return whether no decision flipped outside ``|logit - threshold| < band``."""
        return self.flipped == 0 or self.largest_margin < band


class DecisionComparison:
    """Accumulates flipped gate decisions.

    Args:
        threshold_logit: where the decision is cut.
    """

    def __init__(self, threshold_logit: float) -> None:
        self.threshold_logit = threshold_logit
        self._decisions = self._positive = self._flipped = 0
        self._margin, self._row = 0.0, -1

    def add(
        self, logit: Array, decision: npt.NDArray[np.bool_], first_row: int, row_scale: Array | None = None
    ) -> None:
        """Compare a block.

        Args:
            logit: (n,) the checkpoint's logits.
            decision: (n,) the artifact's decisions.
            first_row: index of the block's first row.
            row_scale: (n, 1) what one unit of distance from the threshold is in each row.
        """
        expected = logit >= self.threshold_logit
        self._decisions += logit.size
        self._positive += int(expected.sum())
        rows = np.flatnonzero(expected != decision)
        self._flipped += rows.size
        if rows.size:
            scale = 1.0 if row_scale is None else row_scale[rows, 0]
            margins = np.abs(logit[rows].astype(np.float64) - self.threshold_logit) / scale
            worst = int(margins.argmax())
            if margins[worst] > self._margin or self._row < 0:
                self._margin, self._row = float(margins[worst]), int(rows[worst]) + first_row

    def result(self, locate: Locate) -> DecisionParity:
        """Return the figures; `locate` puts a row index into words."""
        return DecisionParity(
            threshold_logit=self.threshold_logit,
            decisions=self._decisions,
            positive=self._positive,
            flipped=self._flipped,
            largest_margin=self._margin,
            where=locate(self._row) if self._row >= 0 else None,
        )
