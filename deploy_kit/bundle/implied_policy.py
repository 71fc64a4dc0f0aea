"""What a checkpoint of any policy and its run imply for its contract: export writes it, verify rebuilds it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deploy_kit.bundle.contract_fields import NormalizerSpec
from deploy_kit.bundle.contract_text import POLICY_KIND
from deploy_kit.bundle.implied import DETECTOR_RULE
from deploy_kit.bundle.origin import provenance_of, versions_here
from deploy_kit.bundle.policy_contract import (
    POLICY_SCHEMA_VERSION,
    RESET,
    GroupSpec,
    HeadSpec,
    PolicyContract,
    PolicyNetworkSpec,
    StateSpec,
)
from deploy_kit.bundle.policy_tensors import STATE, policy_inputs, policy_outputs
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.files import file_sha256
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, record_of
from deploy_kit.policy.run.resolve_task import resolve_task_meaning

NOT_CALIBRATED = "not calibrated: the checkpoint has no record of a trained head"

_RUN_FILES = ("agent.yaml", "env.yaml", "interface.yaml")


@dataclass(frozen=True)
class PolicyGraph:
    """How the exported graph looks from outside.

    Attributes:
        head: whether it gives the head's logit.
        batch_size: fixed batch size, None for a dynamic one.
        input_names: names of the inputs, None for those of groups and state.
        output_names: names of the outputs, None for rsl_rl's.
    """

    head: bool
    batch_size: int | None = None
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None


def policy_graph_of(contract: PolicyContract) -> PolicyGraph:
    """Return the options that a bundle's graph was exported with, as far as the exporter was free to choose them."""
    return PolicyGraph(
        head=contract.head is not None,
        batch_size=contract.batch,
        input_names=tuple(spec.name for spec in contract.inputs),
        output_names=tuple(spec.name for spec in contract.outputs),
    )


def describe_policy(
    checkpoint: PolicyCheckpoint,
    graph: PolicyGraph,
    *,
    opset: int,
    ir_version: int,
    weights_sha256: str,
    samples_sha256: str | None,
) -> PolicyContract:
    """Return the contract of an export.

    Args:
        checkpoint: what is exported.
        graph: how the graph looks from outside.
        opset: version of the ONNX graph.
        ir_version: version of the ONNX file.
        weights_sha256: hash of the safetensors file.
        samples_sha256: hash of the feature file, None without one.

    Raises:
        OptionError: names do not fit.
    """
    network = checkpoint.network
    spec = network.spec
    inputs = policy_inputs(spec, graph.batch_size, graph.input_names)
    outputs = policy_outputs(spec, graph.batch_size, head=graph.head, names=graph.output_names)
    of_state = [tuple(item.name for item in items if item.role == STATE) for items in (inputs, outputs)]
    return PolicyContract(
        kind=POLICY_KIND,
        schema_version=POLICY_SCHEMA_VERSION,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=inputs,
        outputs=outputs,
        groups=tuple(
            GroupSpec(group.name, group.shape, spec.normalizer_eps is not None and len(group.shape) == 1)
            for group in spec.groups
        ),
        state=tuple(
            StateSpec(given, after, item.layers, item.hidden, RESET)
            for given, after, item in zip(*of_state, spec.state, strict=True)
        ),
        normalizer=None
        if spec.normalizer_eps is None
        else NormalizerSpec("(x - mean) / (std + eps)", spec.normalizer_eps, inside_graph=True),
        head=_head(checkpoint) if graph.head else None,
        network=PolicyNetworkSpec(
            kind=spec.kind,
            settings=record_of(spec)["settings"],
            num_actions=spec.num_actions,
            feature_size=spec.feature_size,
            feature_layer=spec.feature_layer,
            features_tensor=FEATURES_TENSOR,
            operators=network.plan().operators,
        ),
        task=resolve_task_meaning(checkpoint.params, spec.groups, spec.num_actions),
        run=_run_hashes(checkpoint),
        provenance=provenance_of(checkpoint, weights_sha256, samples_sha256),
        versions=versions_here(opset, ir_version),
    )


def _run_hashes(checkpoint: PolicyCheckpoint) -> dict[str, str]:
    folder = checkpoint.params.directory
    files = [] if folder is None else [folder / name for name in _RUN_FILES]
    return {path.name: file_sha256(path) for path in files if path.is_file()}


def _head(checkpoint: PolicyCheckpoint) -> HeadSpec:
    calibration = checkpoint.calibration
    if calibration is None:
        nothing: dict[str, Any] = dict.fromkeys(
            ("threshold_logit", "detector", "detector_rule", "label_rule", "label_offset_steps", "policy_period_s")
        )
        return HeadSpec(
            **nothing,
            rule=NOT_CALIBRATED,
            base_rate=None,
            dataset_sha256=None,
            metrics={},
            training={},
            tool_version=None,
        )
    period = calibration.policy_period_s
    return HeadSpec(
        threshold_logit=float(calibration.threshold_logit),
        detector=calibration.detector,
        detector_rule=DETECTOR_RULE,
        rule=calibration.rule,
        label_rule=calibration.label_rule,
        label_offset_steps=calibration.label_offset_steps,
        policy_period_s=None if period is None else float(period),
        base_rate=float(calibration.base_rate),
        dataset_sha256=calibration.dataset_sha256,
        metrics={name: float(value) for name, value in calibration.metrics.items()},
        training=dict(calibration.training),
        tool_version=calibration.tool_version,
    )
