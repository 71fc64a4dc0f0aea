"""Computes a program in float64, with its weights as they are stored: what a build with narrow weights must give."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.cpp.activations import Activation
from deploy_kit.cpp.program import (
    ACTION,
    FEATURES,
    GATE,
    IMAGE,
    STATE,
    Convolution,
    Convolutions,
    Float32,
    Normalise,
    Program,
)
from deploy_kit.cpp.storage import Storage, stored_matrices

Float64 = npt.NDArray[np.float64]

_AT_ONCE = 64
"""Rows that are computed together: more take more memory."""


class StoredNetwork:
    """A program with its weights as they are stored.

    Args:
        program: what the network computes.
        storage: how large matrices are stored.
        ordered: whether sums run in one order on every machine, so that they give the same bits; that is slower.

    Raises:
        OptionError: a weight cannot be stored so.
    """

    def __init__(self, program: Program, storage: Storage, ordered: bool = False) -> None:
        self._program, self._ordered = program, ordered
        matrices = stored_matrices(program, storage)
        self._weights = {name: matrix.weight.T.copy() for name, matrix in matrices.items()}

    def __call__(self, observation: Float32) -> dict[str, Float64]:
        """Return action, features and, where there is one, gate logit of normalised observations (n, 6928)."""
        parts = [self._some(observation[row : row + _AT_ONCE]) for row in range(0, len(observation), _AT_ONCE)]
        names = {"action": ACTION, "features": FEATURES, **({"gate_logit": GATE} if self._program.gate else {})}
        return {name: np.concatenate([part[buffer] for part in parts]) for name, buffer in names.items()}

    def _some(self, observation: Float32) -> dict[str, Float64]:
        program = self._program
        state, image = np.split(observation.astype(np.float64), [program.state_size], axis=1)
        buffers = {STATE: state, IMAGE: image}
        for step in (*program.encoder, *program.heads):
            if isinstance(step, Normalise):
                buffers[step.target] = (buffers[step.source] - step.mean) / step.scale
            elif isinstance(step, Convolutions):
                pixels = buffers[step.source].reshape(-1, *step.shape, 1)
                for layer in step.layers:
                    pixels = self._convolve(pixels, layer)
                buffers[step.target] = pixels.reshape(len(pixels), -1)
            else:
                total = np.broadcast_to(step.bias.astype(np.float64), (len(observation), len(step.bias)))
                for product in step.products:
                    total = total + self._multiply(buffers[product.source], self._weights[product.name])
                buffers[step.target] = _activate(step.activation, total)
        return buffers

    def _convolve(self, pixels: Float64, layer: Convolution) -> Float64:
        """Return a convolution's output (n, rows, columns, channels) of pixels in the same form."""
        out, inside, rows, columns = layer.weight.shape
        down, right = layer.stride
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (rows, columns), axis=(1, 2))
        windows = windows[:, ::down, ::right]
        patches = windows.reshape(-1, inside * rows * columns)
        total = layer.bias + self._multiply(patches, layer.weight.reshape(out, -1).T.astype(np.float64))
        return _activate(layer.activation, total.reshape(*windows.shape[:3], out))

    def _multiply(self, values: Float64, weight: Float64) -> Float64:
        if not self._ordered:
            return values @ weight
        total = np.zeros((len(values), weight.shape[1]))
        for index, row in enumerate(weight):
            total += values[:, index, None] * row
        return total


def _activate(activation: Activation, values: Float64) -> Float64:
    with torch.inference_mode():
        result: Any = activation.module(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return np.asarray(result, np.float64)
