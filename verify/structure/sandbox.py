"""Runs TorchScript in a process of its own that cannot write files, start programs or open connections (Landlock).

The process is started once and kept. Only numbers pass between it and this one: nothing that it sends is executed.
"""

import atexit
import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import IO, Any

import numpy as np

from deploy_kit.bundle.runners import ArtifactError, Float32

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_NO_NEW_PRIVILEGES = 38
_MIN_ABI = 3
"""First version of Landlock that keeps a process from cutting files to length 0."""

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3

_MAX_BYTES = 1 << 30


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, 1)))


def unavailable() -> str | None:
    """Return why nothing can be run safely here, None if it can."""
    if (version := landlock_version()) >= _MIN_ABI:
        return None
    return f"it is run only where it cannot write: that needs Landlock {_MIN_ABI} (Linux 6.2), here is {version}"


def restrict() -> None:
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


class SandboxedModule:
    """A module that was read as data and is run in the process that cannot write.

    Args:
        archive: what torch loads.

    Raises:
        ArtifactError: torch cannot load it.
    """

    def __init__(self, archive: bytes) -> None:
        self._archive = archive
        self._process = _process()
        self._ask({"load": len(archive)}, [archive])

    def __call__(self, inputs: list[Float32]) -> list[Float32]:
        """Return the module's outputs.

        Raises:
            ArtifactError: torch cannot run it, or the process has ended.
        """
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
        answer = self._ask({"shapes": [array.shape for array in arrays]}, [array.tobytes() for array in arrays])
        return [_read_array(self._process.stdout, shape) for shape in answer["shapes"]]

    def _ask(self, question: dict[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if "shapes" in question and _loaded.get(process.pid) is not self:
                self._ask({"load": len(self._archive)}, [self._archive])
            process.stdin.write(json.dumps(question).encode() + b"\n" + b"".join(parts))
            process.stdin.flush()
            answer = json.loads(process.stdout.readline(1 << 16))
        except (OSError, ValueError) as error:
            _process.cache_clear()
            raise ArtifactError("the process that runs TorchScript has ended") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise ArtifactError(f"torch cannot {'load' if 'load' in question else 'run'} the module: {answer}"[:300])
        if "load" in question:
            _loaded[process.pid] = self
        return answer


_loaded: dict[int, SandboxedModule] = {}


@cache
def _process() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", "from deploy_kit.verify.structure.sandbox import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    # It ends with its input.
    atexit.register(process.communicate)
    return process


def _read_array(stream: IO[bytes] | None, shape: Any) -> Float32:
    assert stream is not None
    sizes = [int(size) for size in shape]
    count = int(np.prod(sizes, dtype=np.float64))
    if min(sizes, default=0) < 0 or 4 * count > _MAX_BYTES:
        raise ArtifactError(f"the module gives an array of shape {sizes}")
    data = stream.read(4 * count)
    if len(data) != 4 * count:
        raise ArtifactError("the process that runs TorchScript has ended")
    return np.frombuffer(data, np.float32).reshape(sizes)


def serve() -> None:
    """Answer questions on standard input until it ends; run in the process that cannot write."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Before torch is imported: only the calling thread and those that it starts are restricted.
    restrict()
    import io

    import torch

    torch.set_num_threads(1)
    module: Any = None

    def answer(content: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        answers.write(json.dumps(content).encode() + b"\n" + b"".join(parts))
        answers.flush()

    while line := questions.readline():
        question = json.loads(line)
        try:
            if "load" in question:
                content = io.BytesIO(questions.read(question["load"]))
                module = torch.jit.load(content, map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own
                answer({})
                continue
            inputs = [torch.from_numpy(_read_array(questions, shape).copy()) for shape in question["shapes"]]
            with torch.inference_mode():
                values = module(*inputs)
            arrays = [value.numpy() for value in (values if isinstance(values, tuple) else (values,))]
            if any(array.dtype != np.float32 for array in arrays):
                raise ValueError("an output is not float32")
            answer({"shapes": [array.shape for array in arrays]}, [array.tobytes() for array in arrays])
        except (RuntimeError, ValueError, TypeError) as error:
            answer({"error": " ".join(str(error).split())[:300]})
