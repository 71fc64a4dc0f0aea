"""Locks between processes, which the operating system lets go of when their holder ends."""

import errno
import fcntl
import os
from pathlib import Path


class Lock:
    """A lock file. Leaving the process lets go of it.

    Args:
        path: the lock file.

    Raises:
        BlockingIOError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file meanwhile: then this one locks nothing.
            if not path.exists() or os.fstat(self._descriptor).st_ino != path.stat().st_ino:
                raise BlockingIOError(errno.EAGAIN, "the lock file was replaced", str(path))
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock file."""
    if not path.exists():
        return False
    try:
        Lock(path).release()
    except BlockingIOError:
        return True
    return False
