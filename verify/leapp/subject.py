"""A LEAPP export beside the checkpoint it claims to come from: which graph of deploy-kit's it must be."""

import itertools
from dataclasses import dataclass

import onnx

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions
from deploy_kit.bundle.implied import describe
from deploy_kit.bundle.reader import ONNX_NAME, Bundle
from deploy_kit.errors import BundleError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.run.observation import RunObservation
from deploy_kit.policy.run.vehicle import Vehicle
from deploy_kit.verify.leapp.description import LeappExport
from deploy_kit.verify.structure.graph import StructureError, onnx_graph
from deploy_kit.verify.structure.proof import Proven, prove


@dataclass(frozen=True)
class LeappBundle(Bundle):
    """A LEAPP export as far as it is like a bundle: a graph, and the contract that it must have.

    Attributes:
        model: the ONNX file's bytes.
    """

    model: bytes

    def read(self, name: str) -> bytes:
        """Return the graph's bytes.

        Raises:
            BundleError: another file is asked for; a LEAPP export has none.
        """
        if name != ONNX_NAME:
            raise BundleError(f"{self.path}: a LEAPP export has no {name}")
        return self.model


@dataclass(frozen=True)
class Identified:
    """Which graph a LEAPP export is.

    Attributes:
        contract: what a bundle of that graph would have.
        proven: the proof that the graph computes the checkpoint's network.
    """

    contract: Contract
    proven: Proven


def identify(
    export: LeappExport, model: onnx.ModelProto, checkpoint: Checkpoint, vehicle: Vehicle, meaning: RunObservation
) -> Identified:
    """Find out which of the graphs that a policy may be exported as this one is, by proving it.

    LEAPP does not say whether an output is bounded, or a probability; the graph itself decides. If it is none of
    them, the problems are those of the plain graph.

    Args:
        export: what LEAPP wrote.
        model: its graph.
        checkpoint: the truth.
        vehicle: the vehicle that the user names.
        meaning: what the policy observes.

    Raises:
        BundleError: inputs or outputs have shapes that the checkpoint's network does not have.
    """
    network = checkpoint.network
    layout = _layout(export, checkpoint)
    # LEAPP passes the batch that it describes, whether the graph leaves it free or not.
    batch = None if _has_free_batch(model) else export.inputs[0].shape[0]
    gates = _gates(export, checkpoint)
    found: list[Identified] = []
    for gate, transform in itertools.product(gates, (None, vehicle.action_transform)):
        options = GraphOptions(
            layout=layout,
            gate_output=gate,
            transform=transform,
            batch_size=batch,
            input_names=tuple(tensor.name for tensor in export.inputs),
            output_names=tuple(tensor.name for tensor in export.outputs),
        )
        contract = describe(
            checkpoint,
            vehicle,
            meaning,
            options,
            opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
            ir_version=model.ir_version,
            weights_sha256="",
            samples_sha256=None,
        )
        try:
            proven = prove(onnx_graph(model), contract, network, vehicle.action_transform)
        except StructureError as error:
            proven = Proven(0, (str(error),))
        found.append(Identified(contract, proven))
    return next((item for item in found if not item.proven.problems), found[0])


def _has_free_batch(model: onnx.ModelProto) -> bool:
    sizes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return bool(sizes) and all(size and not size[0].HasField("dim_value") for size in sizes)


def _layout(export: LeappExport, checkpoint: Checkpoint) -> InputLayout:
    layout = checkpoint.network.config.layout
    split = ((layout.state_size,), (1, *layout.image_shape))
    shapes = tuple(tensor.shape[1:] for tensor in export.inputs)
    if shapes == split:
        return InputLayout.SPLIT
    if shapes == ((layout.size,),):
        return InputLayout.FLAT
    raise BundleError(
        f"{export.path}: the inputs have shapes {shapes} after the batch; the checkpoint's network takes state and "
        f"image, {split}, or one observation of {layout.size} numbers"
    )


def _gates(export: LeappExport, checkpoint: Checkpoint) -> tuple[GateOutput | None, ...]:
    width = checkpoint.network.config.num_actions
    shapes = tuple(tensor.shape[1:] for tensor in export.outputs)
    if shapes == ((width,),):
        return (None,)
    if shapes == ((width,), (1,)) and checkpoint.network.aux_decoder is not None:
        return GateOutput.LOGIT, GateOutput.PROBABILITY
    raise BundleError(
        f"{export.path}: the outputs have shapes {shapes} after the batch; the checkpoint's network gives {width} "
        f"actions and, with a gate head, one number after them"
    )
