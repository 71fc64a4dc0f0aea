"""Builds a header into a shared library that Python calls."""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy_kit.errors import CheckFailedError

COMPILERS = ("g++", "c++", "clang++")
"""What is looked for, in this order, where the variable CXX names none."""

SECONDS = 300
"""Wall time that a build may take; on a busy machine it takes some ten seconds."""

MAX_MESSAGE = 300

_SOURCE = '#define DEPLOY_KIT_C_INTERFACE\n#include "policy.hpp"\n'


class CompilerError(CheckFailedError):
    """A header cannot be built."""


def find_compiler() -> str | None:
    """Return the path of a C++ compiler, None if there is none."""
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def machine_flags() -> tuple[str, ...]:
    """Return the flags for the vectors of this machine."""
    return ("-march=native",) if platform.machine() in ("x86_64", "AMD64", "i686") else ("-mcpu=native",)


def build_library(text: str, folder: Path, flags: tuple[str, ...] | None = None) -> Path:
    """Build a header into a shared library.

    The text must be one that deploy-kit wrote: what is compiled here is executed afterwards.

    Args:
        text: the header.
        folder: where the library is put; it exists.
        flags: of the compiler, besides those that every build has; those of this machine if None.

    Returns:
        The library.

    Raises:
        CompilerError: there is no compiler, or it refuses.
    """
    compiler = find_compiler()
    if compiler is None:
        wanted = os.environ.get("CXX") or ", ".join(COMPILERS)
        raise CompilerError(f"no C++ compiler was found ({wanted}); install one: apt-get install g++")
    library = folder / "policy.so"
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "policy.cpp"
        source.write_text(_SOURCE, encoding="utf-8")
        (Path(name) / "policy.hpp").write_text(text, encoding="utf-8", newline="\n")
        command = [
            *(compiler, "-std=c++17", "-O3", *(machine_flags() if flags is None else flags)),
            *("-fPIC", "-shared", "-fvisibility=hidden", "-o", str(library), str(source)),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(f"{compiler} did not finish: {error}"[:MAX_MESSAGE]) from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        said = next((line for line in lines if "error" in line), " ".join(lines))
        raise CompilerError(f"{compiler} refuses the header: {' '.join(said.split())}"[:MAX_MESSAGE])
    return library
