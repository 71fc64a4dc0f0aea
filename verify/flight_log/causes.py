"""Likely causes of numbers that differ from what they should be."""

import numpy as np
import numpy.typing as npt

from deploy_kit.onboard.axes import AxisChange, find_change

Array = npt.NDArray[np.floating]

_MIRRORED: dict[str, tuple[int, ...]] = {
    "upside down": (1,),
    "mirrored left to right": (2,),
    "turned by 180 degrees": (1, 2),
}
"""How an image may stand, with the axes of (n, rows, columns) that are turned round."""


def state_cause(expected: Array, found: Array) -> str:
    """Say how a term (n, size) came out otherwise than expected, empty if nothing simple explains it."""
    if expected.shape[1] == 3 and (change := find_change(expected.astype(float), found.astype(float))) is not None:
        return str(change)
    return affine_cause(expected, found)


def affine_cause(expected: Array, found: Array, tolerance: float = 1e-3) -> str:
    """Say by which factor and offset numbers of one quantity differ, empty if by none."""
    x, y = expected.ravel().astype(float), found.ravel().astype(float)
    spread = x - x.mean()
    power, size = float(spread @ spread), float(np.abs(y).max(initial=0.0))
    if power < 1e-12 or not np.isfinite(power) or not np.isfinite(size):
        return ""
    slope = float(spread @ (y - y.mean())) / power
    offset = float(y.mean() - slope * x.mean())
    if np.abs(y - slope * x - offset).max() > tolerance * max(size, 1e-9):
        return ""
    parts = []
    if abs(slope - 1) > tolerance:
        parts.append(str(AxisChange(scale=slope)) if slope > 0 else f"scaled by {slope:.4g}, the opposite sign")
    if abs(offset) > tolerance * max(size, 1e-9):
        parts.append(f"shifted by {offset:+.4g}")
    return ", ".join(parts)


def image_cause(expected: Array, found: Array) -> str:
    """Say how images (n, rows, columns) came out otherwise than expected, empty if nothing simple explains it."""
    for name, axes in _MIRRORED.items():
        if np.allclose(np.flip(expected, axes), found, atol=1e-5):
            return name
    # Beyond the clip all pixels are alike: what lies nearer tells the scale.
    near = (expected < expected.max()) & (found < found.max())
    if near.sum() > 10 and (cause := affine_cause(expected[near], found[near])):
        return cause
    if near.sum() > 10 and np.allclose(expected[near], found[near], atol=1e-5):
        return f"cut at {found.max():.4g} in place of {expected.max():.4g}"
    return ""
