"""Compilation of the embedded simulator's inner loops with numba."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event

Function = TypeVar("Function", bound=Callable[..., Any])

_logger = logging.getLogger(__name__)


class _Announcement(event.Listener):  # type: ignore[misc]  # numba carries no types
    """Says once that functions are being compiled; loading them from the cache is no such event."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: object) -> None:
        """Take note that a compilation begins."""
        if not self._said:
            self._said = True
            _logger.info("compiling the embedded simulator's inner loops: some seconds, once on this machine")

    def on_end(self, event: object) -> None:
        """Take note that a compilation has ended."""


_announcement = _Announcement()


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compile a function for one signature, without Python's lock and without checks of divisions.

    The result is kept on disk, beside the source or, where that cannot be written, in the user's cache folder. numba
    tells by the source file alone whether it is still right: a compiled function may call none of another file.

    Args:
        signature: types of result and arguments, in numba's notation.
    """

    def compile_function(function: Function) -> Function:
        # A product and a sum may be rounded once instead of twice and the sign of zero lost; nothing is reordered.
        options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
        with event.install_listener("numba:compile", _announcement):
            try:
                dispatcher = numba.njit(signature, cache=True, **options)(function)
            except RuntimeError as error:
                if "cannot cache" not in str(error):
                    raise
                _logger.warning(
                    "no folder can be written that would keep compiled code, so that every start compiles anew; "
                    "name one in the environment variable NUMBA_CACHE_DIR"
                )
                dispatcher = numba.njit(signature, **options)(function)
        return cast(Function, dispatcher)

    return compile_function
