"""What checkpoint, run and vehicle imply for a contract: export writes it down, verify rebuilds it and compares.

`describe` is the only place where a contract's fields come from.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.contract import SCHEMA_VERSION, Contract
from deploy_kit.bundle.contract_fields import (
    ActionSpec,
    DepthSpec,
    DetectorSpec,
    GateOutput,
    GateSpec,
    NetworkSpec,
    NormalizerSpec,
    ObservationSpec,
    SourcedValue,
    TimingSpec,
)
from deploy_kit.bundle.graph_options import GraphOptions, input_specs, output_specs
from deploy_kit.bundle.origin import provenance_of, versions_here
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import BundleError
from deploy_kit.policy.checkpoint import Checkpoint, GateDetector
from deploy_kit.policy.network import NetworkConfig
from deploy_kit.policy.run.observation import DepthMeasure, RunObservation
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.policy.run.vehicle import KEYS, REQUIRED, Vehicle
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform

EXEMPT: dict[str, str] = {
    "created_utc": "time of the export",
    "versions": "software that wrote the bundle; opset and IR version are held against the graph instead",
    "provenance.checkpoint": "name of the file; a copy may have another one",
    "provenance.checkpoint_sha256": "has a check of its own, by which another file with the same tensors passes",
    "provenance.checkpoint_format": "another file with the same tensors may have another format",
    "provenance.samples_sha256": "feature file of the golden samples; their outputs are computed anew",
}
"""Fields of a contract that checkpoint, run and vehicle do not imply, and why."""

OPTIONAL: dict[str, str] = {
    "camera": "known only where export was told the run or the task",
    "vehicle.mass_kg": "commands do not depend on it",
}
"""Fields that a contract may leave out, and why; where it has them, they are compared."""

FROM_VEHICLE = ("action", "timing", "vehicle")
"""Fields that depend on the vehicle's numbers."""

FORMULA = "tanh(action) * scale + offset"
CLIPPED_FORMULA = "tanh(clamp(action, -clip, clip)) * scale + offset"

LAST_ACTION = "last_action"
"""Quantity of the term that holds the command now acting."""

_SCALING = ("max_thrust_to_weight", "max_body_rate", "gravity")
"""Numbers of the vehicle that scale and offset are computed from."""

DETECTOR_RULE = (
    "at each step, with the score logit + slope_gain * (logit - logit slope_steps ago - slope_rise): a score below "
    "release_logit arms it (armed at the start of an episode); armed, it fires where the score is at or above "
    "threshold_logit, unless it fired within the last refractory_steps steps; firing disarms it"
)

NOT_CALIBRATED = "not calibrated: the checkpoint has no record of a trained gate head"


def describe(
    checkpoint: Checkpoint,
    vehicle: Vehicle,
    meaning: RunObservation,
    graph: GraphOptions,
    *,
    opset: int,
    ir_version: int,
    weights_sha256: str,
    samples_sha256: str | None,
) -> Contract:
    """Return the contract of an export.

    Args:
        checkpoint: what is exported.
        vehicle: the vehicle's numbers.
        meaning: what the observation holds, and the camera, as far as they are known.
        graph: how the graph looks from outside.
        opset: version of the ONNX graph.
        ir_version: version of the ONNX file.
        weights_sha256: hash of the safetensors file.
        samples_sha256: hash of the feature file, None without one.

    Raises:
        OptionError: names do not fit.
    """
    network = checkpoint.network
    config = network.config
    transform = vehicle.action_transform
    return Contract(
        schema_version=SCHEMA_VERSION,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=input_specs(network, graph),
        outputs=output_specs(network, graph),
        observation=_observation(config, graph, vehicle, meaning),
        action=ActionSpec(
            names=ACTION_NAMES,
            units=ACTION_UNITS,
            formula=FORMULA if transform.clip is None else CLIPPED_FORMULA,
            scale=transform.scale,
            offset=transform.offset,
            inside_graph=graph.transform is not None,
            frame="body: x forward, y left, z up; thrust over mass along z",
            clip=transform.clip,
            clip_source=vehicle.sources.get("clip_actions"),
            source=" + ".join(dict.fromkeys(vehicle.sources[name] for name in _SCALING)),
        ),
        gate=None if graph.gate_output is None else _gate(checkpoint, graph.gate_output, vehicle.policy_period_s),
        timing=_timing(vehicle, meaning),
        camera=meaning.camera,
        vehicle={
            "max_thrust_to_weight": _sourced(vehicle, "max_thrust_to_weight", "1"),
            "max_body_rate": _sourced(vehicle, "max_body_rate", "rad/s"),
            "gravity": _sourced(vehicle, "gravity", "m/s²"),
            **({} if vehicle.mass_kg is None else {"mass_kg": _sourced(vehicle, "mass_kg", "kg")}),
        },
        network=NetworkSpec(
            kind=type(network).__name__,
            stem=tuple((block.channels, block.kernel, block.stride) for block in config.stem),
            feature_size=config.feature_size,
            features_tensor=FEATURES_TENSOR,
            actor_hidden=config.actor_hidden,
            num_actions=config.num_actions,
            activation=config.activation,
        ),
        provenance=provenance_of(checkpoint, weights_sha256, samples_sha256),
        versions=versions_here(opset, ir_version),
    )


