"""Start one candidate in a process of its own, to see how long that takes and how much memory it holds.

The process imports what the candidate needs and nothing else: torch for eager PyTorch alone.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from deploy_kit.bench.report import Start
from deploy_kit.errors import CheckFailedError

SECONDS = 300.0
"""Wall time that a start may take; a compiler may be part of it."""


def start_fresh(job: dict[str, Any]) -> Start:
    """Start a candidate in a fresh process.

    Args:
        job: `kind`, one of "onnx", "onboard", "native" and "pytorch", and what that takes, as JSON values.

    Raises:
        CheckFailedError: it does not start, or takes longer than `SECONDS`.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", "from deploy_kit.bench.fresh import main; main()"],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"a fresh process did not start within {SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CheckFailedError(f"a fresh process does not start: {''.join(last)[:300]}") from error
    ended = time.perf_counter()
    figures = json.loads(done.stdout.decode().splitlines()[-1])
    # What the process did after its first output does not count.
    total_s = ended - began - figures["after_s"]
    return Start(total_s, figures["open_s"], figures["first_us"], figures["peak_mib"])


def peak_mib(process: int | str = "self") -> float | None:
    """Return the most memory that a process held since it began to run its program; None where nothing tells it."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8") as file:
            # getrusage would count what the parent held when it forked.
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def main() -> None:
    """Do the job that stands on standard input, and print its figures."""
    job = json.loads(sys.stdin.read())
    began = time.perf_counter()
    step = _KINDS[job["kind"]](job)
    opened = time.perf_counter()
    step()
    ended = time.perf_counter()
    figures = {"open_s": opened - began, "first_us": (ended - opened) * 1e6, "peak_mib": peak_mib()}
    sys.stdout.write(json.dumps({**figures, "after_s": time.perf_counter() - ended}) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _onnx(job: dict[str, Any]) -> Callable[[], object]:
    import numpy as np
    import onnxruntime

    from deploy_kit.bundle.runtime import Runtime, session_options

    runtime = Runtime(**job["runtime"])
    provider = (runtime.execution_provider, runtime.provider_options)
    session = onnxruntime.InferenceSession(job["model"], session_options(onnxruntime, runtime), providers=[provider])
    with np.load(job["inputs"]) as archive:
        inputs = dict(archive)
    return lambda: session.run(None, inputs)


def _onboard(job: dict[str, Any]) -> Callable[[], object]:
    import numpy as np

    from deploy_kit.onboard import OnboardOptions, OnboardPolicy

    policy = OnboardPolicy(job["bundle"], OnboardOptions(**job["options"]))
    with np.load(job["inputs"]) as archive:
        state, depth = archive["state"], archive["depth"]
    return lambda: policy.step(state, depth)


def _native(job: dict[str, Any]) -> Callable[[], object]:
    from pathlib import Path

    from deploy_kit.onboard import OnboardOptions
    from deploy_kit.onboard.bundle import load_bundle
    from deploy_kit.onboard.native import NativeEngine

    options = OnboardOptions(**job["options"])
    return NativeEngine(load_bundle(Path(job["bundle"]), engine=options.engine), options).run


def _pytorch(job: dict[str, Any]) -> Callable[[], object]:
    from pathlib import Path

    import numpy as np
    import torch

    from deploy_kit.policy.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    network = load_checkpoint(Path(job["weights"])).network
    with np.load(job["inputs"]) as archive:
        observation = torch.from_numpy(archive["observation"])

    def step() -> object:
        with torch.inference_mode():
            return network(observation)

    return step


_KINDS = {"onnx": _onnx, "onboard": _onboard, "native": _native, "pytorch": _pytorch}
