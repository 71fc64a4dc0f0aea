"""The parts of a contract: one dataclass each, plain data without torch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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
