"""Says what a feature file holds, as plain values for ``deploy-kit inspect``."""

from dataclasses import asdict
from typing import Any

import numpy as np

from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.rows import Rows
from deploy_kit.data.schema import KeepReason


def describe_feature_file(file: FeatureFile) -> dict[str, Any]:
    """Return counts of rows, episodes and tracks, and how the rows came about."""
    described: dict[str, Any] = {
        "path": str(file.path),
        "sha256": file.sha256,
        "feature_size": file.feature_size,
        "training": _describe_rows(file.train),
    }
    if file.num_heldout:
        described["heldout"] = _describe_rows(file.heldout())
    if file.observations is not None:
        reasons = file.observations.reason
        described["observations"] = {
            "kept": len(reasons),
            **{r.name.lower(): int(((reasons & r) != 0).sum()) for r in KeepReason if r.name is not None},
        }
    described["collected"] = "unknown (a file of MasterRacing's layout)" if file.attrs is None else asdict(file.attrs)
    return described


def _describe_rows(rows: Rows) -> dict[str, Any]:
    label = np.asarray(rows.supervision).reshape(-1)
    described: dict[str, Any] = {"rows": len(label), "positive": int(label.sum())}
    for name in ("episode_id", "track_id"):
        column = getattr(rows, name)
        if column is not None:
            described[f"{name.removesuffix('_id')}s"] = int(np.unique(column).size)
    return described
