"""The first layer that differs: PyTorch in float32, the same in float64, and every tensor of the artifact's graph."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.runners import ArtifactError, Float32, OnnxRunner
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.verify.structure.graph import Graph

Layers = dict[str, npt.NDArray[Any]]
"""What each layer gives, (n, values), in the order of computing."""

EQUAL = 1e-4
"""Difference, as a share of a layer's largest number, up to which a tensor of the artifact counts as that layer."""

_OPSET = 24
"""Of graphs that are rebuilt to be run: the first that holds every operator of the list."""


@dataclass(frozen=True)
class FirstDifference:
    """The first layer that differs.

    Attributes:
        layer: its name in the checkpoint.
        row: index of the row where the difference is largest.
        error: largest difference between artifact and PyTorch.
        of_torch: largest difference between PyTorch and float64.
        of_artifact: largest difference between the artifact and float64.
    """

    layer: str
    row: int
    error: float
    of_torch: float
    of_artifact: float


def network_layers(network: VisionActorCritic, observation: Float32, dtype: torch.dtype) -> Layers:
    """Return what each layer of a network gives for flat observations (n, 6928)."""
    network = copy.deepcopy(network).to(dtype)
    found: Layers = {}

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        found[name] = value.flatten(1).numpy()
        return value

    with torch.inference_mode():
        state, depth = network.split(torch.from_numpy(observation).to(dtype))
        if network.normalizer is not None:
            state, depth = network.normalizer(state, depth)
            keep("the state's normaliser", state)
            keep("the depth's normaliser", depth)
        for index, layer in enumerate(network.stem):
            depth = layer(depth)
            if not isinstance(layer, (nn.Conv2d, nn.Flatten)):
                # A batch norm stands for the convolution before it, into which it may be folded.
                keep(f"stem.{index - 1 if isinstance(layer, nn.BatchNorm2d) else index}", depth)
        state = keep("state_enc", network.state_enc(state))
        hidden = features = keep("features", network.activation(depth + state))
        for index, layer in enumerate(network.actor):
            hidden = keep(f"actor.{index}", layer(hidden))
        if network.aux_decoder is not None:
            keep("aux_decoder", network.aux_decoder(features))
    return found


def graph_tensors(model: onnx.ModelProto, contract: Contract, observation: Float32) -> Layers:
    """Return every float tensor of a graph that has one row for each observation, (n, values).

    Raises:
        ArtifactError: it cannot be run.
    """
    model = copy.deepcopy(model)
    present = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in present]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    outputs = OnnxRunner(model, contract, outputs={name: name for name in (*present, *names)})(observation)
    return {
        name: value.reshape(len(observation), -1)
        for name, value in outputs.items()
        if value.dtype.kind == "f" and value.size and value.shape[:1] == (len(observation),)
    }


def first_difference(network: VisionActorCritic, observation: Float32, tensors: Layers) -> FirstDifference | None:
    """Return the first layer that no tensor of the artifact equals, None if every layer has its tensor.

    A layer without a tensor of its own, as where an exporter joined two, is no difference if a later one of its branch
    has one.
    """
    layers, exact = (network_layers(network, observation, dtype) for dtype in (torch.float32, torch.float64))
    for branch in _branches(layers):
        nearest = {name: _nearest(layers[name], tensors) for name in branch}
        equal = [
            nearest[name] is not None and _error(layers[name], nearest[name]) <= EQUAL * _size(layers[name])
            for name in branch
        ]
        if not branch or equal[-1]:
            continue
        first = max((index + 1 for index, same in enumerate(equal) if same), default=0)
        known = [name for name in branch[first:] if nearest[name] is not None]
        name = known[0] if known else branch[first]
        found = nearest[name]
        if found is None:
            return FirstDifference(name, 0, np.inf, _error(exact[name], layers[name]), np.inf)
        row = int(np.nan_to_num(np.abs(found - layers[name]), nan=np.inf).max(axis=1).argmax())
        return FirstDifference(
            name,
            row,
            _error(layers[name], found),
            _error(exact[name], layers[name]),
            _error(exact[name], found),
        )
    return None


def graph_model(graph: Graph, contract: Contract) -> onnx.ModelProto:
    """Return a graph that was read as data as an ONNX model, so that a TorchScript file can be looked into.

    Raises:
        ArtifactError: it holds something that ONNX cannot express.
    """
    try:
        names = {name: spec.name for name, spec in zip(graph.inputs, contract.inputs, strict=True)}
        nodes = [
            helper.make_node(
                node.op, [names.get(name, name) for name in node.inputs], list(node.outputs), **node.attributes
            )
            for node in graph.nodes
        ]
        inputs = [helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, ["batch", *spec.shape[1:]])
                  for spec in contract.inputs]  # fmt: skip
        outputs = [onnx.ValueInfoProto(name=name) for name in graph.outputs]
        constants = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in
                     graph.constants.items()]  # fmt: skip
        return helper.make_model(
            helper.make_graph(nodes, "policy", inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=10,
        )
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"the graph cannot be rebuilt: {error}") from error


def _branches(layers: Layers) -> Iterator[list[str]]:
    """Yield layers that follow from each other: depth, state, features, actor, gate head."""
    for prefixes in (("the depth's", "stem"), ("the state's", "state_enc"), ("features",), ("actor",), ("aux",)):
        yield [name for name in layers if name.startswith(prefixes)]


def _nearest(layer: npt.NDArray[Any], tensors: Layers) -> npt.NDArray[Any] | None:
    fitting = [value for value in tensors.values() if value.shape == layer.shape]
    return min(fitting, key=lambda value: _error(layer, value), default=None)


def _error(expected: npt.NDArray[Any], found: npt.NDArray[Any] | None) -> float:
    if found is None:
        return float("inf")
    with np.errstate(all="ignore"):
        error = np.abs(found.astype(np.float64) - expected)
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))


def _size(layer: npt.NDArray[Any]) -> float:
    return max(1.0, float(np.abs(layer).max(initial=0.0)))
