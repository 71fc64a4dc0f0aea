"""Runs a C++ header's build in a process of its own that can neither write files nor start processes.

The header's text has been compared before it is built, so that what runs was written here; the process is for what a
compiler, or a fault in the generator, may make of it. Only numbers pass between it and this one.
"""

import os
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs
from deploy_kit.cpp.compiler import build_library
from deploy_kit.cpp.library import Steps
from deploy_kit.verify.structure.confinement import confine_calls, confine_files

SECONDS = 300.0
"""Wall time that one question may take."""

_ROWS, _HEADS, _SELF_TEST, _BEGIN, _STEPS, _HOLD = b"R", b"H", b"S", b"B", b"P", b"O"


class SandboxedLibrary:
    """A built header in a process that cannot write.

    Args:
        text: the header, which has been compared.

    Raises:
        CompilerError: there is no compiler, or it refuses.
        ArtifactError: the build cannot be loaded.
    """

    def __init__(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = build_library(text, Path(folder))
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-c"),
                    "from deploy_kit.verify.structure.sandboxed_library import serve; serve()",
                    str(library),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )
            weakref.finalize(self, _stop, self._process)
            # Once it answers, the file may go.
            sizes = self._ask(_SELF_TEST, b"", 5 * 4)
        self.passes_self_test, self._actions, self._features, gate, _ = struct.unpack("<5i", sizes)
        self._gate = bool(gate)

    def rows(self, observation: Float32) -> Outputs:
        """Return action, command, gate logit and features of normalised observations (n, 6928).

        Raises:
            ArtifactError: the process has ended, or took too long.
        """
        count = len(observation)
        shapes = {
            "action": ((count, self._actions), np.float32),
            "command": ((count, self._actions), np.float64),
            "gate_logit": ((count, int(self._gate)), np.float32),
            "features": ((count, self._features), np.float32),
        }
        return self._outputs(_ROWS, observation, shapes)

    def heads(self, features: Float32) -> Outputs:
        """Return action and gate logit of features (n, 192).

        Raises:
            ArtifactError: as for rows.
        """
        count = len(features)
        shapes = {
            "action": ((count, self._actions), np.float32),
            "gate_logit": ((count, int(self._gate)), np.float32),
        }
        return self._outputs(_HEADS, features, shapes)

    def begin(self, count: int) -> None:
        """Make policies anew, each with the memory of one drone; see `PolicyLibrary.begin`.

        Raises:
            ArtifactError: as for rows.
        """
        self._ask(_BEGIN, struct.pack("<i", count), 1)

    def steps(self, policies: npt.NDArray[np.int32], state: npt.NDArray[np.float64], depth: Float32) -> Steps:
        """Let some of the policies compute a step; see `PolicyLibrary.steps`.

        Raises:
            ArtifactError: as for rows.
        """
        parts = policies.astype(np.int32), state.astype(np.float64), depth.astype(np.float32)
        content = struct.pack("<2i", len(policies), state.shape[1]) + b"".join(part.tobytes() for part in parts)
        steps = Steps.empty(len(policies), self._actions)
        data, start = self._ask(_STEPS, content, sum(values.nbytes for values in steps)), 0
        for values in steps:
            found = np.frombuffer(data, values.dtype, values.size, start)
            values[...] = found.reshape(values.shape)
            start += values.nbytes
        return steps

    def hold(self, policy: int, command: npt.NDArray[np.float64] | None) -> None:
        """Tell a policy which command (A,) flew in place of its own; see `PolicyLibrary.hold`.

        Raises:
            ArtifactError: as for rows.
        """
        numbers = b"" if command is None else command.astype(np.float64).tobytes()
        self._ask(_HOLD, struct.pack("<i", policy) + numbers, 1)

    def _outputs(self, kind: bytes, rows: Float32, shapes: dict[str, tuple[tuple[int, int], Any]]) -> Outputs:
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values()]
        data = self._ask(kind, np.ascontiguousarray(rows, np.float32).tobytes(), sum(sizes))
        outputs: Outputs = {}
        start = 0
        for (name, (shape, dtype)), size in zip(shapes.items(), sizes, strict=True):
            if size or name != "gate_logit":
                outputs[name] = np.frombuffer(data[start : start + size], dtype).reshape(shape).copy()
            start += size
        return outputs

    def _ask(self, kind: bytes, content: bytes, answer: int) -> bytes:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(kind + struct.pack("<q", len(content)) + content)
            process.stdin.flush()
            data = process.stdout.read(answer)
        except OSError as error:
            raise ArtifactError("the process that runs the C++ policy has ended") from error
        finally:
            timer.cancel()
        if len(data) != answer:
            raise ArtifactError(f"the process that runs the C++ policy has ended, or took longer than {SECONDS:.0f} s")
        return data


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def serve() -> None:
    """Answer questions on standard input until it ends; run in the process that cannot write."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    confine_files()
    from deploy_kit.cpp.library import PolicyLibrary

    confine_calls()
    policy = PolicyLibrary(Path(sys.argv[1]))
    while kind := questions.read(1):
        (size,) = struct.unpack("<q", questions.read(8))
        content = questions.read(size)
        if kind == _SELF_TEST:
            numbers = (
                policy.self_test(),
                policy.num_actions,
                policy.feature_size,
                policy.gate,
                policy.observation_size,
            )
            answers.write(struct.pack("<5i", *map(int, numbers)))
        elif kind == _BEGIN:
            policy.begin(*struct.unpack("<i", content))
            answers.write(b"0")
        elif kind == _HOLD:
            command = np.frombuffer(content[4:], np.float64) if size > 4 else None
            (which,) = struct.unpack("<i", content[:4])
            policy.hold(which, command)
            answers.write(b"0")
        elif kind == _STEPS:
            count, width = struct.unpack("<2i", content[:8])
            state_at = 8 + 4 * count
            policies = np.frombuffer(content, np.int32, count, 8)
            state = np.frombuffer(content[state_at:], np.float64, count * width).reshape(count, width)
            depth = np.frombuffer(content[state_at + state.nbytes :], np.float32).reshape(count, -1)
            answers.write(b"".join(values.tobytes() for values in policy.steps(policies, state, depth)))
        else:
            width = policy.observation_size if kind == _ROWS else policy.feature_size
            rows = np.frombuffer(content, np.float32).reshape(-1, width)
            outputs = policy.rows(rows) if kind == _ROWS else policy.heads(rows)
            answers.write(b"".join(values.tobytes() for values in outputs.values()))
        answers.flush()
