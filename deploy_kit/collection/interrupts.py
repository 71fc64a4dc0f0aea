"""Ctrl-C and requests to terminate while rows are collected."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, with which a scheduler takes a machine away, end the block as Ctrl-C does.

    Only the first one does: a scheduler or launcher that asks again while shards are written gets no less.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if not _asked.is_set():
            _asked.set()
            raise KeyboardInterrupt

    _asked.clear()
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.clear()


def raise_if_asked() -> None:
    """Raise KeyboardInterrupt where SIGTERM came before and its exception was lost; called once a step.

    Python drops what a signal's handler raises if it strikes within a destructor or a library's callback.
    """
    if _asked.is_set():
        raise KeyboardInterrupt


def leave_interrupts_to_the_parent() -> None:
    """Ignore Ctrl-C in a process whose parent passes it on as SIGTERM, so that it is told once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
