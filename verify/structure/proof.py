"""Proof that a graph computes the checkpoint's network, whatever the input.

The graph is walked from its outputs to its inputs along the network. Each step names what must stand there: an operator
(or one of its stated equivalents), its attributes, its weights. What the walk does not reach is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from deploy_kit.bundle.contract import FEATURES_TENSOR, Contract
from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.structure.graph import Array, Graph, Node, StructureError
from deploy_kit.verify.structure.implied_weights import affine, difference, folded, values_of
from deploy_kit.verify.structure.operators import ACTIVATION_FORMS, COMMUTATIVE, Pattern, float32_equal
from deploy_kit.verify.structure.walk import Walk


@dataclass(frozen=True)
class Proven:
    """What a proof found.

    Attributes:
        weights: how many weights were compared.
        problems: what does not hold, one line each; empty if the graph is proven.
    """

    weights: int
    problems: tuple[str, ...]


def prove(graph: Graph, contract: Contract, network: VisionActorCritic, transform: ActionTransform) -> Proven:
    """Prove a graph.

    Args:
        graph: inputs, outputs and roles in the contract's order.
        contract: says which outputs there are, the layout, and a fixed batch size.
        network: the checkpoint's.
        transform: transform of the vehicle, for graphs that give commands.
    """
    proof = _Proof(graph, contract, network)
    try:
        proof.run(transform)
    except StructureError as error:
        return Proven(proof.compared, (*proof.problems, str(error)))
    return Proven(proof.compared, tuple(proof.problems))


class _Proof:
    def __init__(self, graph: Graph, contract: Contract, network: VisionActorCritic) -> None:
        self.graph, self.contract, self.network = graph, contract, network
        self.problems: list[str] = []
        self.compared = 0
        self.batch = contract.batch

    def run(self, transform: ActionTransform) -> None:
        contract, graph = self.contract, self.graph
        if (len(graph.inputs), len(graph.outputs)) != (len(contract.inputs), len(contract.outputs)):
            raise StructureError(
                f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs, the contract has {len(contract.inputs)} "
                f"and {len(contract.outputs)}"
            )
        self.walk = Walk(graph, self.batch)
        action = graph.outputs[0]
        if contract.action.inside_graph:
            action = self.command(action, transform)
        features = self.actor(action)
        if contract.gate is not None:
            logit = graph.outputs[1]
            if contract.gate.output is GateOutput.PROBABILITY:
                logit = self.walk.data_node(logit, "the gate's sigmoid", "Sigmoid").inputs[0]
            decoder = self.network.aux_decoder
            if decoder is None:
                raise StructureError("there is a gate output, the checkpoint has no gate head")
            if (other := self.walk.skip(self.linear(logit, decoder, "aux_decoder"))) != features:
                raise StructureError(f"actor and gate head read different tensors, {features!r} and {other!r}")
        self.features_name(features)
        fused = self.activation(features, "the features' activation")
        self.encoders(fused)
        self.walk.require_all_seen()

    def features_name(self, features: str) -> None:
        """Check that the tensor by the name of the features is the features, where the format keeps names."""
        known = {name for node in self.graph.nodes for name in node.outputs}
        if FEATURES_TENSOR in known and self.walk.skip(FEATURES_TENSOR) != features:
            raise StructureError(f"the tensor {FEATURES_TENSOR!r} is not what actor and gate head read")

    def command(self, name: str, transform: ActionTransform) -> str:
        total, offset = self.walk.with_constant(name, "Add", "the command's offset")
        product, scale = self.walk.with_constant(total, "Mul", "the command's scale")
        self.weight("action scale", self.row(scale), [np.array(transform.scale, np.float32)])
        self.weight("action offset", self.row(offset), [np.array(transform.offset, np.float32)])
        return self.walk.data_node(product, "the command's tanh", "Tanh").inputs[0]

    def actor(self, name: str) -> str:
        layers = [(index, module) for index, module in enumerate(self.network.actor) if isinstance(module, nn.Linear)]
        for index, module in reversed(layers):
            name = self.linear(name, module, f"actor.{index}")
            if index:
                name = self.activation(name, f"the activation after actor.{index - 2}")
        return self.walk.skip(name)

    def encoders(self, name: str) -> None:
        node = self.walk.data_node(name, "the sum of both encoders", "Add")
        stem = self.network.stem[-1]
        assert isinstance(stem, nn.Linear)
        image, state = (self.walk.linear(source, "an encoder's last layer") for source in node.inputs)
        wanted = values_of(stem.weight)
        if image[1].shape != wanted.shape or np.array_equal(state[1], wanted):
            image, state = state, image
        flat = self.dense(image, stem, f"stem.{len(self.network.stem) - 1}")
        seen = self.dense(state, self.network.state_enc, "state_enc")
        self.source(self.normaliser(seen, "state"), "state")
        self.source(self.normaliser(self.convolutions(flat), "depth"), "depth")

    def convolutions(self, name: str) -> str:
        config = self.network.config
        channels, rows, columns = config.stem_output_shape
        name = self.walk.reshaped(name, (channels * rows * columns,), "the flattened image")
        for block in reversed(range(len(config.stem))):
            name = self.activation(name, f"the activation of stem block {block}")
            convolution, norm = self.network.stem[3 * block], self.network.stem[3 * block + 1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            name = self.block(name, convolution, norm, f"stem.{3 * block}")
        return name

    def block(self, name: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d, what: str) -> str:
        node = self.walk.node(name, what)
        if node.op == "BatchNormalization":
            self.walk.take(node, what)
            for part, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var), 1):
                kind = ("weight", "bias", "running_mean", "running_var")[part - 1]
                value = self.walk.constant(node.input(part), f"{what}'s batch norm")
                self.weight(f"batch norm of {what}, {kind}", value, [values_of(tensor)])
            if not float32_equal(node.attributes.get("epsilon", 1e-5), norm.eps):
                self.problems.append(f"batch norm of {what} has epsilon {node.attributes.get('epsilon', 1e-5):g}")
            name, found, bias = self.walk.convolution(node.inputs[0], convolution, what)
            if bias is not None:
                raise StructureError(f"{what} has a bias before its batch norm, the network has none")
            self.weight(f"{what}.weight", found, [values_of(convolution.weight)])
            return name
        if (source := self.elementary_norm(node, norm, what)) is not None:
            name, found, bias = self.walk.convolution(source, convolution, what)
            if bias is not None:
                raise StructureError(f"{what} has a bias before its batch norm, the network has none")
            self.weight(f"{what}.weight", found, [values_of(convolution.weight)])
            return name
        name, found, bias = self.walk.convolution(name, convolution, what)
        weight, shift = folded(convolution, norm)
        self.weight(f"{what}.weight, batch norm folded", found, weight)
        # Exporters leave out a bias whose numbers are all 0.
        bias = np.zeros(convolution.out_channels, np.float32) if bias is None else bias.reshape(-1)
        self.weight(f"{what}.bias, batch norm folded", bias, shift)
        return name

    def elementary_norm(self, node: Node, norm: nn.BatchNorm2d, what: str) -> str | None:
        """Return what a batch norm of elementary operators reads, None if there is none.

        The forms are `x · scale + shift`, and `(x - mean) · scale + bias` with the scale at once or in two steps.
        """
        walk, shape, forms = self.walk, (norm.num_features, 1, 1), affine(norm)
        if node.op != "Add" or not walk.has_data_input(node, "Mul"):
            return None
        label = f"batch norm of {what}"
        product, added = walk.with_constant(node.outputs[0], "Add", label)
        source, factor = walk.with_constant(product, "Mul", label)
        inner = walk.node(source, label)
        if inner.op not in ("Sub", "Mul", "Div"):
            self.weight(f"{label}, scale", self.row(factor, shape).ravel(), forms["scale"])
            self.weight(f"{label}, shift", self.row(added, shape).ravel(), forms["shift"])
            return source
        self.weight(f"{label}, bias", self.row(added, shape).ravel(), [values_of(norm.bias)])
        if inner.op == "Sub":
            self.weight(f"{label}, scale", self.row(factor, shape).ravel(), forms["scale"])
        else:
            self.weight(f"{label}, weight", self.row(factor, shape).ravel(), [values_of(norm.weight)])
            source, std = walk.with_constant(source, inner.op, label)
            wanted = forms["std" if inner.op == "Div" else "rstd"]
            self.weight(f"{label}, standard deviation", self.row(std, shape).ravel(), wanted)
        source, mean = walk.with_constant(source, "Sub", label)
        self.weight(f"{label}, mean", self.row(mean, shape).ravel(), [values_of(norm.running_mean)])
        return source

    def normaliser(self, name: str, part: str) -> str:
        normalizer = self.network.normalizer
        if normalizer is None:
            return name
        size = self.network.config.layout.state_size
        shape = (size,) if part == "state" else (1, *self.network.config.layout.image_shape)
        # A multiplication by the inverse is one rounding away from the division.
        inverse = self.walk.node(name, f"the {part}'s normaliser").op == "Mul"
        quotient, scale = self.walk.with_constant(name, "Mul" if inverse else "Div", f"the {part}'s normaliser")
        shifted, mean = self.walk.with_constant(quotient, "Sub", f"the {part}'s normaliser")

        def mine(tensor: torch.Tensor) -> Array:
            flat = values_of(tensor)[0]
            return np.reshape(flat[:size] if part == "state" else flat[size:], shape)

        self.weight(f"normaliser mean of the {part}", self.row(mean, shape), [mine(normalizer.mean)])
        divisor = mine(normalizer.std + normalizer.eps)
        wanted = [1.0 / divisor.astype(np.float64), np.float32(1.0) / divisor] if inverse else [divisor]
        self.weight(f"normaliser scale of the {part}", self.row(scale, shape), wanted)
        return shifted

    def source(self, name: str, part: str) -> None:
        layout = self.network.config.layout
        if self.contract.observation.layout is InputLayout.SPLIT:
            wanted = self.graph.inputs[0 if part == "state" else 1]
            if (found := self.walk.skip(name)) != wanted:
                raise StructureError(f"the {part} is read from {found!r}, expected the input {wanted!r}")
            return
        if part == "depth":
            name = self.walk.reshaped(name, (1, *layout.image_shape), "the image")
        bounds = (0, layout.state_size) if part == "state" else (layout.state_size, layout.size)
        found = self.walk.columns(name, bounds, layout.size, f"the {part}")
        if self.walk.skip(found) != self.graph.inputs[0]:
            raise StructureError(f"the {part} is cut from {found!r}, expected the input {self.graph.inputs[0]!r}")

    def linear(self, name: str, module: nn.Linear, what: str) -> str:
        return self.dense(self.walk.linear(name, what), module, what)

    def dense(self, found: tuple[str, Array, Array], module: nn.Linear, what: str) -> str:
        """Compare a linear layer's weights and return the tensor that it reads."""
        source, weight, bias = found
        self.weight(f"{what}.weight", weight, [values_of(module.weight)])
        self.weight(f"{what}.bias", self.row(bias, (module.out_features,)), [values_of(module.bias)])
        return source

    def activation(self, name: str, what: str) -> str:
        activation = self.network.config.activation
        name = self.walk.skip(name)
        for form in ACTIVATION_FORMS[activation]:
            if (match := self.match(form, name, {})) is not None:
                bound, nodes = match
                for node in nodes:
                    self.walk.take(node, what)
                return bound.get("x", name)
        found = self.walk.producers.get(name)
        raise StructureError(f"{what} is {found or repr(name)}, expected {activation}")

    def match(self, form: Pattern, name: str, bound: dict[str, str]) -> tuple[dict[str, str], list[Node]] | None:
        """Match a pattern; return what "x" stands for and the nodes, None if it does not match."""
        name = self.walk.skip(name)
        if form == "x":
            return None if bound.get("x", name) != name else ({"x": name}, [])
        if isinstance(form, float):
            value = self.walk.constant_or_none(name)
            fits = value is not None and value.size == 1 and float32_equal(float(value.ravel()[0]), form)
            return (bound, []) if fits else None
        node = self.walk.producers.get(name)
        if node is None or node.op != form[0] or len(node.inputs) != len(form) - 1:
            return None
        orders = [node.inputs, node.inputs[::-1]] if node.op in COMMUTATIVE else [node.inputs]
        for inputs in orders:
            found: tuple[dict[str, str], list[Node]] | None = (bound, [node])
            for part, source in zip(form[1:], inputs, strict=True):
                assert found is not None
                inner = self.match(part, source, found[0])
                found = None if inner is None else (inner[0], [*found[1], *inner[1]])
                if found is None:
                    break
            if found is not None:
                return found
        return None

    def weight(self, what: str, found: Array, expected: Sequence[Array]) -> None:
        """Compare a weight; a difference is recorded, so that all are named at once."""
        self.compared += 1
        if (problem := difference(found, expected)) is not None:
            self.problems.append(f"{what} {problem}")

    def row(self, value: Array, shape: tuple[int, ...] | None = None) -> Array:
        """Return a constant as it applies to one row of data.

        Raises:
            StructureError: it does not fit the row's shape, or differs from row to row.
        """
        shape = shape or (self.network.config.num_actions,)
        try:
            return np.asarray(np.broadcast_to(value, (1, *shape))[0])
        except ValueError as error:
            raise StructureError(f"a constant of shape {value.shape} does not fit data of shape {shape}") from error
