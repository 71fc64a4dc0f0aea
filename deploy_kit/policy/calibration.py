"""What deploy-kit adds to a checkpoint: one JSON record with the gate's calibration and what weights cannot tell."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.network import NetworkConfig

RECORD_KEY = "deploy_kit"
"""Name of the entry, or of the metadata field in safetensors."""

_RECORD_SCHEMA = 1


@dataclass(frozen=True)
class GateCalibration:
    """How the gate head was trained and how its threshold was chosen.

    Attributes:
        threshold_logit: logit at and above which the step counts as a gate pass.
        rule: how the threshold was chosen, for example "best F1 on validation episodes".
        base_rate: share of positive steps in the rows the threshold was chosen on.
        label_rule: what a positive label means.
        label_offset_steps: steps from the observation to its label.
        dataset_sha256: hash of the feature file.
        metrics: named figures on held-out rows.
        tool_version: version of deploy-kit.
        training: epochs, learning rate, perturbation and the like.
    """

    threshold_logit: float
    rule: str
    base_rate: float
    label_rule: str
    label_offset_steps: int
    dataset_sha256: str
    metrics: dict[str, float]
    tool_version: str
    training: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {"threshold_logit": self.threshold_logit, "base_rate": self.base_rate, **self.metrics}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise CheckpointError(f"gate calibration: {name} is {value!r}, not a finite number")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build from `to_json`'s values.

        Raises:
            CheckpointError: if fields are missing, unknown or of the wrong kind.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise CheckpointError(f"gate calibration should have the fields {sorted(names)}, found {found}")
        kinds = {"metrics": dict, "training": dict, "label_offset_steps": int}
        kinds |= dict.fromkeys(("rule", "label_rule", "dataset_sha256", "tool_version"), str)
        for name, kind in kinds.items():
            if not isinstance(data[name], kind):
                raise CheckpointError(f"gate calibration: {name} should be a {kind.__name__}, found {data[name]!r}")
        return cls(**data)


def record_text(
    config: NetworkConfig, calibration: GateCalibration | None, iteration: int | None, vehicle: Any = None
) -> str:
    """Return the record of a network as JSON text; a vehicle is left out where none is known."""
    record: dict[str, Any] = {
        "schema": _RECORD_SCHEMA,
        "activation": config.activation,
        "image_shape": list(config.layout.image_shape),
        "normalizer_eps": config.normalizer_eps,
        "iteration": iteration,
        "calibration": None if calibration is None else calibration.to_json(),
        **({} if vehicle is None else {"vehicle": vehicle}),
    }
    return json.dumps(record, sort_keys=True, allow_nan=False)


def parse_record(text: Any, path: Path) -> dict[str, Any]:
    """Return a record's fields, none if there is no record.

    Args:
        text: the entry as read, None where the checkpoint has none.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: if the entry is not JSON text or of another schema.
    """
    if text is None:
        return {}
    try:
        record = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} is not JSON text; take the checkpoint as it was before finetuning"
        ) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != _RECORD_SCHEMA:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} has schema {schema!r}, this version reads {_RECORD_SCHEMA}: "
            "update deploy-kit"
        )
    return dict(record)