def claimed_vehicle(contract: Contract) -> Vehicle:
    """Return the vehicle that a contract claims, to check the rest of it where the vehicle itself cannot be.

    Raises:
        BundleError: the contract lacks a number, or it has another shape.
    """
    timing = contract.timing
    stated = {
        **contract.vehicle,
        "policy_period_s": timing.policy_period_s,
        "depth_period_s": timing.depth_period_s,
        "action_latency_steps": timing.action_latency_steps,
    }
    values: dict[str, Any] = {name: stated[name].value for name in KEYS if name in stated}
    vectors = [name for name, value in values.items() if isinstance(value, tuple) != (name == "max_body_rate")]
    if missing := [name for name in REQUIRED if name not in values] + vectors:
        raise BundleError(f"vehicle: the contract has no usable {missing[0]}; export the bundle again")
    values["action_latency_steps"] = int(values["action_latency_steps"])
    sources = {name: base_source(stated[name].source) for name in values}
    depth, action = contract.observation.depth, contract.action
    if depth.clip_m is not None:
        values["depth_range_m"], sources["depth_range_m"] = depth.clip_m, depth.range_source or ""
    if action.clip_source is not None:
        values["clip_actions"], sources["clip_actions"] = action.clip, action.clip_source
    return Vehicle(**values, sources=sources)


def base_source(source: str) -> str:
    """Return where a number came from, without the remark on what it replaced."""
    return source.partition(" (")[0]


def claimed_meaning(contract: Contract) -> RunObservation:
    """Return what a contract claims of the observation, to check the rest of it where nothing else tells."""
    observation = contract.observation
    depth = DepthMeasure(observation.depth.measure, observation.depth.measure_source)
    return RunObservation(observation.terms, depth, contract.camera)


def _observation(
    config: NetworkConfig, graph: GraphOptions, vehicle: Vehicle, meaning: RunObservation
) -> ObservationSpec:
    layout = config.layout
    rows, columns = layout.image_shape
    eps, depth_range = config.normalizer_eps, vehicle.depth_range_m
    return ObservationSpec(
        size=layout.size,
        state_size=layout.state_size,
        layout=graph.layout,
        terms=tuple(_with_range(term, vehicle.action_transform) for term in meaning.terms),
        depth=DepthSpec(
            start=layout.state_size,
            rows=rows,
            columns=columns,
            order="row-major, top row first, left column first",
            measure=meaning.depth.measure,
            measure_source=meaning.depth.source,
            clip_m=depth_range,
            divisor_m=depth_range,
            range_source=None if depth_range is None else _source(vehicle, "depth_range_m"),
            low=None if depth_range is None else 0.0,
            high=None if depth_range is None else 1.0,
            no_return=None if depth_range is None else f"{depth_range} m, also for +inf: clip before dividing",
        ),
        normalizer=None if eps is None else NormalizerSpec("(x - mean) / (std + eps)", eps, inside_graph=True),
    )


def _with_range(term: StateTerm, transform: ActionTransform) -> StateTerm:
    """Return the term, the acting command's with the range of the vehicle's commands."""
    if term.quantity != LAST_ACTION:
        return term
    pairs = list(zip(transform.scale, transform.offset, strict=True))
    share = 1.0 if transform.clip is None else math.tanh(transform.clip)
    return replace(
        term,
        low=tuple(offset - share * scale for scale, offset in pairs),
        high=tuple(offset + share * scale for scale, offset in pairs),
    )


def _gate(checkpoint: Checkpoint, output: GateOutput, period: float) -> GateSpec:
    calibration = checkpoint.calibration
    if calibration is None:
        return GateSpec(output, None, None, None, NOT_CALIBRATED, *(None,) * 7, {}, {}, None)
    logit = float(calibration.threshold_logit)
    return GateSpec(
        output=output,
        threshold_logit=logit,
        threshold_probability=float(sigmoid(logit)),
        detector=_detector(calibration.detector, period),
        rule=calibration.rule,
        label_rule=calibration.label_rule,
        label_distance_m=_float(calibration.label_distance_m),
        label_offset_steps=calibration.label_offset_steps,
        policy_period_s=_float(calibration.policy_period_s),
        clip_actions=_float(calibration.clip_actions),
        base_rate=float(calibration.base_rate),
        dataset_sha256=calibration.dataset_sha256,
        metrics={name: float(value) for name, value in calibration.metrics.items()},
        training=dict(calibration.training),
        tool_version=calibration.tool_version,
    )


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _detector(detector: GateDetector, period: float) -> DetectorSpec:
    return DetectorSpec(
        rule=DETECTOR_RULE,
        threshold_logit=float(detector.threshold_logit),
        threshold_probability=float(sigmoid(float(detector.threshold_logit))),
        release_logit=float(detector.release_logit),
        release_probability=float(sigmoid(float(detector.release_logit))),
        refractory_steps=detector.refractory_steps,
        refractory_s=detector.refractory_steps * period,
        tolerance_steps=detector.tolerance_steps,
        tolerance_s=detector.tolerance_steps * period,
        slope_gain=float(detector.slope_gain),
        slope_steps=detector.slope_steps,
        slope_s=detector.slope_steps * period,
        slope_rise=float(detector.slope_rise),
    )


def _timing(vehicle: Vehicle, meaning: RunObservation) -> TimingSpec:
    steps = vehicle.action_latency_steps
    known = any(term.quantity == LAST_ACTION for term in meaning.terms)
    return TimingSpec(
        policy_period_s=_sourced(vehicle, "policy_period_s", "s"),
        depth_period_s=_sourced(vehicle, "depth_period_s", "s"),
        action_latency_steps=_sourced(vehicle, "action_latency_steps", "policy steps"),
        last_action=(
            f"at step k: the command computed at step k - {steps + 1}, which acted during step k - 1; "
            "the command of a zero action before that"
        )
        if known
        else None,
    )


def _sourced(vehicle: Vehicle, name: str, unit: str) -> SourcedValue:
    value = getattr(vehicle, name)
    number = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    return SourcedValue(number, unit, _source(vehicle, name))


def _source(vehicle: Vehicle, name: str) -> str:
    source = vehicle.sources[name]
    return f"{source} ({vehicle.overridden[name]})" if name in vehicle.overridden else source
