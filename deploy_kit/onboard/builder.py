"""Builds the bundle's C++ header into a shared library, once on each computer, in a folder that nobody else can write.

The header is code, and runs with the rights of this process: the runner builds it only where the report beside the
bundle says that these very files were verified.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from .faults import Fault, OnboardFault

COMPILERS = ("g++", "c++", "clang++")
"""What is looked for, in this order, where the variable CXX names none."""

SECONDS = 900
"""Wall time that a build may take; a small computer takes a minute."""

_SOURCE = '#define DEPLOY_KIT_C_INTERFACE\n#include "policy.hpp"\n'


def built_library(header: bytes, cache: Path | None = None) -> Path:
    """Return the library that a header builds to on this computer, from the cache if it was built before.

    Args:
        header: policy.hpp.
        cache: folder of builds; `$XDG_CACHE_HOME/deploy-kit/cpp`, or that in ~/.cache, if None.

    Raises:
        OnboardFault: there is no compiler, it refuses, or the folder is not this user's alone.
    """
    compiler, version = _compiler()
    flags = ("-std=c++17", "-O3", _machine_flag(), "-fPIC", "-shared", "-fvisibility=hidden")
    told = "\0".join((_SOURCE, compiler, version, *flags, platform.machine(), _processor()))
    key = hashlib.sha256(header + told.encode("utf-8", "replace")).hexdigest()[:32]
    folder = private_folder(cache or _usual_folder(), "builds")
    library, record = folder / f"{key}.so", folder / f"{key}.json"
    if not _is_whole(library, record):
        _build(header, compiler, flags, library, record)
    return library


def _compiler() -> tuple[str, str]:
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    path = next((path for name in names if (path := shutil.which(name)) is not None), None)
    if path is None:
        raise OnboardFault(
            Fault.RUNTIME, f"no C++ compiler was found ({', '.join(names)}): apt-get install g++, or fly onnxruntime"
        )
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise OnboardFault(Fault.RUNTIME, f"{path} cannot be run: {error}") from error
    return path, said.decode("utf-8", "replace")


def _machine_flag() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"


def _processor() -> str:
    """Return the processor's features: what is built for one may not run on another with the same disk."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    named = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(named)}))


def _usual_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "deploy-kit" / "cpp"


def private_folder(folder: Path, holds: str) -> Path:
    """Return a folder of code that runs here, made if it is not there, once nobody else can exchange what it holds.

    Args:
        folder: the folder; "~" is this user's home.
        holds: what it holds, in words.

    Returns:
        Its absolute path, without links.

    Raises:
        OnboardFault: others can write it, or a folder above it.
    """
    # A library whose name has no folder would be looked for where the system's lie.
    folder = Path(os.path.abspath(folder.expanduser()))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise OnboardFault(Fault.RUNTIME, f"{folder} cannot hold {holds}: {error.strerror or error}") from error
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    if not stat.S_ISDIR(found.st_mode) or not mine or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OnboardFault(
            Fault.RUNTIME,
            f"{folder} can be written by others, who could exchange what flies: chmod 700, or another one",
        )
    # Whoever owns a link among the folders above cannot lead elsewhere what was checked here.
    folder = folder.resolve()
    for above in folder.parents:
        status = above.stat()
        mode = status.st_mode
        # Who may rename a folder can put another in its place; the sticky bit, as of /tmp, forbids it.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise OnboardFault(
                Fault.RUNTIME, f"{above}, above {folder}, can be written by everybody, who could exchange what flies"
            )
        # The owner can always.
        if hasattr(os, "getuid") and status.st_uid not in (0, os.getuid()):
            raise OnboardFault(
                Fault.RUNTIME,
                f"{above}, above {folder}, is another user's, who could exchange what flies: name a folder of your own",
            )
    return folder


def _is_whole(library: Path, record: Path) -> bool:
    """Return whether a build is there as it was made: a disk that lost power may hold anything."""
    try:
        wanted = json.loads(record.read_text(encoding="utf-8"))["sha256"]
        return bool(hashlib.sha256(library.read_bytes()).hexdigest() == wanted)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _clear_killed(folder: Path) -> None:
    """Remove what builds that were killed left; one that still runs is younger than `SECONDS`."""
    for left in folder.glob(".build.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 2 * SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _build(header: bytes, compiler: str, flags: tuple[str, ...], library: Path, record: Path) -> None:
    try:
        _clear_killed(library.parent)
        with tempfile.TemporaryDirectory(prefix=".build.", dir=library.parent) as name:
            folder = Path(name)
            (folder / "policy.hpp").write_bytes(header)
            (folder / "policy.cpp").write_text(_SOURCE, encoding="utf-8")
            made = folder / "policy.so"
            command = [compiler, *flags, "-o", str(made), str(folder / "policy.cpp")]
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
            if done.returncode:
                lines = done.stderr.decode("utf-8", "replace").splitlines()
                said = next((line for line in lines if "error" in line), "no message")
                raise OnboardFault(Fault.RUNTIME, f"{compiler} refuses policy.hpp: {said}"[:400])
            (folder / "record.json").write_text(
                json.dumps({"sha256": hashlib.sha256(made.read_bytes()).hexdigest(), "command": command}),
                encoding="utf-8",
            )
            os.replace(made, library)
            os.replace(folder / "record.json", record)
    except (OSError, subprocess.SubprocessError) as error:
        raise OnboardFault(Fault.RUNTIME, f"policy.hpp was not built: {error}") from error
