"""What whoever flies the bundle must know: inputs, outputs, units, frames, transforms, rates, threshold, provenance.

Plain data without torch. Written as `contract.json` and into the ONNX's `metadata_props`, with full float precision.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deploy_kit.bundle.codec import DecodeError, decode, encode
from deploy_kit.errors import BundleError
from deploy_kit.policy.run.camera import CameraSpec

SCHEMA_VERSION = 1
"""Version of the contract's JSON; raised whenever a field changes its meaning, appears or goes."""

CONTRACT_METADATA_KEY = "deploy_kit_contract"
"""Key of the contract's JSON text in the ONNX's `metadata_props`."""

FEATURES_TENSOR = "features"
"""Name of the fused features inside the ONNX graph."""


class InputLayout(StrEnum):
    """How the graph takes an observation."""

    SPLIT = "split"
    FLAT = "flat"


class GateOutput(StrEnum):
    """What the graph's second output holds."""

    LOGIT = "logit"
    PROBABILITY = "probability"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph.

    Attributes:
        name: tensor name in the ONNX graph.
        role: "state", "depth", "observation", "action" (unbounded), "command" (physical), "gate_logit" or
            "gate_probability".
        shape: sizes; the batch dimension is "batch" where it is dynamic.
        dtype: element type.
        description: one line for a human, with order and unit.
    """

    name: str
    role: str
    shape: tuple[int | str, ...]
    dtype: str
    description: str


@dataclass(frozen=True)
class TermSpec:
    """One slice [start, stop) of the state, with unit, frame and the range to be expected in flight, per component."""

    name: str
    start: int
    stop: int
    unit: str
    frame: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    description: str


@dataclass(frozen=True)
class DepthSpec:
    """How metres become the network's depth image.

    Attributes:
        start: index of the first pixel in the flat observation.
        rows: image rows, top row first.
        columns: image columns, left column first.
        order: memory order.
        measure: what a pixel measures.
        clip_m: depth at which metres are clipped, before the division.
        divisor_m: what clipped metres are divided by.
        low: smallest value of a pixel after normalisation.
        high: largest value of a pixel after normalisation.
        no_return: what a ray without a return becomes.
    """

    start: int
    rows: int
    columns: int
    order: str
    measure: str
    clip_m: float
    divisor_m: float
    low: float
    high: float
    no_return: str


@dataclass(frozen=True)
class NormalizerSpec:
    """Observation normaliser, which is inside every artifact: callers must not apply it again."""

    formula: str
    eps: float
    inside_graph: bool


@dataclass(frozen=True)
class ObservationSpec:
    """Everything about the input: flat size, state terms in order, depth image, normaliser."""

    size: int
    state_size: int
    layout: InputLayout
    terms: tuple[TermSpec, ...]
    depth: DepthSpec
    normalizer: NormalizerSpec | None


@dataclass(frozen=True)
class ActionSpec:
    """From the network's unbounded action to the physical command.

    Attributes:
        names: order of the actions.
        units: unit of each command.
        formula: the transform.
        scale: per action, in its unit.
        offset: per action, in its unit.
        inside_graph: whether the graph's output is the command already.
        frame: frame of thrust direction and rates.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    formula: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    inside_graph: bool
    frame: str


@dataclass(frozen=True)
class GateSpec:
    """The gate head: what it says and where to cut.

    Attributes:
        output: whether the graph gives a logit or a probability.
        threshold_logit: a step is called a gate pass where the logit is at or above it; None if the head was not
            calibrated.
        threshold_probability: the same threshold as a probability.
        rule: how the threshold was chosen.
        label_rule: what a positive label means.
        label_offset_steps: by how many steps the label follows the observation.
        base_rate: share of positive steps where the threshold was chosen.
        dataset_sha256: the feature file that the head was trained on.
        metrics: figures of the calibration, as finetune stored them.
        training: options of the finetuning, as finetune stored them.
        tool_version: version of deploy-kit that calibrated the head.
    """

    output: GateOutput
    threshold_logit: float | None
    threshold_probability: float | None
    rule: str
    label_rule: str | None
    label_offset_steps: int | None
    base_rate: float | None
    dataset_sha256: str | None
    metrics: dict[str, float]
    training: dict[str, Any]
    tool_version: str | None


@dataclass(frozen=True)
class SourcedValue:
    """A number (or one per axis) with its unit and where it came from."""

    value: float | tuple[float, ...]
    unit: str
    source: str


@dataclass(frozen=True)
class TimingSpec:
    """Clock of policy and camera.

    Attributes:
        policy_period_s: time between two inferences, s.
        depth_period_s: shortest time between two camera frames, s; a policy step without a new one sees the one before.
        action_latency_steps: policy steps between computing an action and its acting, besides the step itself.
        last_action: what the observation's term `last_action` holds.
    """

    policy_period_s: SourcedValue
    depth_period_s: SourcedValue
    action_latency_steps: SourcedValue
    last_action: str

    def is_valid(self) -> bool:
        """Return whether periods are positive numbers and the latency is a whole number of steps."""
        policy, depth, latency = (
            item.value for item in (self.policy_period_s, self.depth_period_s, self.action_latency_steps)
        )
        if isinstance(policy, tuple) or isinstance(depth, tuple) or isinstance(latency, tuple):
            return False
        return policy > 0 and depth > 0 and latency >= 0 and float(latency).is_integer()


