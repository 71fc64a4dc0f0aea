"""Where a bundle comes from: the checkpoint of its weights, and the software that writes it."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import deploy_kit
from deploy_kit.bundle.contract_fields import Provenance, Versions
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.policy.any_policy import AnyCheckpoint, features_sha256
from deploy_kit.policy.fingerprint import head_sha256, policy_head_sha256
from deploy_kit.policy.network import VisionActorCritic


def provenance_of(checkpoint: AnyCheckpoint, weights_sha256: str, samples_sha256: str | None) -> Provenance:
    """Return where the weights of a bundle come from.

    Args:
        checkpoint: what is exported.
        weights_sha256: hash of the safetensors file.
        samples_sha256: hash of the feature file, None without one.
    """
    network = checkpoint.network
    if isinstance(network, VisionActorCritic):
        head = None if network.aux_decoder is None else head_sha256(network)
    else:
        head = policy_head_sha256(network)
    return Provenance(
        checkpoint=checkpoint.path.name,
        checkpoint_sha256=checkpoint.sha256,
        checkpoint_format=str(checkpoint.format),
        iteration=checkpoint.iteration,
        weights_sha256=weights_sha256,
        feature_sha256=features_sha256(network),
        head_sha256=head,
        samples_sha256=samples_sha256,
    )


def versions_here(opset: int, ir_version: int) -> Versions:
    """Return the versions of the software that runs.

    Args:
        opset: version of the ONNX graph.
        ir_version: version of the ONNX file.
    """
    return Versions(
        deploy_kit=deploy_kit.__version__,
        python=platform.python_version(),
        torch=version("torch"),
        onnx=version("onnx"),
        onnxruntime=str(import_onnxruntime().__version__),
        numpy=version("numpy"),
        opset=opset,
        ir_version=ir_version,
        git_commit=git_commit(Path(deploy_kit.__file__).parent),
    )


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
