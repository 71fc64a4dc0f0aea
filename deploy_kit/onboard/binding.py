"""A session's inputs and outputs, bound to arrays of one's own so that a step allocates none."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnxruntime

SHARES_MEMORY = ("CPUExecutionProvider",)
"""Providers that read a bound array itself. The others get a copy of it on their device when it is bound, so that what
is written to the array later reaches them only if it is copied again."""


class BoundSession:
    """Runs a session on what stands in its input arrays, and leaves the results in its output arrays.

    Args:
        session: the session.
        inputs: name and array of each input, contiguous.
        outputs: likewise; they are written by `run`.

    Raises:
        Exception: one of onnxruntime's own: a name or shape is not the session's.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Iterable[tuple[str, npt.NDArray[np.generic]]],
        outputs: Iterable[tuple[str, npt.NDArray[np.generic]]],
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._copies = session.get_providers()[0] not in SHARES_MEMORY
        self._bind_inputs()
        for name, array in self._outputs:
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_inputs(self) -> None:
        for name, array in self._inputs:
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Run the graph; the outputs are there when it returns.

        Raises:
            Exception: one of onnxruntime's own.
        """
        if not self._copies:
            self._session.run_with_iobinding(self._binding)
            return
        self._bind_inputs()
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
