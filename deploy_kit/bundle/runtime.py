"""One way to run a graph in onnxruntime: execution provider, graph optimisation, threads, and whether TF32 is on."""

import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy_kit.errors import OptionError

EXECUTION_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""onnxruntime's names of the providers that can be asked for."""

LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"} | {
    "all": "ORT_ENABLE_ALL"
}
"""onnxruntime's names of the graph optimisation levels."""

MAX_THREADS = 1024
"""Of one inference, as on board; onnxruntime starts them all at once, and a hundred thousand hang the machine."""

COMPUTING = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "TRTKernel")
"""Beginnings of the names of operators that do a network's arithmetic; shapes may be computed on the CPU."""


@dataclass(frozen=True)
class Runtime:
    """One way to run a graph.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt".
        level: graph optimisation: "disabled", "basic", "extended" or "all".
        threads: of one inference; 0 for as many as onnxruntime likes.
        tf32: whether convolutions and products may round to TF32 on a GPU.
    """

    provider: str = "cpu"
    level: str = "all"
    threads: int = 1
    tf32: bool = False

    @property
    def execution_provider(self) -> str:
        """Name of the provider in onnxruntime."""
        return EXECUTION_PROVIDERS[self.provider]

    @property
    def provider_options(self) -> dict[str, str]:
        """Options of the provider, as onnxruntime takes them."""
        return {"use_tf32": str(int(self.tf32))} if self.provider == "cuda" else {}

    def __str__(self) -> str:
        return f"{self.provider}-{self.level}-{self.threads}{'-tf32' if self.tf32 else ''}"

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is unknown, or TF32 is asked for where there is none.
        """
        if self.provider not in EXECUTION_PROVIDERS:
            raise OptionError(f"unknown provider {self.provider!r}; known: {', '.join(EXECUTION_PROVIDERS)}")
        if self.level not in LEVELS:
            raise OptionError(f"unknown graph optimisation level {self.level!r}; known: {', '.join(LEVELS)}")
        if not 0 <= self.threads <= MAX_THREADS:
            raise OptionError(f"{self.threads} threads: give a number from 1 to {MAX_THREADS}")
        if self.tf32 and self.provider != "cuda":
            raise OptionError(f"--tf32 has no effect with --provider {self.provider}; leave one out")


def runtimes(
    providers: Iterable[str], levels: Iterable[str], threads: Iterable[int], tf32: bool = False
) -> tuple[Runtime, ...]:
    """Return all combinations, the first of each coming first; TF32 is on where a provider has it."""
    combined = itertools.product(dict.fromkeys(providers), dict.fromkeys(levels), dict.fromkeys(threads))
    return tuple(Runtime(p, level, count, tf32 and p == "cuda") for p, level, count in combined)


def session_options(ort: ModuleType, runtime: Runtime) -> Any:
    """Return onnxruntime's options of a session; CUDA's libraries are loaded where they come with the package."""
    if runtime.provider == "tensorrt":
        # TensorRT has no option for it in onnxruntime; NVIDIA's libraries read this when they are loaded.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    if runtime.provider != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[runtime.level])
    options.intra_op_num_threads = runtime.threads
    # Idle threads that spin would take the cores from the simulator's threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def executed(
    ort: ModuleType, model: bytes | str, runtime: Runtime, run: Callable[[Any], object]
) -> dict[str, Counter[str]]:
    """Run a graph once under onnxruntime's profiler, and return how often each operator ran on each provider.

    Args:
        ort: the module onnxruntime.
        model: the graph, or its file.
        runtime: how to run it.
        run: runs the session that it is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(ort, runtime)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        provider = (runtime.execution_provider, runtime.provider_options)
        session = ort.InferenceSession(model, options, providers=[provider])
        run(session)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, Counter[str]] = {}
    for event in events:
        arguments = event.get("args", {})
        if "provider" in arguments and "op_name" in arguments:
            found.setdefault(arguments["provider"], Counter())[arguments["op_name"]] += 1
    return found
