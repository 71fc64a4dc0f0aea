"""Says how three numbers were mistaken for three others: signs, order of the axes, scale."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_AXES = "xyz"

_SCALES: tuple[tuple[float, str], ...] = (
    (1000.0, "millimetres in place of metres"),
    (100.0, "centimetres in place of metres"),
    (180.0 / np.pi, "degrees in place of radians"),
    (9.80665, "multiplied by g"),
    (3.6, "km/h in place of m/s"),
)
"""Factors with a name; their inverses are the same mistake the other way round."""

SCALE_TOLERANCE = 0.02
"""Relative; a factor as close to a named one bears its name."""


@dataclass(frozen=True)
class AxisChange:
    """Numbers found where others were expected: found = scale · sign · expected[order].

    Attributes:
        order: which of the expected axes stands where.
        sign: ±1 each.
        scale: factor on all.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    sign: tuple[int, int, int] = (1, 1, 1)
    scale: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether nothing was changed but perhaps the scale."""
        return self.order == (0, 1, 2) and self.sign == (1, 1, 1)

    def apply(self, vectors: Float64) -> Float64:
        """Return the changed vectors (n, 3)."""
        changed: Float64 = self.scale * np.array(self.sign) * vectors[:, list(self.order)]
        return changed

    def undo(self, vectors: Float64) -> Float64:
        """Return vectors (n, 3) as they were before the change."""
        restored = np.empty_like(vectors)
        restored[:, list(self.order)] = vectors / (self.scale * np.array(self.sign))
        return restored

    def __str__(self) -> str:
        parts = []
        if self.order == (1, 0, 2) and self.sign == (1, 1, -1):
            parts.append("north-east-down in place of east-north-up")
        elif self.order == (0, 1, 2) and self.sign == (1, -1, -1):
            parts.append("y and z have the opposite sign: forward-right-down in place of forward-left-up")
        else:
            if self.order != (0, 1, 2):
                parts.append(f"order of the axes: {', '.join(_AXES[axis] for axis in self.order)} in place of x, y, z")
            if flipped := [_AXES[axis] for axis in range(3) if self.sign[axis] < 0]:
                verb = "has" if len(flipped) == 1 else "have"
                parts.append(f"{' and '.join(flipped)} {verb} the opposite sign")
        if abs(self.scale - 1) > SCALE_TOLERANCE:
            parts.append(f"scaled by {self.scale:.4g}{_scale_name(self.scale)}")
        return "; ".join(parts) or "nothing"


ALL_CHANGES: tuple[AxisChange, ...] = tuple(
    AxisChange(order, sign)  # type: ignore[arg-type] # itertools knows no lengths
    for order in itertools.permutations(range(3))
    for sign in itertools.product((1, -1), repeat=3)
)
"""The 48 orders and signs, none first."""


def _scale_name(scale: float) -> str:
    for factor, name in _SCALES:
        if abs(scale / factor - 1) < SCALE_TOLERANCE:
            return f" ({name})"
        if abs(scale * factor - 1) < SCALE_TOLERANCE:
            wrong, right = name.split(" in place of ") if " in place of " in name else ("", "")
            return f" ({right} in place of {wrong})" if wrong else f" (divided by {name.split()[-1]})"
    return ""


def find_change(expected: Float64, found: Float64, tolerance: float = 0.02) -> AxisChange | None:
    """Return the change of axes and scale that makes the found vectors of the expected ones, None if none does.

    Args:
        expected: (n, 3).
        found: (n, 3).
        tolerance: largest error that is left, over the size of what was found.
    """
    size = np.linalg.norm(found)
    if not np.isfinite(size) or size == 0:
        return None
    best, least = None, tolerance
    for change in ALL_CHANGES:
        moved = change.apply(expected)
        power = float((moved * moved).sum())
        scale = float((moved * found).sum()) / power if power else 0.0
        # A negative factor is another set of signs.
        if scale <= 0:
            continue
        left = float(np.linalg.norm(found - scale * moved) / size)
        if left < least * (1 - 1e-6):
            best, least = AxisChange(change.order, change.sign, scale), left
    return best
