"""The policy that comes with deploy-kit, and the name that stands for it wherever a checkpoint is asked for."""

from pathlib import Path

from deploy_kit.errors import CheckpointError

DEMO_NAME = "demo"
"""Means the shipped policy, unless a file or folder of this name lies there."""

DEMO_POLICY = Path(__file__).resolve().parents[1] / "assets" / "demo" / "policy.safetensors"


def resolve_name(path: Path) -> Path:
    """Return the shipped policy's file where a path is its name and leads nowhere, else the path as it is.

    Args:
        path: what the user gave for a checkpoint.

    Raises:
        CheckpointError: the shipped policy is not installed.
    """
    if path != Path(DEMO_NAME) or path.exists():
        return path
    if not DEMO_POLICY.is_file():
        raise CheckpointError(
            f"deploy-kit's own policy is missing from this installation ({DEMO_POLICY}): install deploy-kit again, "
            "or give a checkpoint of yours"
        )
    return DEMO_POLICY
