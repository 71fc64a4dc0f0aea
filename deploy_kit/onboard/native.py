"""The bundle's C++ header, built on this computer: guards, network and action transform in one native call a step."""

import ctypes
import hashlib
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .builder import built_library
from .bundle import OnboardBundle
from .contract import FloatArray, OnboardContract
from .faults import Fault, OnboardFault
from .golden import sigmoid
from .options import NARROW_TOLERANCES, OnboardOptions


class Answer(IntEnum):
    """What the native call says."""

    DONE = 0
    STATE = 1
    DEPTH = 2
    OUTPUT = 3
    NOT_ITS_FORM = 4


class NativeEngine:
    """The header as a library, open.

    Args:
        bundle: with policy.hpp.
        options: how to run it.

    Attributes:
        state: (16,) write the network's state here before `run`.
        image: (72, 96) write the normalised image here before `run`.
        first: (4,) action or command of the last `run` or `step`.
        gate: (1,) its gate output, None without one.
        providers: "C++", and which weights where they are narrow.
        versions: the library, by the beginning of its sha256.

    Raises:
        OnboardFault: the bundle has no header, it cannot be built or loaded, or it is another policy's.
    """

    def __init__(self, bundle: OnboardBundle, options: OnboardOptions) -> None:
        if bundle.header is None:
            raise OnboardFault(
                Fault.BUNDLE_INCOMPLETE,
                f"the bundle has no header for the engine {options.engine}: export it with --format {options.engine}, "
                "or copy it too",
            )
        self._contract = contract = bundle.contract
        path = built_library(bundle.header, None if options.cpp_cache is None else Path(options.cpp_cache))
        try:
            # PyDLL keeps the interpreter's lock: a step is shorter than getting it back would be.
            self._library = ctypes.PyDLL(str(path))
            self._check_sizes(contract)
            self._check_narrow(options)
            self._step, self._run = self._library.deploy_kit_step, self._library.deploy_kit_run
            self._library.deploy_kit_buffer_bytes.restype = ctypes.c_longlong
            # At a multiple of 64 within it.
            self._memory = np.zeros(self._library.deploy_kit_buffer_bytes() + 64, np.uint8)
            self._buffers = ctypes.c_void_p(self._memory.ctypes.data + -self._memory.ctypes.data % 64)
            self.state = self._buffer("deploy_kit_state", (len(contract.state_low),))
            self.image = self._buffer("deploy_kit_image", contract.image_shape)
        except (OSError, AttributeError) as error:
            raise OnboardFault(Fault.RUNTIME, f"the built policy.hpp cannot be loaded: {error}") from error
        count, size = len(contract.scale), len(contract.state_low)
        self.first: FloatArray = np.zeros(count, np.float32)
        self.gate: FloatArray | None = None if contract.gate_probability is None else np.zeros(1, np.float32)
        narrow = NARROW_TOLERANCES.get(options.engine)
        kind = "" if narrow is None else f" {options.engine[4:]} weights, golden samples within {narrow:g}"
        self.providers: tuple[str, ...] = (f"C++{kind}",)
        self.versions: dict[str, Any] = {"library": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
        self._command, self._logit = np.zeros(count), np.zeros(1, np.float32)
        self._given, self._acting = np.zeros(size), np.zeros(count)
        self._depth = np.zeros(contract.image_shape, np.float32)
        self._low, self._high = np.zeros(size), np.zeros(size)
        acting = contract.last_action
        self._sizes = {size} if acting is None else {size, size - (acting[1] - acting[0])}
        self._outputs = _pointers(self._command, self.first, self._logit)
        inputs = (*_pointers(self._acting, self._low, self._high, self._depth), *self._outputs)
        (given,) = _pointers(self._given)
        self._calls = {count: (self._buffers, given, ctypes.c_int(count), *inputs) for count in self._sizes}
        # The graph gives what the contract says; the header always action and logit.
        self._converted = contract.physical or bool(contract.gate_probability)

    def _check_sizes(self, contract: OnboardContract) -> None:
        found = (ctypes.c_int * 6)()
        self._library.deploy_kit_sizes(found)
        state, rows, columns, _, actions, gate = found
        wanted = (
            len(contract.state_low),
            contract.image_shape,
            len(contract.scale),
            contract.gate_probability is not None,
        )
        if (state, (rows, columns), actions, bool(gate)) != wanted:
            raise OnboardFault(Fault.CONTRACT_INVALID, "policy.hpp has other sizes than contract.json: copy it again")

    def _check_narrow(self, options: OnboardOptions) -> None:
        # The bundle's golden samples are those of the weights as they were, from which narrow ones differ: what this
        # build computes is seen closely only by those of its own.
        if options.engine in NARROW_TOLERANCES and self._library.deploy_kit_self_test() != 0:
            raise OnboardFault(Fault.GOLDEN_MISMATCH, "the golden samples in the header fail: do not fly")

    def _buffer(self, function: str, shape: tuple[int, ...]) -> FloatArray:
        call = getattr(self._library, function)
        call.restype = ctypes.c_void_p
        array = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(call(self._buffers)))
        buffer: FloatArray = array.reshape(shape)
        return buffer

    def bound(self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> None:
        """Set what states are held against: (16,) smallest and largest numbers, the margin included."""
        self._low[:], self._high[:] = low, high

    def step(self, state: npt.NDArray[Any], depth: npt.NDArray[Any], acting: list[float]) -> int:
        """Guard, normalise, run and transform in one call.

        Args:
            state: as the runner's `step` takes it.
            depth: metres.
            acting: command now acting.

        Returns:
            An `Answer`; for any but `DONE` nothing counts, and who called finds out why.
        """
        if type(state) is not np.ndarray or state.ndim != 1 or state.dtype.kind != "f":
            return Answer.NOT_ITS_FORM
        if type(depth) is not np.ndarray or depth.shape != self._depth.shape or depth.dtype.kind != "f":
            return Answer.NOT_ITS_FORM
        call = self._calls.get(state.size)
        if call is None:
            return Answer.NOT_ITS_FORM
        self._given[: state.size] = state
        self._acting[:] = acting
        # Copied, whatever its type and strides: no other thread changes it under the guards.
        self._depth[:] = depth
        answer: int = self._step(*call)
        if answer == 0:
            self._convert()
        return answer

    def run(self) -> None:
        """Run the network on what stands in `state` and `image`."""
        self._run(self._buffers, *self._outputs)
        self._convert()

    def command(self) -> npt.NDArray[np.float64]:
        """Return the physical command of the last `run` or `step`."""
        return self._command.copy()

    def _convert(self) -> None:
        if self.gate is not None:
            self.gate[0] = self._logit[0]
        if self._converted:
            if self._contract.physical:
                self.first[:] = self._command
            if self.gate is not None and self._contract.gate_probability:
                self.gate[0] = sigmoid(float(self._logit[0]))


def _pointers(*arrays: npt.NDArray[Any]) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(array.ctypes.data) for array in arrays)
