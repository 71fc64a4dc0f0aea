"""The bundle's C++ header, built on this computer: guards, network and action transform in one native call a step."""

import ctypes
import hashlib
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

_INTERFACE = 2
"""Version of the header's functions for other languages that is called here."""

_ARRAY, _FLOAT32, _FLOAT64 = np.ndarray, np.dtype(np.float32), np.dtype(np.float64)


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
        command: gives a copy of the physical command of the last `run` or `step`, (4,) float64.
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
            self._check_interface()
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
        self._command, self._logit = np.zeros(count), np.zeros(1, np.float32)
        # The graph gives what the contract says; the header always action and logit.
        self._converted = contract.physical or bool(contract.gate_probability)
        self.gate: FloatArray | None = None
        if contract.gate_probability is not None:
            self.gate = np.zeros(1, np.float32) if contract.gate_probability else self._logit
        narrow = NARROW_TOLERANCES.get(options.engine)
        kind = "" if narrow is None else f" {options.engine[4:]} weights, golden samples within {narrow:g}"
        self.providers: tuple[str, ...] = (f"C++{kind}",)
        self.versions: dict[str, Any] = {"library": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
        self._given = np.zeros(size)
        # ctypes takes a list in half of numpy's time.
        self._acting: Any = (ctypes.c_double * count)()
        self._low, self._high = np.zeros(size), np.zeros(size)
        self._action = np.zeros(count, np.float32) if contract.physical else self.first
        self.command, self._numbers = self._command.copy, self._command.tolist
        self._outputs = _pointers(self._command, self._action, self._logit)
        self._shape = contract.image_shape
        acting = contract.last_action
        sizes = {size} if acting is None else {size, size - (acting[1] - acting[0])}
        self._bound = {(given,): (self._given[:given], ctypes.byref(self._call(given))) for given in sizes}

    def _call(self, count: int) -> "_Step":
        """Return what a native step with so many numbers of the state reads and writes."""
        (given,) = _pointers(self._given)
        acting = ctypes.addressof(self._acting)
        return _Step(self._buffers, given, acting, *_pointers(self._low, self._high), *self._outputs, count)

    def _check_interface(self) -> None:
        # A function of the same name that takes other arguments would read whatever lies there.
        of = getattr(self._library, "deploy_kit_interface", lambda: 1)()
        if of != _INTERFACE:
            raise OnboardFault(
                Fault.RUNTIME,
                f"the header's interface is version {of}, this runner calls version {_INTERFACE}: export the bundle "
                "anew and verify it, or fly it with the deploy-kit that exported it",
            )

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

    def step(self, state: npt.NDArray[Any], depth: npt.NDArray[Any], acting: list[float]) -> list[float] | None:
        """Guard, normalise, run and transform in one call.

        Args:
            state: as the runner's `step` takes it.
            depth: metres.
            acting: command now acting.

        Returns:
            The physical command; None where something is refused or of another form, and who called finds out why.
        """
        if type(state) is not _ARRAY or type(depth) is not _ARRAY or depth.shape != self._shape:
            return None
        bound = self._bound.get(state.shape)
        # Most come in these types, which are quick to tell.
        if (
            bound is None
            or (state.dtype is not _FLOAT64 and state.dtype.kind != "f")
            or (depth.dtype is not _FLOAT32 and depth.dtype.kind != "f")
        ):
            return None
        # Copied, whatever its type and strides: no other thread changes it under the guards. To ask numpy for its
        # address would take as long.
        try:
            self.image[...] = depth
            bound[0][...] = state
        except (FloatingPointError, RuntimeWarning):
            # A number beyond float32, where the caller makes numpy or Python raise at one.
            return None
        self._acting[:] = acting
        if self._step(bound[1]):
            return None
        if self._converted:
            self._convert()
        return self._numbers()

    def run(self) -> None:
        """Run the network on what stands in `state` and `image`."""
        self._run(self._buffers, *self._outputs)
        if self._converted:
            self._convert()

    def _convert(self) -> None:
        if self._contract.physical:
            self.first[:] = self._command
        if self.gate is not None and self._contract.gate_probability:
            self.gate[0] = sigmoid(float(self._logit[0]))


class _Step(ctypes.Structure):
    """The header's DeployKitStep."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("buffers", "state", "acting", "low", "high")),
        *((name, ctypes.c_void_p) for name in ("command", "action", "logit")),
        ("count", ctypes.c_longlong),
    )


def _pointers(*arrays: npt.NDArray[Any]) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(array.ctypes.data) for array in arrays)
