"""Calls a header that was built into a shared library, through ctypes."""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs

Rows = Callable[[Float32], Outputs]


class PolicyLibrary:
    """A built policy.

    Args:
        path: the shared library.

    Attributes:
        state_size: numbers of the state.
        image_shape: (rows, columns).
        feature_size: numbers of the features.
        num_actions: numbers of the action.
        gate: whether it has a gate output.

    Raises:
        ArtifactError: it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            sizes = (ctypes.c_int * 6)()
            self._library.deploy_kit_sizes(sizes)
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"the built policy cannot be loaded: {error}") from error
        self.state_size, rows, columns, self.feature_size, self.num_actions, gate = list(sizes)
        self.image_shape = (rows, columns)
        self.gate = bool(gate)
        self._library.deploy_kit_buffer_bytes.restype = ctypes.c_longlong
        # At a multiple of 64 within it.
        self._memory = np.zeros(self._library.deploy_kit_buffer_bytes() + 64, np.uint8)
        self._buffers = ctypes.c_void_p(self._memory.ctypes.data + -self._memory.ctypes.data % 64)
        self.state = self._buffer(self._library.deploy_kit_state, (self.state_size,))
        self.image = self._buffer(self._library.deploy_kit_image, self.image_shape)
        self._one = np.zeros(self.num_actions), np.zeros(self.num_actions, np.float32), np.zeros(1, np.float32)
        self._pointers = tuple(map(_pointer, self._one))

    def _buffer(self, function: Any, shape: tuple[int, ...]) -> Float32:
        function.restype = ctypes.c_void_p
        numbers = (ctypes.c_float * math.prod(shape)).from_address(function(self._buffers))
        return np.ctypeslib.as_array(numbers).reshape(shape)

    @property
    def observation_size(self) -> int:
        """Numbers of a flat observation."""
        return int(self.state_size + self.image_shape[0] * self.image_shape[1])

    def self_test(self) -> bool:
        """Return whether the golden samples inside the header come out right."""
        return int(self._library.deploy_kit_self_test()) == 0

    def run(self) -> tuple[npt.NDArray[np.float64], Float32, float]:
        """Run the network on what stands in `state` and `image`; return command, action and gate logit.

        The arrays are overwritten by the next call.
        """
        self._library.deploy_kit_run(self._buffers, *self._pointers)
        command, action, logit = self._one
        return command, action, float(logit[0])

    def rows(self, observation: Float32) -> Outputs:
        """Return action, command, gate logit and features of normalised observations (n, 6928)."""
        observation = _fitting(observation, self.observation_size)
        count = len(observation)
        outputs: Outputs = {
            "action": np.zeros((count, self.num_actions), np.float32),
            "command": np.zeros((count, self.num_actions)),
            "gate_logit": np.zeros((count, 1), np.float32),
            "features": np.zeros((count, self.feature_size), np.float32),
        }
        self._library.deploy_kit_rows(
            self._buffers, _pointer(observation), ctypes.c_longlong(count), *map(_pointer, outputs.values())
        )
        return self._with_gate(outputs)

    def heads(self, features: Float32) -> Outputs:
        """Return action and gate logit of features (n, 192)."""
        features = _fitting(features, self.feature_size)
        count = len(features)
        outputs: Outputs = {
            "action": np.zeros((count, self.num_actions), np.float32),
            "gate_logit": np.zeros((count, 1), np.float32),
        }
        self._library.deploy_kit_heads(
            self._buffers, _pointer(features), ctypes.c_longlong(count), *map(_pointer, outputs.values())
        )
        return self._with_gate(outputs)

    def _with_gate(self, outputs: Outputs) -> Outputs:
        if not self.gate:
            del outputs["gate_logit"]
        return outputs


def _fitting(rows: Float32, width: int) -> Float32:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ArtifactError(f"the built policy takes rows of {width} numbers, not {rows.shape}")
    return np.ascontiguousarray(rows, np.float32)


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
