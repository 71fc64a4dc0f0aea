"""What a bundle must pass before it is published: static checks of the graph, then execution of every artifact."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from deploy_kit.bundle.contract import (
    CONTRACT_METADATA_KEY,
    FEATURES_TENSOR,
    Contract,
    GateOutput,
    TensorSpec,
)
from deploy_kit.bundle.reader import Bundle, GoldenSamples
from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.rows import KeptObservations
from deploy_kit.errors import CheckFailedError
from deploy_kit.export.execution import (
    FloatArray,
    cut_head,
    fixed_batch,
    onnx_runner,
    run_batches,
    split_inputs,
    torchscript_runner,
)
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network import PolicyOutput, VisionActorCritic

ABSOLUTE = 1e-5
RELATIVE = 1e-5
"""fp32 on CPU: |a − b| ≤ 1e-5 · scale + 1e-5 · |b|, where scale is 1, or the action scale for physical commands."""

REPLAY_ROWS = 4096
OBSERVATION_ROWS = 256

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Outcome of one comparison.

    Attributes:
        name: what was compared.
        count: how many rows, or tensors.
        worst: largest error as a share of its tolerance.
    """

    name: str
    count: int
    worst: float


def check_static(path: Path, contract: Contract) -> None:
    """Check an ONNX file without running it.

    Raises:
        CheckFailedError: the file is not valid, not self-contained, or does not fit the contract.
    """
    model = onnx.load(path, load_external_data=False)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailedError(f"{path.name}: onnx.checker refuses the graph: {error}") from error
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    external = [item.name for item in graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
    training = [node.op_type for node in graph.node if node.op_type in ("BatchNormalization", "Dropout")]
    infinite = [item.name for item in graph.initializer if not _is_finite(item)]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inner = {value.name: value for value in graph.value_info}
    width = contract.network.feature_size
    checks = {
        f"opset {opsets} instead of {contract.versions.opset}": opsets == {"": contract.versions.opset},
        f"tensors outside the file: {external}": not external,
        f"operators that a folded policy does not have: {training}": not training,
        f"initialisers that are not finite: {infinite}": not infinite,
        "inputs are not the contract's": [_signature(value) for value in graph.input]
        == [_expected_signature(spec) for spec in contract.inputs],
        "outputs are not the contract's": [_signature(value) for value in graph.output]
        == [_expected_signature(spec) for spec in contract.outputs],
        f"no inner tensor {FEATURES_TENSOR} of width {width}": FEATURES_TENSOR in inner
        and _signature(inner[FEATURES_TENSOR])[-1][-1] == width,
        "the contract in metadata_props is not contract.json": Contract.from_json(
            metadata.get(CONTRACT_METADATA_KEY, "{}"), f"{path.name} metadata_props"
        )
        == contract,
    }
    for message, passed in checks.items():
        if not passed:
            raise CheckFailedError(f"{path.name}: {message}; nothing was published")


def _is_finite(tensor: onnx.TensorProto) -> bool:
    array = numpy_helper.to_array(tensor)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _signature(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[int | str, ...]]:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in kind.shape.dim)
    return value.name, kind.elem_type, shape


def _expected_signature(spec: TensorSpec) -> tuple[str, int, tuple[int | str, ...]]:
    return spec.name, onnx.TensorProto.FLOAT, spec.shape


def check_execution(bundle: Bundle, network: VisionActorCritic) -> list[Comparison]:
    """Replay the golden samples through ONNX, TorchScript and the weights read back.

    Args:
        bundle: the finished bundle, not yet published.
        network: the checkpoint's network.

    Raises:
        CheckFailedError: an artifact gives something else than the checkpoint's network did.
        MissingDependencyError: onnxruntime is not installed.
    """
    contract, golden = bundle.contract, bundle.golden
    expected = _golden_output(golden)
    inputs = split_inputs(contract, golden.observation)
    results = []
    for name, runner in (
        ("ONNX, golden samples", onnx_runner(bundle.onnx_path.read_bytes())),
        ("TorchScript, golden samples", torchscript_runner(bundle.torchscript_path)),
    ):
        outputs = run_batches(runner, inputs, fixed_batch(contract))
        results.append(compare_outputs(name, contract, outputs, expected, network))
    _check_weights(bundle.safetensors_path, network)
    results.append(Comparison("safetensors, all tensors equal", len(network.state_dict()), 0.0))
    return results


def check_replay(bundle: Bundle, network: VisionActorCritic, file: FeatureFile) -> list[Comparison]:
    """Replay held-out rows through the sub-graph features → outputs, and kept observations through the whole graph.

    Args:
        bundle: the finished bundle, not yet published.
        network: the checkpoint's network.
        file: an open feature file of this policy; training rows stand in where it has no held-out rows.

    Raises:
        CheckFailedError: the graph gives something else than the network.
    """
    contract = bundle.contract
    batch = fixed_batch(contract)
    head = onnx_runner(cut_head(onnx.load(bundle.onnx_path)).SerializeToString())
    rows, kind = (file.heldout(), "held-out") if file.num_heldout else (file.train, "training")
    results = []
    for block in rows.blocks(REPLAY_ROWS):
        with torch.inference_mode():
            expected = network.heads(torch.from_numpy(block.features))
        outputs = run_batches(head, [block.features], batch)
        results.append(compare_outputs(f"{kind} rows", contract, outputs, expected, network, rows=block.index))
    summary = [_merge(f"ONNX features → outputs, {kind} rows", results)]
    if file.observations is not None:
        summary.append(_replay_observations(bundle, network, file.observations, batch))
    return summary


