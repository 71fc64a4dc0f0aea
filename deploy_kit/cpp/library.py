"""Calls a header that was built into a shared library, through ctypes."""

import ctypes
import math
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs

Rows = Callable[[Float32], Outputs]


class Steps(NamedTuple):
    """What policies with a memory gave in one step, (n, …); zeros where a step was refused.

    Attributes:
        fault: number of the header's `Fault`, 0 for none.
        event: 1 where the detector announces a passage.
        command: in the contract's units, (n, A).
        action: the network's, (n, A).
        gate_logit: (n, 1); 0 without a gate output.
    """

    fault: npt.NDArray[np.int32]
    event: npt.NDArray[np.int32]
    command: npt.NDArray[np.float64]
    action: Float32
    gate_logit: Float32

    @classmethod
    def empty(cls, count: int, num_actions: int) -> "Steps":
        """Return zeros."""
        return cls(
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
            np.zeros((count, num_actions)),
            np.zeros((count, num_actions), np.float32),
            np.zeros((count, 1), np.float32),
        )


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
        self._policies: list[ctypes.c_void_p] = []

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

    def begin(self, count: int) -> None:
        """Make policies anew, each with the memory of one drone, as at the start of an episode; any image is flown."""
        size = self._library.deploy_kit_policy_bytes
        size.restype = ctypes.c_longlong
        each = -(-size() // 64) * 64
        self._places = np.zeros(each * count + 64, np.uint8)
        start = self._places.ctypes.data + -self._places.ctypes.data % 64
        self._policies = [ctypes.c_void_p(start + index * each) for index in range(count)]
        for policy in self._policies:
            self._library.deploy_kit_policy_begin(policy, ctypes.c_double(-1.0))

    def steps(self, policies: npt.NDArray[np.int32], state: npt.NDArray[np.float64], depth: Float32) -> Steps:
        """Let some of the policies compute a step, as they would on board.

        Args:
            policies: (n,) which ones.
            state: (n, S) in the contract's units, with or without the command that acts.
            depth: (n, rows · columns) metres.

        Raises:
            ArtifactError: the arrays do not fit.
        """
        count = len(policies)
        if depth.shape != (count, math.prod(self.image_shape)) or state.ndim != 2 or len(state) != count:
            raise ArtifactError(f"the built policy takes images of {self.image_shape}, not {depth.shape}")
        steps = Steps.empty(count, self.num_actions)
        state, depth = np.ascontiguousarray(state, np.float64), np.ascontiguousarray(depth, np.float32)
        for row, index in enumerate(policies):
            outputs = (steps.command[row], steps.action[row], steps.gate_logit[row], steps.event[row : row + 1])
            steps.fault[row] = self._library.deploy_kit_policy_step(
                self._policies[index],
                _pointer(state[row]),
                ctypes.c_int(state.shape[1]),
                _pointer(depth[row]),
                *map(_pointer, outputs),
            )
        return steps

    def hold(self, policy: int, command: npt.NDArray[np.float64] | None) -> None:
        """Tell a policy which command (A,) flew in place of its own, in the contract's units; None: its last one."""
        given = None if command is None else np.ascontiguousarray(command, np.float64)
        self._library.deploy_kit_policy_hold(self._policies[policy], None if given is None else _pointer(given))

    def _with_gate(self, outputs: Outputs) -> Outputs:
        if not self.gate:
            del outputs["gate_logit"]
        return outputs


def fault_name(number: int) -> str:
    """Return a `Fault` of the header in words: "state out of range"."""
    text = files("deploy_kit.cpp").joinpath("parts", "policy.hpp").read_text(encoding="utf-8")
    body = text.partition("enum class Fault : int {")[2].partition("};")[0]
    names = re.findall(r"^  k(\w+)", body, re.MULTILINE)
    return re.sub(r"(?<=[a-z])([A-Z])", r" \1", names[number]).lower() if 0 <= number < len(names) else str(number)


def _fitting(rows: Float32, width: int) -> Float32:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ArtifactError(f"the built policy takes rows of {width} numbers, not {rows.shape}")
    return np.ascontiguousarray(rows, np.float32)


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