@dataclass(frozen=True)
class NetworkSpec:
    """The exported network's shape; `stem` lists (channels, kernel, stride)."""

    kind: str
    stem: tuple[tuple[int, int, int], ...]
    feature_size: int
    features_tensor: str
    actor_hidden: tuple[int, ...]
    num_actions: int
    activation: str


@dataclass(frozen=True)
class Provenance:
    """Where the weights came from.

    Attributes:
        checkpoint: file name of the checkpoint.
        checkpoint_sha256: of the whole file.
        checkpoint_format: how the checkpoint was stored.
        iteration: training iteration that the checkpoint names.
        weights_sha256: of the bundle's safetensors file.
        feature_sha256: of all that the features depend on.
        head_sha256: of the gate head; None without one in the checkpoint.
        samples_sha256: of the feature file that golden samples and replay came from; None for synthetic samples.
    """

    checkpoint: str
    checkpoint_sha256: str
    checkpoint_format: str
    iteration: int | None
    weights_sha256: str
    feature_sha256: str
    head_sha256: str | None
    samples_sha256: str | None


@dataclass(frozen=True)
class Versions:
    """Software that wrote the bundle; `git_commit` is None outside a checkout of deploy-kit."""

    deploy_kit: str
    python: str
    torch: str
    onnx: str
    onnxruntime: str
    numpy: str
    opset: int
    ir_version: int
    git_commit: str | None


@dataclass(frozen=True)
class Contract:
    """Everything that the weights alone cannot say. See the attribute classes."""

    schema_version: int
    created_utc: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    observation: ObservationSpec
    action: ActionSpec
    gate: GateSpec | None
    timing: TimingSpec
    camera: CameraSpec | None
    vehicle: dict[str, SourcedValue]
    network: NetworkSpec
    provenance: Provenance
    versions: Versions

    def to_json(self, indent: int | None = 2) -> str:
        """Return the contract as JSON text; the same contract always gives the same text."""
        return json.dumps(encode(self), indent=indent, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "contract.json") -> "Contract":
        """Read a contract.

        Args:
            text: JSON text.
            where: what to call the text in messages.

        Raises:
            BundleError: not JSON, another schema version, or a field is unknown, missing, mistyped or inconsistent.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where}: not valid JSON ({error}); export the bundle again") from error
        found = data.get("schema_version") if isinstance(data, dict) else None
        if found != SCHEMA_VERSION:
            raise BundleError(
                f"{where}: contract schema version {found!r}, this deploy-kit reads version {SCHEMA_VERSION}; "
                "export the checkpoint again with this version, or install the one that wrote the bundle"
            )
        try:
            contract = decode(cls, data, "contract")
        except DecodeError as error:
            raise BundleError(f"{where}: {error}; export the bundle again") from error
        contract._validate(where)
        return contract

    def input(self, role: str) -> TensorSpec:
        """Return the input of that role, KeyError if the layout has none."""
        return _by_role(self.inputs, role)

    def output(self, *roles: str) -> TensorSpec | None:
        """Return the first output with one of the roles, None if there is none."""
        return next((spec for spec in self.outputs if spec.role in roles), None)

    def _validate(self, where: str) -> None:
        observation, action = self.observation, self.action
        depth = observation.depth
        expected_roles = ("observation",) if observation.layout is InputLayout.FLAT else ("state", "depth")
        action_role = "command" if action.inside_graph else "action"
        output_roles = [action_role] + ([] if self.gate is None else [f"gate_{self.gate.output}"])
        stops = [0, *(term.stop for term in observation.terms)]
        checks = {
            "inputs do not fit observation.layout": tuple(spec.role for spec in self.inputs) == expected_roles,
            "outputs do not fit action and gate": [spec.role for spec in self.outputs] == output_roles,
            "tensor names are not unique": len({spec.name for spec in (*self.inputs, *self.outputs)})
            == len(self.inputs) + len(self.outputs),
            "observation.size is not state plus image": observation.size
            == observation.state_size + depth.rows * depth.columns
            and depth.start == observation.state_size,
            "observation.terms do not tile the state": [term.start for term in observation.terms] == stops[:-1]
            and stops[-1] == observation.state_size,
            "observation.terms: low and high do not fit the term": all(
                len(term.low) == len(term.high) == term.stop - term.start
                and all(low <= high for low, high in zip(term.low, term.high, strict=True))
                for term in observation.terms
            ),
            "timing: periods must be positive and the latency whole": self.timing.is_valid(),
            "action: names, units, scale and offset differ in length": len(action.names)
            == len(action.units)
            == len(action.scale)
            == len(action.offset)
            == self.network.num_actions,
            "observation.depth: clip_m and divisor_m must be positive": depth.clip_m > 0 and depth.divisor_m > 0,
        }
        for message, passed in checks.items():
            if not passed:
                raise BundleError(f"{where}: {message}; export the bundle again")


def _by_role(specs: tuple[TensorSpec, ...], role: str) -> TensorSpec:
    for spec in specs:
        if spec.role == role:
            return spec
    raise KeyError(role)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
