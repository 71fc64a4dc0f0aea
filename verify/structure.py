"""Checks of the ONNX file that need no run: names, shapes, opset, modes, weights, embedded contract."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # carries no types
from onnx import numpy_helper

from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY, FEATURES_TENSOR, Contract
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.errors import BundleError
from deploy_kit.text import one_line
from deploy_kit.verify.report import FactCheck

ALLOWED_DOMAINS = ("", "ai.onnx")
"""Operator sets that every ONNX runtime has."""

Problems = Iterator[str]


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, without following references to other files.

    Raises:
        ArtifactError: it is not an ONNX file.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path.name} is not a readable ONNX file: {one_line(error)}") from error


def graph_checks(model: onnx.ModelProto, contract: Contract, batch_norm_eps: tuple[float, ...]) -> list[FactCheck]:
    """Return all static checks of a graph.

    Args:
        model: the graph that ships.
        contract: of `contract.json`.
        batch_norm_eps: epsilon of each batch norm of the checkpoint.
    """
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    specs = len(contract.inputs) + len(contract.outputs) + 1
    weights = len(model.graph.initializer)
    return [
        _facts("onnx/valid", "graph against the ONNX specification", len(model.graph.node), _validity(model)),
        _facts("onnx/signature", "inputs, outputs, features against the contract", specs, _signature(model, contract)),
        _facts("onnx/opset", "operator set against the contract", len(model.opset_import), _opset(model, contract)),
        _facts("onnx/self-contained", "weights inside the one file", weights, _external(model)),
        _facts("onnx/eval-mode", "batch norms, dropouts", len(model.graph.node), _modes(model)),
        _facts("onnx/batch-norm-eps", "epsilon against the checkpoint", len(nodes), _epsilons(nodes, batch_norm_eps)),
        _facts("onnx/finite-weights", "initialisers", weights, _weights(model)),
        _facts("onnx/contract", "metadata against contract.json", 1, _metadata(model, contract)),
    ]


def _facts(name: str, compared: str, count: int, problems: Problems) -> FactCheck:
    return FactCheck(name, compared, count, tuple(problems))


def _validity(model: onnx.ModelProto) -> Problems:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        yield one_line(error)


def _signature(model: onnx.ModelProto, contract: Contract) -> Problems:
    for kind, specs, values in (
        ("input", contract.inputs, model.graph.input),
        ("output", contract.outputs, model.graph.output),
    ):
        expected = [spec.name for spec in specs]
        found = [value.name for value in values]
        if expected != found:
            yield f"{kind}s are {', '.join(found)}, the contract names {', '.join(expected)}"
            continue
        for spec, value in zip(specs, values, strict=True):
            if (shape := _shape(value)) != spec.shape:
                yield f"{kind} {spec.name} has shape {shape}, the contract says {spec.shape}"
            if (dtype := _dtype(value)) != spec.dtype:
                yield f"{kind} {spec.name} is {dtype}, the contract says {spec.dtype}"
    if not any(FEATURES_TENSOR in node.output for node in model.graph.node):
        yield f"no tensor is named {FEATURES_TENSOR!r}, so features → outputs cannot be cut out"


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.type.tensor_type.shape.dim
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _opset(model: onnx.ModelProto, contract: Contract) -> Problems:
    for entry in model.opset_import:
        if entry.domain not in ALLOWED_DOMAINS:
            yield f"operators of domain {entry.domain!r} are used, which other runtimes lack"
        elif entry.version != contract.versions.opset:
            yield f"opset {entry.version}, the contract says {contract.versions.opset}"
    if model.ir_version != contract.versions.ir_version:
        yield f"IR version {model.ir_version}, the contract says {contract.versions.ir_version}"


def _external(model: onnx.ModelProto) -> Problems:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield f"{tensor.name} is stored in another file"


def _modes(model: onnx.ModelProto) -> Problems:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        where = f"{node.op_type} {node.name or node.output[0]}"
        if node.op_type == "BatchNormalization":
            training = any(entry.name == "training_mode" and entry.i != 0 for entry in node.attribute)
            if training or len([name for name in node.output if name]) > 1:
                yield f"{where} is in training mode: it normalises by the batch at hand"
        elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            flag = constants.get(node.input[2])
            if flag is None or bool(numpy_helper.to_array(flag)):
                yield f"{where} is in training mode: it drops values at random"


def _epsilons(nodes: list[onnx.NodeProto], expected: tuple[float, ...]) -> Problems:
    for index, node in enumerate(nodes):
        epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
        if index >= len(expected) or not math.isclose(epsilon, expected[index], rel_tol=1e-6):
            known = expected[index] if index < len(expected) else "no such layer"
            yield f"BatchNormalization {node.name or node.output[0]} has epsilon {epsilon:.3g}, the checkpoint {known}"


def _weights(model: onnx.ModelProto) -> Problems:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            yield f"{tensor.name} holds {int((~np.isfinite(values)).sum())} values that are not finite"


def _metadata(model: onnx.ModelProto, contract: Contract) -> Problems:
    texts = [entry.value for entry in model.metadata_props if entry.key == CONTRACT_METADATA_KEY]
    if len(texts) != 1:
        yield f"{len(texts)} entries {CONTRACT_METADATA_KEY!r} in the metadata, expected one"
        return
    try:
        embedded = Contract.from_json(texts[0], f"metadata {CONTRACT_METADATA_KEY!r}")
    except BundleError as error:
        yield one_line(error)
        return
    for name in contract.__dataclass_fields__:
        if getattr(embedded, name) != getattr(contract, name):
            yield f"{name} differs between the metadata and contract.json"
