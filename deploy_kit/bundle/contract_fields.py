"""The parts of a contract: one dataclass each, plain data without torch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deploy_kit.policy.run.state_term import StateTerm


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
class DepthSpec:
    """How metres become the network's depth image.

    Attributes:
        start: index of the first pixel in the flat observation.
        rows: image rows, top row first.
        columns: image columns, left column first.
        order: memory order.
        measure: what a pixel measures; null where unknown.
        measure_source: where that comes from.
        clip_m: depth at which metres are clipped, before the division; null where unknown.
        divisor_m: what clipped metres are divided by; null where unknown.
        range_source: where clip and divisor come from.
        low: smallest value of a pixel after the division; null where unknown.
        high: largest value of a pixel after the division; null where unknown.
        no_return: what a ray without a return becomes; null where unknown.
    """

    start: int
    rows: int
    columns: int
    order: str
    measure: str | None
    measure_source: str | None
    clip_m: float | None
    divisor_m: float | None
    range_source: str | None
    low: float | None
    high: float | None
    no_return: str | None


@dataclass(frozen=True)
class NormalizerSpec:
    """Observation normaliser, which is inside every artifact: callers must not apply it again.

    Attributes:
        formula: what it does to the flat observation.
        eps: the formula's epsilon.
        inside_graph: always true.
    """

    formula: str
    eps: float
    inside_graph: bool


@dataclass(frozen=True)
class ObservationSpec:
    """Everything about the input: flat size, state terms in order, depth image, normaliser.

    Attributes:
        size: numbers of the flat observation: state, then image.
        state_size: numbers of the state.
        layout: whether the graph takes state and depth apart ("split") or the flat observation ("flat").
        terms: slices of the state, in order, without gaps.
        depth: the image.
        normalizer: null where the policy has none.
    """

    size: int
    state_size: int
    layout: InputLayout
    terms: tuple[StateTerm, ...]
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
        clip: largest size of an unbounded action, to which larger ones are cut first; null for no limit, and where it
            is unknown.
        clip_source: where that comes from; null where it is unknown.
        source: where scale and offset come from.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    formula: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    inside_graph: bool
    frame: str
    clip: float | None
    clip_source: str | None
    source: str


@dataclass(frozen=True)
class DetectorSpec:
    """Announces each passage once. The event figures were measured with it, and the onboard runner runs it.

    Attributes:
        rule: what it does at each step, in words.
        threshold_logit: score at and above which it fires, armed.
        threshold_probability: the same as a probability.
        release_logit: score below which it is armed again.
        release_probability: the same as a probability.
        refractory_steps: steps after a firing in which it does not fire.
        refractory_s: the same in seconds of the policy's period.
        tolerance_steps: how many steps from a passage a firing counted as its hit, in the event figures.
        tolerance_s: the same in seconds of the policy's period.
        slope_gain: score = logit + slope_gain * (logit - logit slope_steps ago - slope_rise); 0 for the logit alone.
        slope_steps: steps that the rise is taken over; in the first steps of an episode since its first one.
        slope_s: the same in seconds of the policy's period.
        slope_rise: rise at which the score is the logit.
    """

    rule: str
    threshold_logit: float
    threshold_probability: float
    release_logit: float
    release_probability: float
    refractory_steps: int
    refractory_s: float
    tolerance_steps: int
    tolerance_s: float
    slope_gain: float
    slope_steps: int
    slope_s: float
    slope_rise: float


@dataclass(frozen=True)
class GateSpec:
    """The gate head: what it says and where to cut. Without a calibration, all but output and rule is unknown.

    Attributes:
        output: whether the graph gives a logit or a probability.
        threshold_logit: a step is called a gate pass where the logit is at or above it.
        threshold_probability: the same threshold as a probability.
        detector: announces passages.
        rule: how threshold and detector were chosen.
        label_rule: what a positive label means.
        label_distance_m: distance that the label's rule speaks of, m.
        label_offset_steps: by how many steps the label follows the observation.
        policy_period_s: duration of a step in the feature file, s.
        clip_actions: limit of the actions' size with which the feature file was flown; null for none too.
        base_rate: share of positive steps where the threshold was chosen.
        dataset_sha256: the feature file that the head was calibrated on.
        metrics: figures of the calibration on test episodes.
        training: options of the finetuning; empty for a head that was judged alone.
        tool_version: version of deploy-kit that calibrated the head.
    """

    output: GateOutput
    threshold_logit: float | None
    threshold_probability: float | None
    detector: DetectorSpec | None
    rule: str
    label_rule: str | None
    label_distance_m: float | None
    label_offset_steps: int | None
    policy_period_s: float | None
    clip_actions: float | None
    base_rate: float | None
    dataset_sha256: str | None
    metrics: dict[str, float]
    training: dict[str, Any]
    tool_version: str | None


@dataclass(frozen=True)
class SourcedValue:
    """A number (or one per axis) with its unit and where it came from.

    Attributes:
        value: the number; three of them for x, y, z.
        unit: its unit, "1" where it has none.
        source: "task", "assumed", "params/env.yaml", "params/agent.yaml" or "file:NAME", with what a file replaced.
    """

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
        last_action: what the state's term of the quantity `last_action` holds; null where no term is known to be it.
    """

    policy_period_s: SourcedValue
    depth_period_s: SourcedValue
    action_latency_steps: SourcedValue
    last_action: str | None

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
    """The exported network's shape.

    Attributes:
        kind: class of the network.
        stem: convolutions over the depth image: channels, kernel, stride.
        feature_size: numbers of the fused features.
        features_tensor: their name inside the graph.
        actor_hidden: widths of the actor's hidden layers.
        num_actions: numbers of the action.
        activation: name of the activation.
    """

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
    """Software that wrote the bundle.

    Attributes:
        deploy_kit: version.
        python: version.
        torch: version.
        onnx: version.
        onnxruntime: version.
        numpy: version.
        opset: operator set of the graph.
        ir_version: version of the ONNX file format.
        git_commit: of deploy-kit, with "-dirty" if files differed; null outside a checkout.
    """

    deploy_kit: str
    python: str
    torch: str
    onnx: str
    onnxruntime: str
    numpy: str
    opset: int
    ir_version: int
    git_commit: str | None
