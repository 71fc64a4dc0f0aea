"""Export a checkpoint as a bundle: write, check by running, then publish in one move."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.graph_options import GraphOptions, input_specs, output_specs
from deploy_kit.bundle.implied import describe
from deploy_kit.bundle.leapp import leapp_text
from deploy_kit.bundle.reader import (
    CONTRACT_NAME,
    GOLDEN_NAME,
    HEADERS,
    LEAPP_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    SAFETENSORS_NAME,
    TORCHSCRIPT_NAME,
    GoldenSamples,
    manifest_text,
    open_bundle,
)
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.bundle.signature import read_signing_keys
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.bundle.variants import VARIANTS
from deploy_kit.cpp.header import header_text
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.errors import CheckFailedError, CheckpointError, OptionError
from deploy_kit.export import onnx_writer
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.options import ExportOptions
from deploy_kit.export.policy_exporter import export_policy
from deploy_kit.export.samples import choose_recorded, draw_synthetic, make_golden, write_golden
from deploy_kit.export.staging import NEW, publish, require_free, staging_folder
from deploy_kit.export.torchscript import write_torchscript
from deploy_kit.export.variants import make_variant
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import Checkpoint, save_safetensors
from deploy_kit.policy.policy_checkpoint import load_other_policy
from deploy_kit.policy.run.observation import RunObservation, resolve_observation
from deploy_kit.policy.run.vehicle import Vehicle
from deploy_kit.policy.vehicle_checkpoint import load_with_vehicle
from deploy_kit.progress import Progress, silent
from deploy_kit.task.interface import ACTION_NAMES
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, pair_bundle
from deploy_kit.verify.checks import run_checks
from deploy_kit.verify.dataset import Dataset
from deploy_kit.verify.options import ReplayOptions
from deploy_kit.verify.report import Status, judge

__all__ = ["ExportOptions", "export_bundle"]

_logger = logging.getLogger(__name__)


def export_bundle(options: ExportOptions, progress: Callable[[Progress], None] = silent) -> Path:
    """Export a checkpoint of any policy.

    The bundle is written into a temporary folder beside the target and moved into place once it has passed all checks
    of `verify` but the flights; held-out rows are replayed with `feature_file`. Whatever fails leaves nothing new and
    an old bundle as it was.

    Args:
        options: what and how.
        progress: called before each stage.

    Returns:
        The bundle's folder.

    Raises:
        OptionError: an option is wrong, the target exists, or a key cannot be read.
        CheckpointError: the checkpoint cannot be read, is no CTBR policy, or lacks the gate head.
        DatasetError: the feature file cannot be read, or is another policy's.
        CheckFailedError: an artifact does not give what the checkpoint's network gives.
        MissingDependencyError: onnxruntime is not installed.
    """

    def report(stage: str) -> None:
        progress(Progress(stage, 0))

    target = options.target
    options.check()
    require_free(target, options.overwrite)
    import_onnxruntime()
    keys = read_signing_keys(options.sign)
    report("reading the checkpoint")
    if (other := load_other_policy(options.checkpoint, options.hints)) is not None:
        if options.formats or options.variants:
            named = f"--format {options.formats[0]}" if options.formats else f"--variant {options.variants[0]}"
            raise OptionError(f"{named}: written for policies of VisionActorCritic alone so far")
        return export_policy(options, other, progress)
    options.check_vision_names()
    source = _read(options)
    with ExitStack() as stack:
        samples = None if options.feature_file is None else stack.enter_context(open_feature_file(options.feature_file))
        if samples is not None:
            samples.require_policy(source.checkpoint.network)
        staging = stack.enter_context(staging_folder(target))
        folder = staging / NEW
        folder.mkdir()
        _write(folder, options, source, samples, report)
        _check(folder, source, samples, options.seed, progress)
        report("publishing")
        publish(folder, target, staging, keys)
    return target


@dataclass(frozen=True)
class _Source:
    """What is exported: the checkpoint, the vehicle's numbers, what the policy observes, how the graph is to look."""

    checkpoint: Checkpoint
    vehicle: Vehicle
    meaning: RunObservation
    graph: GraphOptions


