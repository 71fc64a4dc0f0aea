"""The ONNX file as data: nothing hidden in it, operators on the list, names, shapes, opset, weights, contract."""

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # carries no types
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]  # carries no types

from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY, FEATURES_TENSOR, Contract
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.errors import BundleError
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.protocol import PolicyNetwork
from deploy_kit.task.interface import ActionTransform
from deploy_kit.text import one_line
from deploy_kit.verify.report import FactCheck
from deploy_kit.verify.structure.constants import MAX_ELEMENTS
from deploy_kit.verify.structure.graph import StructureError, messages, onnx_graph
from deploy_kit.verify.structure.operators import PROVEN, RUNNABLE
from deploy_kit.verify.structure.plan_proof import PLANNED, prove_plan
from deploy_kit.verify.structure.proof import Proven, prove
from deploy_kit.verify.structure.walk import MAX_NODES

ALLOWED_DOMAINS = ("", "ai.onnx")
"""Operator sets that every ONNX runtime has."""

_FOREIGN = (
    *("FunctionProto", "TrainingInfoProto", "SparseTensorProto"),
    *("DeviceConfigurationProto", "NodeDeviceConfigurationProto", "ShardingSpecProto"),
)
"""Kinds of messages that no policy needs."""

LARGEST_BATCH = 256
"""Rows that a graph is run on at once; a dimension without a size is taken as this."""

POLICY_RUNNABLE = RUNNABLE | PLANNED

Problems = Iterator[str]
AnyContract = Contract | PolicyContract


def load_graph(data: bytes, name: str) -> onnx.ModelProto:
    """Return a model from the bytes of an ONNX file, without following references to other files.

    Raises:
        ArtifactError: it is not an ONNX file.
    """
    if data[4:8] == b"ORTM":
        raise ArtifactError(f"{name} can be read as a file of onnxruntime's own format too")
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{name} is not a readable ONNX file: {one_line(error)}") from error


def is_runnable(model: onnx.ModelProto, operators: frozenset[str] = RUNNABLE) -> bool:
    """Return whether a graph may be run: without state, control flow or growth, and nothing hidden.

    Args:
        model: the graph.
        operators: operators that it may have.
    """
    listed = not any(hidden(model)) and all(node.op_type in operators for node in model.graph.node)
    return listed and not _grows(model)


