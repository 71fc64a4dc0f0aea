"""Whether what is to be read fits into memory, asked before it is taken."""

import os
from pathlib import Path

from deploy_kit.errors import DatasetError

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux mounts the limits of a container (cgroup version 2)."""


def available_memory() -> int | None:
    """Return the bytes that can still be taken, within a container's limit too; None where the system does not say."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (AttributeError, OSError, ValueError):
        return None
    try:
        limit, used = (CGROUP / "memory.max").read_text().strip(), (CGROUP / "memory.current").read_text()
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def resident_memory() -> int:
    """Return the bytes that this process takes now, 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def require_memory(nbytes: int, what: str) -> None:
    """Check that a number of bytes can be taken.

    Args:
        nbytes: bytes needed.
        what: what they are for, the beginning of the message.

    Raises:
        DatasetError: less than that is available.
    """
    available = available_memory()
    if available is not None and nbytes > available:
        raise DatasetError(
            f"{what} needs {nbytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free; "
            "collect fewer rows or use a machine with more memory"
        )