def _read(options: ExportOptions) -> _Source:
    checkpoint, vehicle = load_with_vehicle(options.checkpoint, options.hints, options.task, options.vehicle_file)
    num_actions = checkpoint.network.config.num_actions
    if num_actions != len(ACTION_NAMES):
        raise CheckpointError(
            f"{checkpoint.path}: the policy has {num_actions} actions; exported are CTBR policies with "
            f"{len(ACTION_NAMES)} ({', '.join(ACTION_NAMES)})"
        )
    if options.use_auxiliary_head and checkpoint.network.aux_decoder is not None and checkpoint.calibration is None:
        _logger.warning(
            "%s: its gate head has no detector, so the contract has none; choose one with deploy-kit judge, or train "
            "the head with deploy-kit finetune",
            checkpoint.path,
        )
    if vehicle.depth_range_m is None:
        _logger.warning(
            "%s: nothing tells the depth by which the image is divided, so the contract does not, and the onboard "
            "runner refuses the bundle; give depth_range_m in --vehicle FILE",
            checkpoint.path,
        )
    if options.physical_actions and vehicle.clip_actions is not None:
        raise OptionError(
            f"--physical-actions: this policy's actions are cut to ±{vehicle.clip_actions:g} "
            f"({vehicle.sources['clip_actions']}), which the graph does not do; leave the option out"
        )
    graph = GraphOptions(
        layout=InputLayout(options.input_layout),
        gate_output=GateOutput(options.gate_output) if options.use_auxiliary_head else None,
        transform=vehicle.action_transform if options.physical_actions else None,
        batch_size=options.fixed_batch,
        input_names=options.input_names,
        output_names=options.output_names,
    )
    meaning = resolve_observation(checkpoint.params, options.task, checkpoint.network.config.layout)
    return _Source(checkpoint, vehicle, meaning, graph)


def _write(
    folder: Path, options: ExportOptions, source: _Source, samples: FeatureFile | None, report: Callable[[str], None]
) -> None:
    """Write all files of a bundle."""
    checkpoint, graph = source.checkpoint, source.graph
    policy = DeployedPolicy(checkpoint.network, graph)
    report("writing TorchScript and weights")
    write_torchscript(policy, folder / TORCHSCRIPT_NAME)
    weights = folder / SAFETENSORS_NAME
    save_safetensors(weights, checkpoint.network, checkpoint.iteration, checkpoint.calibration)
    report("writing ONNX")
    inputs, outputs = input_specs(checkpoint.network, graph), output_specs(checkpoint.network, graph)
    model = onnx_writer.build_onnx(
        policy, tuple(spec.name for spec in inputs), tuple(spec.name for spec in outputs), options.opset
    )
    contract = describe(
        checkpoint,
        source.vehicle,
        source.meaning,
        graph,
        opset=options.opset,
        ir_version=model.ir_version,
        weights_sha256=file_sha256(weights),
        samples_sha256=None if samples is None else samples.sha256,
    )
    onnx_writer.embed_contract(model, contract)
    onnx.save_model(model, folder / ONNX_NAME)
    (folder / CONTRACT_NAME).write_text(contract.to_json() + "\n", encoding="utf-8")
    report("choosing golden samples")
    golden = _golden(options, source, contract, samples)
    write_golden(folder / GOLDEN_NAME, golden)
    for form in (form for form in HEADERS if form in options.formats):
        report(f"writing C++, {HEADERS[form]}")
        header = header_text(checkpoint.network, contract, golden, form)
        (folder / HEADERS[form]).write_text(header, encoding="utf-8", newline="\n")
    if "leapp" in options.formats:
        report("writing LEAPP's description")
        text = leapp_text(contract, (folder / ONNX_NAME).read_bytes())
        (folder / LEAPP_NAME).write_text(text, encoding="utf-8", newline="\n")
    for kind in dict.fromkeys(options.variants):
        report(f"writing the variant {kind}")
        onnx.save_model(make_variant(kind, model, contract, samples), folder / VARIANTS[kind])
    (folder / MANIFEST_NAME).write_text(manifest_text(folder), encoding="utf-8")


def _golden(options: ExportOptions, source: _Source, contract: Contract, samples: FeatureFile | None) -> GoldenSamples:
    checkpoint = source.checkpoint
    layout = checkpoint.network.config.layout
    if samples is None:
        observation, reason = draw_synthetic(
            contract.observation.terms, layout.image_shape, options.num_golden, options.seed
        )
    else:
        observation, reason = choose_recorded(samples, layout.size, options.num_golden)
    return make_golden(
        checkpoint.network,
        observation,
        reason,
        "synthetic" if samples is None else "recorded",
        source.vehicle.action_transform,
        gate=contract.gate is not None,
    )


def _check(
    folder: Path, source: _Source, samples: FeatureFile | None, seed: int, progress: Callable[[Progress], None]
) -> None:
    """Let verify judge the finished bundle against the checkpoint and the vehicle that it was made from.

    Raises:
        CheckFailedError: a check failed; the message names it and the place.
    """
    named = NamedVehicle(source.vehicle, source.meaning)
    subject = pair_bundle(open_bundle(folder), source.checkpoint, named)
    dataset = None if samples is None else Dataset(samples)
    checks, _ = run_checks(subject, dataset, None, ReplayOptions(seed=seed), progress)
    for check in checks:
        verdict = judge(check, Thresholds())
        if verdict.status is Status.FAILED:
            raise CheckFailedError(f"{verdict.name}: {verdict.reasons[0]}; nothing was published")
        _logger.info("%s: %s", verdict.name, verdict.status)