def _replay_observations(
    bundle: Bundle, network: VisionActorCritic, kept: KeptObservations, batch: int | None
) -> Comparison:
    contract = bundle.contract
    whole = onnx_runner(bundle.onnx_path.read_bytes())
    results, start = [], 0
    for observation in kept.matrix.blocks(OBSERVATION_ROWS):
        index = np.arange(start, start + len(observation))
        with torch.inference_mode():
            expected = network(torch.from_numpy(observation))
        outputs = run_batches(whole, split_inputs(contract, observation), batch)
        results.append(compare_outputs("kept observations", contract, outputs, expected, network, rows=index))
        start += len(observation)
    return _merge("ONNX, kept observations", results)


def _merge(name: str, results: list[Comparison]) -> Comparison:
    return Comparison(
        name, sum(result.count for result in results), max((result.worst for result in results), default=0.0)
    )


def _golden_output(golden: GoldenSamples) -> PolicyOutput:
    logit = None if golden.gate_logit is None else torch.from_numpy(golden.gate_logit)
    return PolicyOutput(torch.from_numpy(golden.action), logit, torch.from_numpy(golden.features))


def compare_outputs(
    name: str,
    contract: Contract,
    outputs: Sequence[FloatArray],
    expected: PolicyOutput,
    network: VisionActorCritic,
    rows: npt.NDArray[np.int64] | None = None,
) -> Comparison:
    """Compare graph outputs with what the network gives, transformed as the contract says.

    Args:
        name: what is compared.
        contract: tells what each output holds.
        outputs: of the graph.
        expected: of the network.
        network: tells how large the terms of the gate logit are, and so its rounding errors.
        rows: row numbers, for messages.

    Raises:
        CheckFailedError: an output differs, or is not finite.
    """
    references: list[tuple[npt.NDArray[Any], npt.NDArray[Any] | float]] = []
    action = expected.action.numpy()
    if contract.action.inside_graph:
        scale, offset = np.array(contract.action.scale), np.array(contract.action.offset)
        references.append((np.tanh(action.astype(np.float64)) * scale + offset, scale))
    else:
        references.append((action, 1.0))
    if contract.gate is not None:
        assert expected.gate_logit is not None
        # A logit near 0 may be the difference of large terms, and has their rounding errors.
        terms = network.gate_terms(expected.features).numpy()
        gate = expected.gate_logit.numpy()
        if contract.gate.output is GateOutput.PROBABILITY:
            gate = torch.sigmoid(expected.gate_logit).numpy()
            terms = terms * gate * (1 - gate)
        references.append((gate, np.maximum(1.0, 0.1 * terms)))
    if len(outputs) != len(references):
        raise CheckFailedError(f"{name}: {len(outputs)} outputs, the contract has {len(references)}")
    results = [
        compare(f"{name}: {spec.name}", output, reference, rows, scale)
        for spec, output, (reference, scale) in zip(contract.outputs, outputs, references, strict=True)
    ]
    return Comparison(name, results[0].count, max(result.worst for result in results))


def compare(
    name: str,
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    rows: npt.NDArray[np.int64] | None = None,
    scale: npt.NDArray[Any] | float = 1.0,
) -> Comparison:
    """Compare two arrays of the same shape, element by element.

    Raises:
        CheckFailedError: shapes differ, a number is not finite, or an element is out of tolerance; names the worst.
    """
    if actual.shape != expected.shape:
        raise CheckFailedError(f"{name}: shape {actual.shape}, expected {expected.shape}")
    tolerance = ABSOLUTE * np.broadcast_to(scale, expected.shape) + RELATIVE * np.abs(expected)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(actual.astype(np.float64) - expected) / tolerance
    # Written so that NaN fails: NaN > 1 would be False.
    failed = ~(ratio <= 1.0)
    if failed.any():
        row, column = np.argwhere(failed)[np.argmax(np.nan_to_num(ratio[failed], nan=np.inf))]
        number = row if rows is None else rows[row]
        raise CheckFailedError(
            f"{name}[{number}, {column}] is {actual[row, column]:.9g}, PyTorch gives {expected[row, column]:.9g} "
            f"(tolerance {tolerance[row, column]:.2g}, {int(failed.sum())} of {failed.size} numbers fail); "
            "nothing was published"
        )
    return Comparison(name, len(expected), float(ratio.max(initial=0.0)))


def _check_weights(path: Path, network: VisionActorCritic) -> None:
    restored = load_checkpoint(path).network
    if restored.config != network.config:
        raise CheckFailedError(f"{path.name}: read back as {restored.config}, the checkpoint is {network.config}")
    expected = network.state_dict()
    for name, tensor in restored.state_dict().items():
        if not torch.equal(tensor, expected[name]):
            raise CheckFailedError(f"{path.name}: tensor {name} differs from the checkpoint's; nothing was published")
