"""Run the artifacts of a bundle: ONNX through onnxruntime, TorchScript through torch, in batches that they accept."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from deploy_kit.bundle.contract import FEATURES_TENSOR, Contract, InputLayout
from deploy_kit.errors import CheckFailedError, MissingDependencyError

FloatArray = npt.NDArray[np.float32]
Runner = Callable[[Sequence[FloatArray]], list[FloatArray]]
"""From graph inputs of any number of rows to graph outputs."""


def require_onnxruntime() -> None:
    """Check that onnxruntime is installed: no graph is published without having run.

    Raises:
        MissingDependencyError: it is not.
    """
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            "onnxruntime is not installed, and no graph is published without having run: "
            "pip install 'deploy-kit[cpu]' (or [gpu])"
        )


def cut_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the sub-graph from the features to the outputs of a bundle's ONNX model."""
    outputs = [value.name for value in model.graph.output]
    head: onnx.ModelProto = onnx.utils.Extractor(model).extract_model([FEATURES_TENSOR], outputs)
    return head


def onnx_runner(model: bytes) -> Runner:
    """Return a runner of an ONNX model on onnxruntime's CPU provider, one thread.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckFailedError: another provider would run it, or onnxruntime refuses the model.
    """
    require_onnxruntime()
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # onnxruntime's own exceptions have no common base below Exception, and each version has others.
    errors = tuple(
        value
        for value in vars(onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except errors as error:
        raise CheckFailedError(f"onnxruntime refuses the graph ({error}); choose another --opset") from error
    if session.get_providers() != ["CPUExecutionProvider"]:
        raise CheckFailedError(f"onnxruntime runs the graph on {session.get_providers()}, not on the CPU")
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[FloatArray]) -> list[FloatArray]:
        outputs: list[FloatArray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run


def torchscript_runner(path: Path) -> Runner:
    """Return a runner of a TorchScript file on the CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        module: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call] # torch's own

    def run(inputs: Sequence[FloatArray]) -> list[FloatArray]:
        with torch.inference_mode():
            outputs = module(*map(torch.from_numpy, inputs))
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def split_inputs(contract: Contract, observation: FloatArray) -> list[FloatArray]:
    """Return graph inputs for flat observations (K, 6928)."""
    if contract.observation.layout is InputLayout.FLAT:
        return [observation]
    depth = contract.observation.depth
    image = observation[:, depth.start :].reshape(-1, 1, depth.rows, depth.columns)
    return [np.ascontiguousarray(observation[:, : depth.start]), np.ascontiguousarray(image)]


def run_batches(runner: Runner, inputs: Sequence[FloatArray], batch: int | None) -> list[FloatArray]:
    """Run all rows, in batches of the graph's fixed size where it has one; its last row fills up the last batch."""
    if batch is None:
        return runner(inputs)
    parts = [runner(part) for part in _fixed_batches(inputs, batch)]
    return [np.concatenate(column)[: len(inputs[0])] for column in zip(*parts, strict=True)]


def _fixed_batches(inputs: Sequence[FloatArray], batch: int) -> Iterator[list[FloatArray]]:
    for start in range(0, len(inputs[0]), batch):
        rows = np.minimum(np.arange(start, start + batch), len(inputs[0]) - 1)
        yield [array[rows] for array in inputs]


def fixed_batch(contract: Contract) -> int | None:
    """Return the graph's fixed batch size, None if it is dynamic."""
    batch = contract.inputs[0].shape[0]
    return batch if isinstance(batch, int) else None
