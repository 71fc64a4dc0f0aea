"""Runs TorchScript in a process of its own that can neither write files nor start processes nor open connections.

The process is started once and kept, until it takes longer than it may. Only numbers pass between it and this one:
nothing that it sends is executed.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache, partial
from typing import IO, Any

import numpy as np

from deploy_kit.bundle.runners import ArtifactError, Float32
from deploy_kit.verify.structure.confinement import confine_calls, confine_files

SECONDS = 120.0
"""Wall time that one question may take: starting torch on a busy machine takes some ten, a batch milliseconds."""

_MAX_BYTES = 1 << 30


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
        with _Deadline(self._process):
            self._ask({"load": len(archive)}, [archive])

    def __call__(self, inputs: list[Float32]) -> list[Float32]:
        """Return the module's outputs.

        Raises:
            ArtifactError: torch cannot run it, or the process has ended.
        """
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
        shapes = [array.shape for array in arrays]
        self._process = _process()
        with _Deadline(self._process):
            answer = self._ask({"shapes": shapes}, [array.tobytes() for array in arrays])
            try:
                return [_read_array(self._process.stdout, shape) for shape in answer["shapes"]]
            except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
                _end(self._process)
                raise ArtifactError("the process that runs TorchScript does not answer with arrays") from error

    def time(self, inputs: list[Float32], count: int) -> list[int]:
        """Return how long each of `count` runs took inside the process, ns.

        Raises:
            ArtifactError: as for a call.
        """
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
        self._process = _process()
        with _Deadline(self._process):
            question = {"shapes": [array.shape for array in arrays], "time": count}
            answer = self._ask(question, [array.tobytes() for array in arrays])
        durations = answer.get("ns")
        if not isinstance(durations, list) or [type(value) for value in durations] != [int] * count:
            raise ArtifactError("the process that runs TorchScript does not answer with durations")
        return durations

    @property
    def process_id(self) -> int:
        """The process that runs it."""
        return self._process.pid

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
            _end(process)
            raise ArtifactError(
                f"the process that runs TorchScript has ended, or took longer than {SECONDS:.0f} s"
            ) from error
        if not isinstance(answer, dict) or "error" in answer:
            raise ArtifactError(f"torch cannot {'load' if 'load' in question else 'run'} the module: {answer}"[:300])
        if "load" in question:
            _loaded[process.pid] = self
        return answer


class _Deadline:
    """Ends the process if what is inside the block takes too long; reading from it then ends too."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._timer = threading.Timer(SECONDS, process.kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


def start_anew() -> None:
    """End the process, so that the next module's start can be measured from nothing."""
    if _process.cache_info().currsize:
        _end(_process())


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, so that the next module starts another."""
    _process.cache_clear()
    _loaded.pop(process.pid, None)
    _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


_loaded: dict[int, SandboxedModule] = {}


@cache
def _process() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", "from deploy_kit.verify.structure.sandbox import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    atexit.register(_stop, process)
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
    confine_files()
    import io

    import torch

    from deploy_kit.timing import timer

    torch.set_num_threads(1)
    # After it: what torch takes is not counted.
    confine_calls()
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
            if "time" in question:
                with torch.inference_mode():
                    answer({"ns": timer(partial(module, *inputs))(question["time"])})
                continue
            with torch.inference_mode():
                values = module(*inputs)
            arrays = [value.numpy() for value in (values if isinstance(values, tuple) else (values,))]
            if any(array.dtype != np.float32 for array in arrays):
                raise ValueError("an output is not float32")
            answer({"shapes": [array.shape for array in arrays]}, [array.tobytes() for array in arrays])
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            answer({"error": " ".join(str(error).split())[:300]})
