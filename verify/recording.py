"""What a report says of itself: subject, environment, options, runtimes that were checked."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy_kit import __version__
from deploy_kit.bundle.reader import BundleFolder
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.data.reader import FeatureFile
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.verify.dataset import Dataset
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.report import Check, FactCheck, Subject, VerifiedRuntime


def subject_of(
    options: VerifyOptions,
    manifest: str | None,
    bundle: BundleFolder | None,
    checkpoint: Checkpoint | PolicyCheckpoint,
    dataset: Dataset | FeatureFile | None,
) -> Subject:
    """Return what was verified against what.

    Args:
        options: of the verification.
        manifest: sha256 of the bundle's manifest.
        bundle: the bundle, None if it could not be opened.
        checkpoint: the truth.
        dataset: feature file that was replayed.
    """
    return Subject(
        bundle=str(options.bundle),
        manifest_sha256=manifest,
        files={} if bundle is None else bundle.files,
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        dataset=None if dataset is None else str(dataset.path),
        dataset_sha256=None if dataset is None else dataset.sha256,
    )


def verified_runtimes(runtimes: tuple[Runtime, ...], checks: list[Check]) -> tuple[VerifiedRuntime, ...]:
    """Return the ways to run the graph that really ran; whether they passed is the report's verdict."""
    names = {check.name for check in checks if isinstance(check, FactCheck) and not check.problems}
    return tuple(
        VerifiedRuntime(runtime.execution_provider, runtime.level, runtime.threads, runtime.tf32)
        for index, runtime in enumerate(runtimes)
        if ("onnx/provider" if index == 0 else f"onnx/provider@{runtime}") in names
    )


def environment_of(options: VerifyOptions, providers: tuple[str, ...]) -> dict[str, Any]:
    """Return versions and machine.

    Args:
        options: of the verification.
        providers: that onnxruntime really used.
    """
    return {
        "deploy_kit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": str(import_onnxruntime().__version__),
        "providers_asked": [runtime.execution_provider for runtime in options.runtimes],
        "providers_used": list(providers),
    }


def plain(value: Any) -> Any:
    """Return options as JSON values."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
