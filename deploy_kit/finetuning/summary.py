"""Says what a finetuning left, as plain JSON values for ``deploy-kit inspect``."""

from pathlib import Path
from typing import Any

from deploy_kit.errors import InputError
from deploy_kit.files import read_json_object
from deploy_kit.policy.run.directory import METRICS_NAME

_SHOWN = (
    *("schema_version", "tool_version", "created_utc", "policy", "dataset", "options", "judged_on", "threshold"),
    *("correction", "certificate", "best_epoch", "before", "after"),
)


def describe_metrics(path: Path) -> dict[str, Any]:
    """Return what a metrics.json says: what was trained on what, the figures before and after, each epoch's.

    Raises:
        InputError: it is not what finetune writes.
    """
    data = read_json_object(path)
    epochs = data.get("epochs")
    if not isinstance(epochs, list) or not all(isinstance(epoch, dict) for epoch in epochs):
        raise InputError(f"{path} has no list of epochs, so finetune did not write it")
    return {
        "path": str(path),
        **{name: data[name] for name in _SHOWN if name in data},
        "epochs": [{"name": str(epoch.get("checkpoint")), **epoch} for epoch in epochs],
    }


def describe_finetuning(folder: Path, checkpoints: list[Path]) -> dict[str, Any]:
    """Return a finetune folder's checkpoints, and its metrics if they lie there.

    Args:
        folder: what ``--save-path`` named.
        checkpoints: its epochs' files.

    Raises:
        InputError: metrics.json is not what finetune writes.
    """
    metrics = folder / METRICS_NAME
    return {
        "path": str(folder),
        "checkpoints": [path.name for path in checkpoints],
        "metrics": describe_metrics(metrics) if metrics.is_file() else None,
    }