def _grows(model: onnx.ModelProto) -> bool:
    """Return whether a tensor inside a graph is larger than any that a policy has, or of unknown size.

    Two small constants, broadcast against each other, can take any amount of memory.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return True
    known = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
    for name in (name for node in model.graph.node for name in node.output if name):
        if name not in known or not known[name].HasField("shape"):
            return True
        size = 1.0
        for dimension in known[name].shape.dim:
            size *= max(1, dimension.dim_value) if dimension.HasField("dim_value") else LARGEST_BATCH
        if size > MAX_ELEMENTS:
            return True
    return False


def graph_checks(
    model: onnx.ModelProto, contract: Contract, network: VisionActorCritic, transform: ActionTransform
) -> list[FactCheck]:
    """Return all static checks of a graph.

    Args:
        model: the graph that ships.
        contract: contract of `contract.json`.
        network: the checkpoint's.
        transform: transform of the vehicle.
    """
    specs = len(contract.inputs) + len(contract.outputs) + 1
    checks = file_checks(model)
    checks += [
        _facts("onnx/signature", "inputs, outputs, features against the contract", specs, _signature(model, contract)),
        _facts("onnx/opset", "operator set against the contract", len(model.opset_import), _opset(model, contract)),
        _facts("onnx/contract", "metadata against contract.json", 1, _metadata(model, contract)),
    ]
    try:
        proven = prove(onnx_graph(model), contract, network, transform)
    except StructureError as error:
        proven = Proven(0, (str(error),))
    described = "each operator and weight against the checkpoint, for all inputs"
    checks.append(FactCheck("onnx/proof", described, proven.weights, proven.problems))
    return checks


def file_checks(model: onnx.ModelProto) -> list[FactCheck]:
    """Return the static checks that need nothing but the graph."""
    nodes = len(model.graph.node)
    checks = [_facts("onnx/operators", "nothing hidden, operators on the list", nodes, _unlisted(model))]
    if is_runnable(model):
        checks.append(_facts("onnx/valid", "graph against the ONNX specification", nodes, _validity(model)))
    return checks


def policy_graph_checks(model: onnx.ModelProto, contract: PolicyContract, network: PolicyNetwork) -> list[FactCheck]:
    """Return all static checks of the graph of any policy.

    Args:
        model: the graph that ships.
        contract: contract of `contract.json`.
        network: the checkpoint's.
    """
    nodes, specs = len(model.graph.node), len(contract.inputs) + len(contract.outputs) + 1
    unlisted = _unlisted(model, PLANNED)
    checks = [_facts("onnx/operators", "nothing hidden, operators on the list", nodes, unlisted)]
    if is_runnable(model, POLICY_RUNNABLE):
        checks.append(_facts("onnx/valid", "graph against the ONNX specification", nodes, _validity(model)))
    checks += [
        _facts("onnx/signature", "inputs, outputs, features against the contract", specs, _signature(model, contract)),
        _facts("onnx/opset", "operator set against the contract", len(model.opset_import), _opset(model, contract)),
        _facts("onnx/contract", "metadata against contract.json", 1, _metadata(model, contract)),
    ]
    head = network.head if contract.head is not None else None
    try:
        proven = prove_plan(onnx_graph(model), network.plan(), head)
    except StructureError as error:
        proven = Proven(0, (str(error),))
    described = "each operator and weight against the checkpoint, for all inputs and states"
    checks.append(FactCheck("onnx/proof", described, proven.weights, proven.problems))
    return checks


def _unlisted(model: onnx.ModelProto, operators: frozenset[str] = PROVEN) -> Problems:
    yield from hidden(model)
    for node in model.graph.node:
        if node.op_type not in operators:
            yield f"{node.op_type} {node.name or ', '.join(node.output)} is not on the list of operators"


def hidden(model: onnx.ModelProto) -> Problems:
    """Yield what a runtime would act on besides the nodes of the one graph."""
    graphs = 0
    for message in messages(model):
        kind = type(message).__name__
        graphs += kind == "GraphProto"
        if len(UnknownFieldSet(message)):
            yield f"a {kind} has a field that the ONNX specification does not know"
        if kind in _FOREIGN:
            yield f"it holds a {kind}, which no policy needs"
        if kind == "TensorProto" and (message.data_location == onnx.TensorProto.EXTERNAL or message.external_data):
            yield f"{message.name or 'a constant'} is stored in another file"
        if kind == "TypeProto" and message.denotation:
            # Runtimes for images convert what is called an image.
            yield f"an input or output is denoted as {message.denotation!r}"
        if kind == "NodeProto" and message.domain not in ALLOWED_DOMAINS:
            yield f"{message.op_type} is of domain {message.domain!r}, which other runtimes lack"
        if kind == "NodeProto" and getattr(message, "overload", False):
            yield f"{message.op_type} asks for the overload {message.overload!r}"
    if graphs != 1:
        yield f"it holds {graphs} graphs, expected one"
    if len(model.graph.node) > MAX_NODES:
        yield f"{len(model.graph.node)} operators, a policy has fewer than {MAX_NODES}"
    if any(entry.key == "ort_config" for entry in model.metadata_props):
        yield "its metadata tells onnxruntime how to run it (ort_config)"
    domains = [entry.domain for entry in model.opset_import]
    if len({"" if domain == "ai.onnx" else domain for domain in domains}) != len(domains):
        yield f"an operator set is imported twice ({', '.join(map(repr, domains))})"


def _facts(name: str, compared: str, count: int, problems: Problems) -> FactCheck:
    return FactCheck(name, compared, count, tuple(problems))


def _validity(model: onnx.ModelProto) -> Problems:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        yield one_line(error)


def _signature(model: onnx.ModelProto, contract: AnyContract) -> Problems:
    yield from signature_problems(model, contract, "the contract")
    if not any(FEATURES_TENSOR in node.output for node in model.graph.node):
        yield f"no tensor is named {FEATURES_TENSOR!r}, so features → outputs cannot be cut out"


def signature_problems(model: onnx.ModelProto, contract: AnyContract, source: str) -> Problems:
    """Yield what of a graph's inputs and outputs is not the contract's, in order.

    Args:
        model: the graph.
        contract: names, shapes and types.
        source: what says so, for the problems.
    """
    for kind, specs, values in (
        ("input", contract.inputs, model.graph.input),
        ("output", contract.outputs, model.graph.output),
    ):
        expected = [spec.name for spec in specs]
        found = [value.name for value in values]
        if expected != found:
            yield f"{kind}s are {', '.join(found)}, {source} names {', '.join(expected)}"
            continue
        for spec, value in zip(specs, values, strict=True):
            if (shape := _shape(value)) != spec.shape:
                yield f"{kind} {spec.name} has shape {shape}, {source} says {spec.shape}"
            if (dtype := _dtype(value)) != spec.dtype:
                yield f"{kind} {spec.name} is {dtype}, {source} says {spec.dtype}"


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.type.tensor_type.shape.dim
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _opset(model: onnx.ModelProto, contract: AnyContract) -> Problems:
    for entry in model.opset_import:
        if entry.domain not in ALLOWED_DOMAINS:
            yield f"operators of domain {entry.domain!r} are used, which other runtimes lack"
        elif entry.version != contract.versions.opset:
            yield f"opset {entry.version}, the contract says {contract.versions.opset}"
    if model.ir_version != contract.versions.ir_version:
        yield f"IR version {model.ir_version}, the contract says {contract.versions.ir_version}"


def _metadata(model: onnx.ModelProto, contract: AnyContract) -> Problems:
    texts = [entry.value for entry in model.metadata_props if entry.key == CONTRACT_METADATA_KEY]
    if len(texts) != 1:
        yield f"{len(texts)} entries {CONTRACT_METADATA_KEY!r} in the metadata, expected one"
        return
    try:
        embedded = type(contract).from_json(texts[0], f"metadata {CONTRACT_METADATA_KEY!r}")
    except BundleError as error:
        yield one_line(error)
        return
    for name in contract.__dataclass_fields__:
        if getattr(embedded, name) != getattr(contract, name):
            yield f"{name} differs between the metadata and contract.json"
