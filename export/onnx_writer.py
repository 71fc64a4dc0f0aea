"""Write the policy as one self-contained ONNX file.

The graph comes from torch's dynamo exporter, at the opset that it writes natively, and is converted to the opset asked
for. The older TorchScript-based exporter gave the same nodes and the same latency, but torch has deprecated it; dynamo
alone is not enough, since it keeps opset 18 whenever its own conversion fails and only logs that.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import version_converter

from deploy_kit import __version__
from deploy_kit.bundle.contract import CONTRACT_METADATA_KEY, Contract
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.options import MAX_OPSET, MIN_OPSET, NATIVE_OPSET

_OLDEST_CONVERTIBLE = 14
"""onnx's converter goes no lower: it has no adapter from Reshape 14."""

_SAME_BELOW = {
    *("Add", "Concat", "Constant", "Conv", "Div", "Elu", "Erf", "Exp", "Flatten", "Gemm", "LeakyRelu", "Mul", "Relu"),
    *("Reshape", "Selu", "Sigmoid", "Slice", "Softplus", "Sub", "Tanh"),
}
"""Operators whose float32 semantics are the same from opset 11 to 14, apart from Reshape's `allowzero`."""


def build_onnx(
    policy: DeployedPolicy, input_names: tuple[str, ...], output_names: tuple[str, ...], opset: int
) -> onnx.ModelProto:
    """Return the ONNX model of a policy.

    Args:
        policy: the exported twin.
        input_names: one a graph input.
        output_names: one a graph output, without the features.
        opset: version of the default operator set.

    Raises:
        OptionError: the opset cannot be written, or a name is taken inside the graph.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise OptionError(f"--opset {opset}: this version writes opsets {MIN_OPSET} to {MAX_OPSET}")
    model = _export(policy)
    _strip_metadata(model)
    _rename(model, dict(zip((value.name for value in model.graph.input), input_names, strict=True)), "--input-names")
    outputs = [value.name for value in model.graph.output]
    _rename(model, dict(zip(outputs, (*output_names, FEATURES_TENSOR), strict=True)), "--output-names")
    model = convert_opset(model, opset)
    _hide_features(model)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name, model.producer_version = "deploy-kit", __version__
    return model


def embed_contract(model: onnx.ModelProto, contract: Contract | PolicyContract) -> None:
    """Write the contract into the model's `metadata_props`, in place."""
    onnx.helper.set_model_props(model, {CONTRACT_METADATA_KEY: contract.to_json(indent=None)})


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's remarks that a user can do nothing about: absent torchvision, torch's own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            # Both inputs share one batch size on purpose.
            warnings.filterwarnings("ignore", message="# The axis name: batch", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _export(policy: DeployedPolicy) -> onnx.ModelProto:
    inputs = policy.example_inputs()
    dynamic = policy.options.batch_size is None
    shapes = (tuple({0: torch.export.Dim("batch")} for _ in inputs),) if dynamic else None
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            policy,
            inputs,
            dynamo=True,
            opset_version=NATIVE_OPSET,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop the exporter's own records, which quote source files of the exporting machine."""
    graph = model.graph
    for owner in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        owner.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
    # Rebuilt by shape inference; initialisers listed here confuse quantisers.
    graph.ClearField("value_info")
    graph.name = "policy"


def _rename(model: onnx.ModelProto, names: dict[str, str], option: str) -> None:
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {
        value.name for value in (*graph.initializer, *graph.input, *graph.output)
    }
    for new in names.values():
        if new in taken - set(names):
            raise OptionError(
                f"{option}: {new!r} is already the name of a tensor inside the graph; choose another name"
            )
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model of `NATIVE_OPSET` at another opset, with all inner shapes inferred.

    Raises:
        OptionError: an operator of the model does not exist there.
        CheckFailedError: the converter wrote another opset.
    """
    if opset != NATIVE_OPSET:
        try:
            model = version_converter.convert_version(model, max(opset, _OLDEST_CONVERTIBLE))
        except RuntimeError as error:
            raise OptionError(
                f"--opset {opset}: an operator of this policy does not exist there ({error}); "
                f"choose --opset {NATIVE_OPSET}"
            ) from error
    if opset < _OLDEST_CONVERTIBLE:
        _lower(model, opset)
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("") != opset:
        raise CheckFailedError(
            f"the ONNX graph was written with opset {written}, {opset} was asked for; choose another --opset"
        )
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _lower(model: onnx.ModelProto, opset: int) -> None:
    for node in model.graph.node:
        if node.op_type not in _SAME_BELOW:
            raise OptionError(
                f"--opset {opset}: this policy needs {node.op_type}; choose --opset {_OLDEST_CONVERTIBLE} or higher"
            )
        if node.op_type == "Reshape":
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    model.opset_import[0].version = opset


def _hide_features(model: onnx.ModelProto) -> None:
    """Move the features from the outputs to `value_info`: named inside the graph, not computed for the caller."""
    features = next(value for value in model.graph.output if value.name == FEATURES_TENSOR)
    model.graph.value_info.append(features)
    model.graph.output.remove(features)
