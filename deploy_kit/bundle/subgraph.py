"""Parts of the ONNX graph that ships, cut at its `features` tensor."""

import onnx
from onnx.utils import Extractor

from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR


def cut_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the sub-graph features → outputs.

    Raises:
        ArtifactError: the graph has no `features`, or an output does not depend on them alone.
    """
    return cut(model, [FEATURES_TENSOR], [output.name for output in model.graph.output])


def cut_encoder(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the sub-graph inputs → features.

    Raises:
        ArtifactError: the graph has no `features`.
    """
    return cut(model, [graph_input.name for graph_input in model.graph.input], [FEATURES_TENSOR])


def cut(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Return the sub-graph between some tensors.

    Args:
        model: the graph.
        inputs: names of the tensors that the sub-graph takes.
        outputs: names of the tensors that it gives.

    Raises:
        ArtifactError: there is no such tensor, or an output depends on others besides.
    """
    try:
        part = Extractor(model).extract_model(inputs, outputs)
    except ValueError as error:
        raise ArtifactError(
            f"{', '.join(inputs)} → {', '.join(outputs)} cannot be cut from the graph: {error}"
        ) from error
    known = {*inputs, *(tensor.name for tensor in part.graph.initializer)}
    for node in part.graph.node:
        if unknown := [name for name in node.input if name and name not in known]:
            raise ArtifactError(f"{', '.join(outputs)} depend on {unknown[0]!r}, not on {', '.join(inputs)} alone")
        known.update(node.output)
    return part
