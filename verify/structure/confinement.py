"""What a process gives up before it runs what was not written here: Landlock, seccomp and limits (Linux).

Landlock keeps it from writing files and opening connections, seccomp from what Landlock does not know: starting
processes, sockets of any kind, signals to others, changing modes, owners, times and limits. Threads are allowed.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_NO_NEW_PRIVILEGES = 38
_FILTER_MODE, _ALL_THREADS = 1, 1
_MIN_ABI = 3
"""First version of Landlock that keeps a process from cutting files to length 0."""

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3

MEMORY = 4 << 30
"""Bytes of address space that may be taken beyond what torch takes itself."""

CPU_SECONDS = 3600
"""Of the process, which serves all modules of a session."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000

_NEW_CALLS = (424, 425, 426, 427, 434, 438, 440, 452, 463, 466)
"""pidfd_send_signal, io_uring (three), pidfd_open, pidfd_getfd, process_madvise, fchmodat2, setxattrat, removexattrat:
new calls have one number everywhere."""

_MACHINES: dict[str, tuple[tuple[int, int, int, int, int, int], tuple[int, ...]]] = {
    "x86_64": (
        (0xC000003E, 317, 56, 302, 160, 234),
        (
            *(41, 42, 43, 44, 45, 46, 47, 49, 50, 53, 288, 299, 307),
            *(57, 58, 59, 322, 101, 310, 311),
            *(62, 129, 200, 297),
            *(90, 91, 92, 93, 94, 132, 235, 260, 261, 268, 280, 188, 189, 190, 197, 198, 199),
            *(133, 259, 165, 166, 272, 308, 155, 161),
            *(248, 249, 250, 298, 319, 321, 323, 175, 176, 313, 246, 320, 169),
            *(29, 30, 31, 64, 65, 66, 68, 69, 71, 240, 241),
            *(159, 164, 170, 171, 227, 305),
        ),
    ),
    "aarch64": (
        (0xC00000B7, 277, 220, 261, 164, 131),
        (
            *(198, 199, 200, 201, 202, 203, 206, 207, 211, 212, 242, 243, 269),
            *(221, 281, 117, 270, 271),
            *(129, 130, 138, 240),
            *(52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16),
            *(33, 39, 40, 97, 268, 41, 51),
            *(217, 218, 219, 241, 279, 280, 282, 105, 106, 273, 104, 294, 142),
            *(186, 187, 188, 189, 190, 191, 193, 194, 195, 196, 180, 181),
            *(161, 162, 170, 171, 112, 266),
        ),
    ),
}
"""Of each kind of machine its audit number, the calls seccomp, clone, prlimit64, setrlimit and tgkill, and the calls
that are refused: sockets; processes; signals; modes, owners, times, attributes; nodes, mounts, namespaces; keys, kernel
modules; shared memory and queues; clocks and names."""

_CLONE3 = 435
_THREAD = 0x00010000


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, 1)))


def unavailable() -> str | None:
    """Return why nothing can be run safely here, None if it can."""
    if (version := landlock_version()) < _MIN_ABI:
        return f"it is run only where it cannot write: that needs Landlock {_MIN_ABI} (Linux 6.2), here is {version}"
    if platform.machine() not in _MACHINES:
        return f"it is run only where it cannot start programs: system calls of {platform.machine()} are not known"
    return None


def confine_files() -> None:
    """Take from this thread, and all that it starts, the right to write files, run programs and open connections.

    Raises:
        OSError: the kernel refuses.
    """
    libc, version = ctypes.CDLL(None, use_errno=True), landlock_version()
    rights = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    rules = struct.pack("<Q", rights & ~(_READ_FILE | _READ_FOLDER))
    rules += struct.pack("<Q", 0b11) if version >= 4 else b""
    rules += struct.pack("<Q", 0b11) if version >= 6 else b""
    ruleset = libc.syscall(_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0 or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock refuses")
    os.close(ruleset)


def confine_calls() -> None:
    """Limit memory, time and files of this process, and take system calls from all its threads.

    Raises:
        OSError: the kernel refuses.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        memory = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, CPU_SECONDS),
    ):
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(limit, (most, most))
    machine = platform.machine()
    program = _seccomp_filter(machine, os.getpid())
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_MACHINES[machine][0][1], _FILTER_MODE, _ALL_THREADS, header):
        raise OSError(ctypes.get_errno(), "seccomp refuses")


def _seccomp_filter(machine: str, process: int) -> bytes:
    """Return a BPF program: what is on the list fails with EPERM, another machine's calls end the process."""
    (audit, _, clone, prlimit, setrlimit, tgkill), refused = _MACHINES[machine]
    deny, absent = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        # Calls of the x32 interface.
        (_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, deny),
        # clone3's flags are out of reach; without it libc falls back to clone.
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, absent),
        (_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, 16),
        (_ANY_BIT, 1, 0, _THREAD),
        (_RETURN, 0, 0, deny),
        (_RETURN, 0, 0, _ALLOW),
        # Reading limits is allowed, setting them is not.
        (_EQUAL, 0, 6, prlimit),
        (_LOAD, 0, 0, 32),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, 36),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, deny),
        (_RETURN, 0, 0, _ALLOW),
    ]
    # Signals to this process alone, as abort() sends one.
    program += [(_EQUAL, 0, 4, tgkill), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, process), (_RETURN, 0, 0, deny)]
    program.append((_RETURN, 0, 0, _ALLOW))
    for call in (setrlimit, *refused, *_NEW_CALLS):
        program += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, deny)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in program)
