"""Export any policy that is no `VisionActorCritic` as a bundle: write, check by running, then publish in one move."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import torch

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.implied_policy import PolicyGraph, describe_policy
from deploy_kit.bundle.policy_reader import GoldenSequences, open_policy_bundle
from deploy_kit.bundle.policy_tensors import policy_inputs, policy_outputs
from deploy_kit.bundle.reader import (
    CONTRACT_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    SAFETENSORS_NAME,
    TORCHSCRIPT_NAME,
    manifest_text,
)
from deploy_kit.bundle.signature import read_signing_keys
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.errors import CheckFailedError, CheckpointError, OptionError
from deploy_kit.export.onnx_writer import embed_contract
from deploy_kit.export.options import ExportOptions
from deploy_kit.export.plan_module import PlanModule
from deploy_kit.export.plan_onnx import plan_model
from deploy_kit.export.sequences import draw_sequences, run_sequences
from deploy_kit.export.staging import NEW, publish, staging_folder
from deploy_kit.export.torchscript import save_traced
from deploy_kit.files import file_sha256
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, save_policy_safetensors
from deploy_kit.progress import Progress
from deploy_kit.verify.options import ReplayOptions
from deploy_kit.verify.policy.checks import run_policy_checks
from deploy_kit.verify.policy.recorded import recorded_episodes
from deploy_kit.verify.policy.subject import pair_policy
from deploy_kit.verify.policy.verifier import require_file_of
from deploy_kit.verify.report import Status, judge

_logger = logging.getLogger(__name__)


def export_policy(options: ExportOptions, checkpoint: PolicyCheckpoint, progress: Callable[[Progress], None]) -> Path:
    """Export a checkpoint of any policy; `export_bundle` calls this.

    Args:
        options: what and how.
        checkpoint: what is exported.
        progress: called before each stage.

    Raises:
        OptionError: an option has no effect on such a policy.
        CheckpointError: the policy lacks the head that is asked for, or a layer of it cannot be exported.
        DatasetError: the feature file cannot be read, or is another policy's.
        CheckFailedError: an artifact does not give what the checkpoint's network gives.
    """
    _refuse_options(options)
    network = checkpoint.network
    if options.use_auxiliary_head and network.head is None:
        raise CheckpointError(
            f"{checkpoint.path} has no head: export without --use-auxiliary-head, or train one with "
            "deploy-kit finetune --new-head"
        )
    if options.use_auxiliary_head and checkpoint.calibration is None:
        _logger.warning("%s: its head has no detector, so the contract has none", checkpoint.path)
    graph = PolicyGraph(options.use_auxiliary_head, options.fixed_batch, options.input_names, options.output_names)
    with ExitStack() as stack:
        samples = None if options.feature_file is None else stack.enter_context(open_feature_file(options.feature_file))
        if samples is not None:
            require_file_of(samples, checkpoint)
        staging = stack.enter_context(staging_folder(options.target))
        folder = staging / NEW
        folder.mkdir()
        _write(folder, options, checkpoint, graph, samples, progress)
        _check(folder, options, checkpoint, samples, progress)
        progress(Progress("publishing", 0))
        publish(folder, options.target, staging, read_signing_keys(options.sign))
    return options.target


def _refuse_options(options: ExportOptions) -> None:
    refused = {
        "--physical-actions": options.physical_actions,
        "--input-layout flat": options.input_layout is InputLayout.FLAT,
        "--gate-output probability": options.gate_output is GateOutput.PROBABILITY,
        f"--vehicle {options.vehicle_file}": options.vehicle_file is not None,
        f"--task {options.task}": options.task is not None,
    }
    for option, given in refused.items():
        if given:
            raise OptionError(f"{option} has no effect on another policy than VisionActorCritic; leave it out")


def _write(
    folder: Path,
    options: ExportOptions,
    checkpoint: PolicyCheckpoint,
    graph: PolicyGraph,
    samples: FeatureFile | None,
    progress: Callable[[Progress], None],
) -> None:
    network, spec = checkpoint.network, checkpoint.network.spec
    plan, head = network.plan(), network.head if graph.head else None
    progress(Progress("writing ONNX, TorchScript and weights", 0))
    inputs = policy_inputs(spec, graph.batch_size, graph.input_names)
    outputs = policy_outputs(spec, graph.batch_size, head=graph.head, names=graph.output_names)
    model = plan_model(plan, head, inputs, outputs, options.opset)
    save_traced(
        PlanModule(plan, head), _example(checkpoint, graph.batch_size or 2), folder / TORCHSCRIPT_NAME, as_written=True
    )
    weights = folder / SAFETENSORS_NAME
    save_policy_safetensors(weights, network, checkpoint.iteration, checkpoint.calibration)
    contract = describe_policy(
        checkpoint,
        graph,
        opset=options.opset,
        ir_version=model.ir_version,
        weights_sha256=file_sha256(weights),
        samples_sha256=None if samples is None else samples.sha256,
    )
    embed_contract(model, contract)
    onnx.save_model(model, folder / ONNX_NAME)
    (folder / CONTRACT_NAME).write_text(contract.to_json() + "\n", encoding="utf-8")
    progress(Progress("choosing golden sequences", 0))
    recorded = None if samples is None else recorded_episodes(samples, spec, options.num_golden)
    if recorded is None:
        observation, reset = draw_sequences(spec, network.usual_numbers(), options.num_golden, options.seed)
    else:
        observation, reset = recorded.episodes.groups, recorded.episodes.reset
    source = "synthetic" if recorded is None else "recorded"
    golden = run_sequences(network, observation, reset, source, head=graph.head)
    write_sequences(folder / GOLDEN_NAME, golden)
    (folder / MANIFEST_NAME).write_text(manifest_text(folder), encoding="utf-8")


def write_sequences(path: Path, golden: GoldenSequences) -> None:
    """Write golden sequences as an npz file that loads without pickle.

    Args:
        path: target file.
        golden: the sequences.
    """
    np.savez(path, **golden.arrays())  # type: ignore[arg-type] # numpy's stub takes the arrays for its option allow_pickle


def _example(checkpoint: PolicyCheckpoint, batch: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    spec = checkpoint.network.spec
    groups = [torch.randn(batch, *group.shape, generator=generator) for group in spec.groups]
    return (*groups, *checkpoint.network.initial_state(batch))


def _check(
    folder: Path,
    options: ExportOptions,
    checkpoint: PolicyCheckpoint,
    samples: FeatureFile | None,
    progress: Callable[[Progress], None],
) -> None:
    subject = pair_policy(open_policy_bundle(folder), checkpoint)
    checks, _ = run_policy_checks(subject, samples, options.hints, ReplayOptions(seed=options.seed), progress)
    for check in checks:
        verdict = judge(check, Thresholds())
        if verdict.status is Status.FAILED:
            raise CheckFailedError(f"{verdict.name}: {verdict.reasons[0]}; nothing was published")
        _logger.info("%s: %s", verdict.name, verdict.status)
