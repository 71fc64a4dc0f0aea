"""The order in which weights lie in memory, so that a kernel reads them from the first to the last."""

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]

STEP = 8
"""Buffers and outputs are filled up with zeros to a multiple of this, the widest vector."""

CONVOLUTION_PANELS = (16, 8)
DENSE_PANELS = (64, 32, 16, 8)
"""Widths of the panels, as in kernels.hpp: as many of the first as fit, then at most one of each other."""


def padded(count: int) -> int:
    """Return a number of outputs, filled up."""
    return -(-count // STEP) * STEP


def panels(matrix: Numbers, widths: tuple[int, ...]) -> Numbers:
    """Return a matrix (inputs, outputs) as panels of columns, each stored input by input.

    Args:
        matrix: its outputs are filled up with zeros to a multiple of `STEP`.
        widths: widths of panels.
    """
    inputs, outputs = matrix.shape
    filled = np.zeros((inputs, padded(outputs)), matrix.dtype)
    filled[:, :outputs] = matrix
    parts, start = [], 0
    for width in widths:
        while filled.shape[1] - start >= width:
            parts.append(filled[:, start : start + width].ravel())
            start += width
    return np.concatenate(parts)


def filled_up(vector: Float32) -> Float32:
    """Return a bias with zeros up to a multiple of `STEP`."""
    return np.pad(vector, (0, padded(len(vector)) - len(vector)))


def convolution_weights(weight: Float32, channels: int) -> Numbers:
    """Return a convolution's weights (out, in, rows, columns), for pixels of `channels` numbers, in panels."""
    out, inside, rows, columns = weight.shape
    wide = np.zeros((rows, columns, channels, out), np.float32)
    wide[:, :, :inside] = weight.transpose(2, 3, 1, 0)
    return panels(wide.reshape(-1, out), CONVOLUTION_PANELS)


def dense_weights(weight: Numbers, groups: int, size: int) -> Numbers:
    """Return a matrix (outputs, inputs) in panels, for a buffer of groups of numbers, each filled up to `size`."""
    outputs = len(weight)
    wide = np.zeros((groups, size, outputs), weight.dtype)
    inside = weight.T.reshape(groups, -1, outputs)
    wide[:, : inside.shape[1]] = inside
    return panels(wide.reshape(-1, outputs), DENSE_PANELS)
