"""Writes metrics.json: all figures of a finetuning, with what they were taken on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit import __version__
from deploy_kit.arrays import sigmoid
from deploy_kit.data.schema import utc_now
from deploy_kit.files import replace_file
from deploy_kit.finetuning.calibrator import CalibratedHead
from deploy_kit.finetuning.comparison import Comparison
from deploy_kit.finetuning.epoch import Epoch, best_epoch, kept_epoch
from deploy_kit.finetuning.inputs import FinetuneInputs
from deploy_kit.finetuning.learners.lbfgs import Optimum
from deploy_kit.finetuning.options import ADAM, FinetuneOptions
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.policy.summary import describe_gate_head

METRICS_VERSION = 4


@dataclass(frozen=True)
class Outcome:
    """What a finetuning has found so far.

    Attributes:
        before: the head as it was read.
        epochs: the finished ones, at least one.
        optimum: with the solver "lbfgs".
        comparison: the heads side by side; empty until the end.
    """

    before: CalibratedHead
    epochs: Sequence[Epoch]
    optimum: Optimum | None = None
    comparison: Comparison = field(default_factory=Comparison)


def write_metrics(path: Path, options: FinetuneOptions, inputs: FinetuneInputs, outcome: Outcome) -> dict[str, Any]:
    """Write metrics.json and return what stands in it.

    Args:
        path: target, replaced atomically.
        options: options of the finetuning.
        inputs: what it read.
        outcome: what it found.
    """
    kept = kept_epoch(outcome.epochs, options.patience)
    detector, correction = kept.head.detector, kept.head.correction
    content = {
        "schema_version": METRICS_VERSION,
        "tool_version": __version__,
        "created_utc": utc_now(),
        "policy": {
            "path": str(inputs.source.path),
            "sha256": inputs.source.sha256,
            "gate_head": describe_gate_head(inputs.source),
        },
        "dataset": asdict(inputs.dataset),
        "options": _plain(asdict(options) | (asdict(options.adam) if options.solver == ADAM else {})),
        "judged_on": {
            "source": inputs.rows.source,
            "natural_prevalence": inputs.rows.natural_prevalence,
            "validation": _counts(inputs.rows.validation),
            "test": _counts(inputs.rows.test),
        },
        "threshold": {
            "logit": detector.threshold_logit,
            "probability": float(sigmoid(np.array(detector.threshold_logit))),
            "rule": kept.head.rule,
            "rule_kept": kept.head.rule_kept,
        },
        "detector": asdict(detector),
        "correction": None if correction is None else correction.to_json(),
        "certificate": None if outcome.optimum is None else outcome.optimum.certificate.to_json(),
        "losses": None if outcome.optimum is None else list(outcome.optimum.losses),
        "before": outcome.before.figures,
        "after": kept.head.figures,
        "comparison": outcome.comparison.to_json(),
        "best_epoch": best_epoch(outcome.epochs).record.epoch,
        "epochs": [asdict(epoch.record) for epoch in outcome.epochs],
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return content


def _counts(rows: EvaluationRows) -> dict[str, float]:
    label = rows.label
    return {"rows": len(label), "positives": int(label.sum()), "prevalence": float(label.mean())}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
