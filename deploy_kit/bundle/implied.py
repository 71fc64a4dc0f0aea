"""What checkpoint, run and vehicle imply for a contract: export writes it down, verify rebuilds it and compares.

`describe` is the only place where a contract's fields come from.
"""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deploy_kit
from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.contract import SCHEMA_VERSION, Contract
from deploy_kit.bundle.contract_fields import (
    ActionSpec,
    DepthSpec,
    GateOutput,
    GateSpec,
    NetworkSpec,
    NormalizerSpec,
    ObservationSpec,
    Provenance,
    SourcedValue,
    TermSpec,
    TimingSpec,
    Versions,
)
from deploy_kit.bundle.graph_options import GraphOptions, input_specs, output_specs
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import BundleError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.network import NetworkConfig
from deploy_kit.policy.run.camera import CameraSpec
from deploy_kit.policy.run.vehicle import KEYS, REQUIRED, Vehicle
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from deploy_kit.task.racing import DEPTH_RANGE_M

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

NOT_CALIBRATED = "not calibrated: the checkpoint has no record of a trained gate head"


def describe(
    checkpoint: Checkpoint,
    vehicle: Vehicle,
    camera: CameraSpec | None,
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
        camera: the depth camera, if known.
        graph: how the graph looks from outside.
        opset: of the ONNX graph.
        ir_version: of the ONNX file.
        weights_sha256: of the safetensors file.
        samples_sha256: of the feature file, None without one.

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
        observation=_observation(config, graph, transform),
        action=ActionSpec(
            names=ACTION_NAMES,
            units=ACTION_UNITS,
            formula="tanh(action) * scale + offset",
            scale=transform.scale,
            offset=transform.offset,
            inside_graph=graph.transform is not None,
            frame="body: x forward, y left, z up; thrust over mass along z",
        ),
        gate=None if graph.gate_output is None else _gate(checkpoint, graph.gate_output),
        timing=_timing(vehicle),
        camera=camera,
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
        provenance=Provenance(
            checkpoint=checkpoint.path.name,
            checkpoint_sha256=checkpoint.sha256,
            checkpoint_format=str(checkpoint.format),
            iteration=checkpoint.iteration,
            weights_sha256=weights_sha256,
            feature_sha256=feature_sha256(network),
            head_sha256=None if network.aux_decoder is None else head_sha256(network),
            samples_sha256=samples_sha256,
        ),
        versions=Versions(
            deploy_kit=deploy_kit.__version__,
            python=platform.python_version(),
            torch=version("torch"),
            onnx=version("onnx"),
            onnxruntime=str(import_onnxruntime().__version__),
            numpy=version("numpy"),
            opset=opset,
            ir_version=ir_version,
            git_commit=git_commit(Path(deploy_kit.__file__).parent),
        ),
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
    return Vehicle(**values, sources={name: base_source(stated[name].source) for name in values})


def base_source(source: str) -> str:
    """Return where a number came from, without the remark on what it replaced."""
    return source.partition(" (")[0]


def _observation(config: NetworkConfig, graph: GraphOptions, transform: ActionTransform) -> ObservationSpec:
    layout = config.layout
    rows, columns = layout.image_shape
    eps = config.normalizer_eps
    return ObservationSpec(
        size=layout.size,
        state_size=layout.state_size,
        layout=graph.layout,
        terms=_terms(config, transform),
        depth=DepthSpec(
            start=layout.state_size,
            rows=rows,
            columns=columns,
            order="row-major, top row first, left column first",
            measure="distance to the image plane along the optical axis, m",
            clip_m=DEPTH_RANGE_M,
            divisor_m=DEPTH_RANGE_M,
            low=0.0,
            high=1.0,
            no_return=f"{DEPTH_RANGE_M} m, also for +inf: clip before dividing",
        ),
        normalizer=None if eps is None else NormalizerSpec("(x - mean) / (std + eps)", eps, inside_graph=True),
    )


def _terms(config: NetworkConfig, transform: ActionTransform) -> tuple[TermSpec, ...]:
    size = config.layout.state_size
    if not config.layout.terms:
        description = "not the racing task's state: its terms are unknown to the exporter, and so is its range"
        return (TermSpec("state", 0, size, "unknown", "unknown", (-1.0,) * size, (1.0,) * size, description),)
    terms = []
    for term in config.layout.terms:
        low, high = term.low, term.high
        if term.name == "last_action":
            low = tuple(offset - scale for scale, offset in zip(transform.scale, transform.offset, strict=True))
            high = tuple(offset + scale for scale, offset in zip(transform.scale, transform.offset, strict=True))
        terms.append(TermSpec(term.name, term.start, term.stop, term.unit, term.frame, low, high, term.description))
    return tuple(terms)


def _gate(checkpoint: Checkpoint, output: GateOutput) -> GateSpec:
    calibration = checkpoint.calibration
    if calibration is None:
        return GateSpec(output, None, None, NOT_CALIBRATED, None, None, None, None, {}, {}, None)
    logit = float(calibration.threshold_logit)
    return GateSpec(
        output=output,
        threshold_logit=logit,
        threshold_probability=float(sigmoid(logit)),
        rule=calibration.rule,
        label_rule=calibration.label_rule,
        label_offset_steps=calibration.label_offset_steps,
        base_rate=float(calibration.base_rate),
        dataset_sha256=calibration.dataset_sha256,
        metrics={name: float(value) for name, value in calibration.metrics.items()},
        training=dict(calibration.training),
        tool_version=calibration.tool_version,
    )


def _timing(vehicle: Vehicle) -> TimingSpec:
    steps = vehicle.action_latency_steps
    return TimingSpec(
        policy_period_s=_sourced(vehicle, "policy_period_s", "s"),
        depth_period_s=_sourced(vehicle, "depth_period_s", "s"),
        action_latency_steps=_sourced(vehicle, "action_latency_steps", "policy steps"),
        last_action=(
            f"at step k: the command computed at step k - {steps + 1}, which acted during step k - 1; "
            "the command of a zero action before that"
        ),
    )


def _sourced(vehicle: Vehicle, name: str, unit: str) -> SourcedValue:
    source = vehicle.sources[name]
    if name in vehicle.overridden:
        source = f"{source} ({vehicle.overridden[name]})"
    value = getattr(vehicle, name)
    return SourcedValue(tuple(map(float, value)) if isinstance(value, tuple) else float(value), unit, source)


def git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout that tracks this package, with "-dirty" if files differ; None outside one."""
    try:
        # An installed package may lie inside a checkout of something else: the file must be tracked.
        subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "errors.py"], check=True, capture_output=True
        )
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip() or None
