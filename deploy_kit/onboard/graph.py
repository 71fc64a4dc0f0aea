"""The bundle's ONNX graph with inputs and outputs bound to buffers of its own, so that a step allocates nothing."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from .binding import BoundSession
from .contract import CONTRACT_METADATA_KEY, FloatArray, OnboardContract
from .engine_cache import EngineCache
from .faults import Fault, OnboardFault
from .options import CUDA, LEVELS, NARROW_TOLERANCES, TENSORRT, OnboardOptions
from .verification import MODELS

# onnxruntime's own exceptions have no common base below Exception, and each version has others.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    *(
        value
        for value in vars(onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)


class Graph:
    """The graph, open on one execution provider.

    Args:
        model: the ONNX file.
        contract: what it must look like.
        options: how to run it; another provider running instead is a fault.

    Attributes:
        state: (16,) write the network's state here before `run`.
        image: (72, 96) write the normalised image here before `run`.
        first: (4,) action or command of the last `run`.
        gate: (1,) gate output of the last `run`, None without one.
        providers: execution providers that onnxruntime really uses.
        versions: onnxruntime's.

    Raises:
        OnboardFault: onnxruntime refuses the graph or would run it elsewhere, or it is not the contract's.
    """

    state: FloatArray
    image: FloatArray

    def __init__(
        self,
        model: bytes,
        contract: OnboardContract,
        options: OnboardOptions,
    ) -> None:
        session = open_session(model, contract.text, contract.inputs, contract.outputs, options)
        size, (rows, columns) = len(contract.state_low), contract.image_shape
        inputs: list[FloatArray]
        if contract.flat:
            flat = np.zeros((1, size + rows * columns), np.float32)
            inputs, self.state, self.image = [flat], flat[0, :size], flat[0, size:].reshape(rows, columns)
        else:
            state, image = np.zeros((1, size), np.float32), np.zeros((1, 1, rows, columns), np.float32)
            inputs, self.state, self.image = [state, image], state[0], image[0, 0]
        first = np.zeros((1, len(contract.scale)), np.float32)
        gate = None if contract.gate_probability is None else np.zeros((1, 1), np.float32)
        self.first: FloatArray = first[0]
        self.gate: FloatArray | None = None if gate is None else gate[0]
        self._buffers = [*inputs, first, *([] if gate is None else [gate])]
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self.versions: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
        if (limit := NARROW_TOLERANCES.get(options.engine)) is not None:
            self.versions["variant"] = f"{MODELS[options.engine]}, golden samples within {limit:g}"
        outputs = self._buffers[len(inputs) :]
        try:
            self._bound = BoundSession(
                session,
                zip(contract.inputs, inputs, strict=True),
                zip(contract.outputs, outputs, strict=True),
            )
        except RUNTIME_ERRORS as error:
            raise OnboardFault(
                Fault.CONTRACT_INVALID, f"{MODELS[options.engine]} does not take the contract's shapes: {error}"
            ) from error

    def run(self) -> None:
        """Run the graph on what stands in `state` and `image`.

        Raises:
            OnboardFault: onnxruntime fails.
        """
        try:
            self._bound.run()
        except RUNTIME_ERRORS as error:
            raise OnboardFault(Fault.RUNTIME, f"onnxruntime failed in flight: {error}") from error


def open_session(
    model: bytes,
    contract: dict[str, Any],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    options: OnboardOptions,
) -> onnxruntime.InferenceSession:
    """Return the graph's session on the provider that is asked for.

    Args:
        model: the ONNX file.
        contract: the parsed contract.json, which the file must carry too.
        inputs: names of the inputs.
        outputs: names of the outputs.
        options: how to run it.

    Raises:
        OnboardFault: onnxruntime refuses the graph or would run it elsewhere, or it is not the contract's.
    """
    provider = options.provider
    # onnxruntime has no option for it in TensorRT; NVIDIA's libraries read this when they are loaded.
    if provider == TENSORRT and (said := os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")) != "0":
        raise OnboardFault(
            Fault.RUNTIME, f"NVIDIA_TF32_OVERRIDE is {said!r}, and TensorRT would round to TF32: set it to 0"
        )
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise OnboardFault(
            Fault.RUNTIME,
            f"onnxruntime {onnxruntime.__version__} has no {provider}, only {', '.join(available)}: for NVIDIA's GPUs "
            "install onnxruntime-gpu in place of onnxruntime",
        )
    if provider in (CUDA, TENSORRT) and hasattr(onnxruntime, "preload_dlls"):
        # CUDA's libraries may come as packages of their own, which nothing else loads.
        onnxruntime.preload_dlls()
    cache = None
    if options.engine_cache is not None:
        made_by = json.dumps([onnxruntime.__version__, options.level, options.all_provider_options], default=str)
        cache = EngineCache(Path(options.engine_cache), model, made_by)
        cache.check()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[options.level])
    try:
        session = onnxruntime.InferenceSession(
            model,
            settings,
            providers=[provider],
            provider_options=[{**options.all_provider_options, **(cache.options if cache is not None else {})}],
        )
    except RUNTIME_ERRORS as error:
        raise OnboardFault(
            Fault.RUNTIME, f"onnxruntime {onnxruntime.__version__} refuses {MODELS[options.engine]}: {error}"
        ) from error
    # Else a session whose provider fails goes on with another one, and says so on standard output alone.
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise OnboardFault(Fault.RUNTIME, f"{provider} was asked for, {session.get_providers()[0]} would run")
    metadata = session.get_modelmeta().custom_metadata_map.get(CONTRACT_METADATA_KEY, "null")
    try:
        carried = json.loads(metadata)
    except (ValueError, RecursionError):
        carried = None
    if carried != contract:
        raise OnboardFault(
            Fault.BUNDLE_ALTERED, f"{MODELS[options.engine]} carries another contract than contract.json: copy it again"
        )
    names = tuple(value.name for value in session.get_inputs()), tuple(value.name for value in session.get_outputs())
    if names != (inputs, outputs):
        raise OnboardFault(
            Fault.CONTRACT_INVALID, f"{MODELS[options.engine]} has inputs and outputs {names}, not the contract's"
        )
    if cache is not None:
        # An engine for a batch of any size is built at the first run.
        _run_once(session)
        cache.record()
    return session


def _run_once(session: onnxruntime.InferenceSession) -> None:
    inputs = {
        value.name: np.zeros([size if isinstance(size, int) else 1 for size in value.shape], np.float32)
        for value in session.get_inputs()
    }
    try:
        session.run(None, inputs)
    except RUNTIME_ERRORS as error:
        raise OnboardFault(Fault.RUNTIME, f"onnxruntime cannot run policy.onnx: {error}") from error
