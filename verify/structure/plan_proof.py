"""Proof that a graph computes a plan, whatever the input: operator by operator, attribute by attribute, bit by bit.

The plan is made from the checkpoint's own network. Each of its layers must stand in the graph, reading what the layers
before it give; what is left over is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.policy.plan import Layer, Plan
from deploy_kit.verify.structure.graph import Array, Graph, Node, StructureError
from deploy_kit.verify.structure.implied_weights import difference, values_of
from deploy_kit.verify.structure.operators import COMMUTATIVE, float32_equal
from deploy_kit.verify.structure.proof import Proven
from deploy_kit.verify.structure.walk import MAX_NODES

_ANY = object()
"""Stands for an attribute that changes nothing where it is used."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "Add": {},
    "BatchNormalization": {"epsilon": 1e-5, "momentum": _ANY, "training_mode": 0},
    "Celu": {"alpha": 1.0},
    "Concat": {"axis": 0},
    "Conv": {
        "auto_pad": "NOTSET",
        "dilations": [1, 1],
        "group": 1,
        "kernel_shape": None,
        "pads": [0] * 4,
        "strides": [1, 1],
    },
    "Div": {},
    "Elu": {"alpha": 1.0},
    "Erf": {},
    "Flatten": {"axis": 1},
    "Gather": {"axis": 0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "GlobalAveragePool": {},
    "GlobalMaxPool": {},
    "LayerNormalization": {"axis": -1, "epsilon": 1e-5, "stash_type": 1},
    "LeakyRelu": {"alpha": 0.01},
    "MaxPool": {
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
        "dilations": [1, 1],
        "kernel_shape": None,
        "pads": [0] * 4,
        "storage_order": 0,
        "strides": [1, 1],
    },
    "Mul": {},
    "Relu": {},
    "Reshape": {"allowzero": _ANY},
    "Selu": {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    "Sigmoid": {},
    "Slice": {},
    "Softplus": {},
    "Sub": {},
    "Tanh": {},
    "Unsqueeze": {},
}  # fmt: skip
"""Operators that a plan is made of, with ONNX's defaults of their attributes."""

PLANNED = frozenset(DEFAULTS) | {"Identity", "Constant"}
"""Operators that the graph of a plan may have."""


def prove_plan(graph: Graph, plan: Plan, head: nn.Linear | None) -> Proven:
    """Prove a graph.

    Args:
        graph: inputs in the plan's order; outputs: actions, the head's logit where there is a head, the next state.
        plan: the checkpoint's.
        head: the checkpoint's head, None if the graph gives no logit.
    """
    proof = _PlanProof(graph, plan)
    try:
        proof.run(plan, head)
    except StructureError as error:
        return Proven(proof.compared, (*proof.problems, str(error)))
    return Proven(proof.compared, tuple(proof.problems))


class _PlanProof:
    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.compared = graph, 0
        self.problems: list[str] = []
        self._used: set[str] = set()
        self._left = [node for node in graph.nodes if node.op != "Identity"]

    def run(self, plan: Plan, head: nn.Linear | None) -> None:
        graph = self.graph
        if len(graph.nodes) > MAX_NODES:
            raise StructureError(f"{len(graph.nodes)} operators, a policy has fewer than {MAX_NODES}")
        if len(graph.inputs) != len(plan.inputs):
            raise StructureError(f"{len(graph.inputs)} inputs, the policy has {len(plan.inputs)}")
        self._producers = graph.producers()
        self._names = dict(zip(plan.inputs, graph.inputs, strict=True))
        layers, given = list(plan.layers), [plan.actions, *plan.state]
        if head is not None:
            constants = {"weight": head.weight, "bias": head.bias}
            layers.append(Layer("Gemm", (plan.features,), "head", "head", constants, {"transB": 1}))
            given.insert(1, "head")
        for layer in layers:
            self._find(layer)
        wanted = [self._names[value] for value in given]
        found = [self._source(name) for name in graph.outputs]
        if found != wanted:
            raise StructureError(f"the outputs are {', '.join(found)}, expected {', '.join(wanted)}, in this order")
        named = {name for node in graph.nodes for name in node.outputs}
        if FEATURES_TENSOR in named and self._source(FEATURES_TENSOR) != self._names[plan.features]:
            raise StructureError(f"the tensor {FEATURES_TENSOR!r} is not what {layers[-1].name} reads")
        if self._left:
            raise StructureError(f"{self._left[0]} is no part of the policy")
        if unused := [name for name in graph.constants if name not in self._used]:
            raise StructureError(f"the constant {unused[0]!r} is no part of the policy")

    def _source(self, name: str) -> str:
        """Return the tensor that another one is a plain copy of."""
        for _ in range(MAX_NODES):
            node = self._producers.get(name)
            if node is None or node.op != "Identity":
                return name
            name = node.inputs[0]
        raise StructureError(f"the tensor {name!r} is a copy of itself")

    def _find(self, layer: Layer) -> None:
        """Find the node of a layer; one with other weights is taken too, and the difference is recorded."""
        reads = [self._names[name] for name in layer.inputs]
        candidates = [node for node in self._left if node.op == layer.op and self._reads(node, reads)]
        if not candidates:
            there = [str(node) for node in self._left if set(reads) & set(map(self._source, node.inputs))][:2]
            raise StructureError(
                f"{layer.name}: no {layer.op} reads {', '.join(map(repr, reads))}; what reads it is "
                f"{' and '.join(there) or 'nothing'}"
            )
        differences = [(node, self._differences(layer, node)) for node in candidates]
        node, problems = min(differences, key=lambda pair: len(pair[1]))
        self._left.remove(node)
        if any(node.outputs[1:]):
            raise StructureError(f"{layer.name}, {node}, has {len(node.outputs)} outputs")
        self.problems += problems
        self.compared += len(layer.constants)
        self._used.update(name for name in node.inputs if name in self.graph.constants)
        self._names[layer.output] = node.outputs[0]

    def _reads(self, node: Node, reads: Sequence[str]) -> bool:
        data = [self._source(name) for name in node.inputs if name and name not in self.graph.constants]
        return data == list(reads) or (node.op in COMMUTATIVE and sorted(data) == sorted(reads))

    def _differences(self, layer: Layer, node: Node) -> list[str]:
        found = [self.graph.constants[name] for name in node.inputs if name in self.graph.constants]
        problems = []
        if node.op in ("Sub", "Div", "Gather", "Slice", "Gemm", "Conv") and node.inputs[0] in self.graph.constants:
            problems.append(f"{layer.name}, {node}, reads a constant first")
        wanted = {name: values_of(tensor) for name, tensor in layer.constants.items()}
        found = _settled(node.op, found)
        if len(found) != len(wanted):
            problems.append(f"{layer.name}, {node}, has {len(found)} constants, expected {len(wanted)}")
        for (name, value), theirs in zip(wanted.items(), found, strict=False):
            if (problem := _constant_difference(node.op, theirs, value)) is not None:
                problems.append(f"{layer.name}.{name} {problem}")
        return [*problems, *_attribute_differences(layer, node)]


def _settled(op: str, found: list[Array]) -> list[Array]:
    """Return an operator's constants without those that say what holds anyway."""
    if op == "Slice" and len(found) == 4 and found[3].ravel().tolist() == [1]:
        return found[:3]
    return found


def _constant_difference(op: str, found: Array, wanted: Array) -> str | None:
    if wanted.dtype == np.int64:
        theirs, ours = found.ravel().tolist(), wanted.ravel().tolist()
        # A first size of 0 or -1 keeps the batch, where all others are given.
        same = theirs[1:] == ours[1:] and theirs[:1] in ([0], [-1]) if op == "Reshape" else theirs == ours
        return None if same and found.dtype == np.int64 else f"is {theirs}, expected {ours}"
    return difference(found, [wanted])


def _attribute_differences(layer: Layer, node: Node) -> list[str]:
    defaults = DEFAULTS[layer.op]
    wanted = {**defaults, **layer.settings}
    problems = [f"{layer.name}, {node}, has the attribute {key!r}" for key in node.attributes if key not in wanted]
    found: Mapping[str, Any] = {**defaults, **node.attributes}
    for key, value in wanted.items():
        # The weight's shape says the kernel's, in a format that leaves it out.
        if value is _ANY or (key == "kernel_shape" and layer.op == "Conv" and found[key] is None):
            continue
        if not _same(found[key], value):
            problems.append(f"{layer.name}, {node}, has {key} {found[key]}, expected {value}")
    return problems


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, bytes):
        found = found.decode("ascii", "replace")
    if isinstance(wanted, float):
        return float32_equal(found, wanted)
    return (
        bool(list(found) == wanted)
        if isinstance(wanted, list) and hasattr(found, "__iter__")
        else bool(found == wanted)
    )
