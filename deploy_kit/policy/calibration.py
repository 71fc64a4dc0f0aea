"""What deploy-kit adds to a checkpoint: one JSON record with the gate's calibration and what weights cannot tell."""

import json
import logging
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.network import NetworkConfig
from deploy_kit.strict_json import strict_json

RECORD_KEY = "deploy_kit"
"""Name of the entry, or of the metadata field in safetensors."""

_RECORD_SCHEMA = 2

_EARLIER_SCHEMA = 1
"""Schema whose calibration had no detector; the rest of its record is the same."""

MAX_SLOPE_STEPS = 1000
"""More are no slope but a mistake."""

_SLOPE = frozenset({"slope_gain", "slope_steps", "slope_rise"})
"""Fields that detectors of earlier records lack; they look at the logit alone."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateDetector:
    """When the gate head announces a passage: one firing a passage, by a causal rule that runs on board as it is.

    It looks at a score: the logit, plus `slope_gain` times what it rose by within the last `slope_steps` steps beyond
    `slope_rise`; in the first steps of an episode, since its first step. So a drone that comes quickly is announced
    earlier, and one that comes slowly later: what counts is the time to the gate, and the logit tells the distance.

    At each step, in this order: a score below `release_logit` arms the detector (it is armed at the start of an
    episode); an armed detector fires where the score reaches `threshold_logit`, unless it fired within the last
    `refractory_steps` steps; firing disarms it.

    Attributes:
        threshold_logit: score at and above which an armed detector fires.
        release_logit: score below which it is armed again; at most the threshold.
        refractory_steps: steps after a firing in which it does not fire.
        tolerance_steps: how many steps a firing may be away from a passage to count as its hit, where it is judged.
        slope_gain: weight of the rise; 0 for the logit alone.
        slope_steps: steps that the rise is taken over.
        slope_rise: rise at which the score is the logit.
    """

    threshold_logit: float
    release_logit: float
    refractory_steps: int
    tolerance_steps: int
    slope_gain: float = 0.0
    slope_steps: int = 0
    slope_rise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("threshold_logit", "release_logit", "slope_gain", "slope_rise"):
            _require_number(name, getattr(self, name))
        for name in ("refractory_steps", "tolerance_steps", "slope_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CheckpointError(f"gate calibration: {name} is {value!r}, not a whole number of at least 0")
        if self.release_logit > self.threshold_logit:
            raise CheckpointError(
                f"gate calibration: release_logit {self.release_logit} is above threshold_logit {self.threshold_logit}"
            )
        if self.slope_steps > MAX_SLOPE_STEPS or self.slope_gain < 0:
            raise CheckpointError(
                f"gate calibration: a slope of {self.slope_gain} over {self.slope_steps} steps; at least 0, "
                f"over at most {MAX_SLOPE_STEPS}"
            )


@dataclass(frozen=True)
class GateCalibration:
    """How the gate head was trained and how its detector was chosen.

    Attributes:
        detector: when a passage is announced; `metrics` was measured with it.
        rule: how it was chosen, for example "best F1 on validation episodes".
        base_rate: share of positive steps in the rows it was chosen on.
        label_rule: what a positive label means.
        label_distance_m: distance that the rule speaks of, m; None where it speaks of none, or it is unknown.
        label_offset_steps: steps from the observation to its label.
        policy_period_s: duration of a step in the feature file, s; None where unknown.
        clip_actions: limit of the actions' size with which the rows were flown; None for none, and where unknown.
        dataset_sha256: hash of the feature file.
        metrics: named figures on held-out rows.
        tool_version: version of deploy-kit.
        training: epochs, learning rate, perturbation and the like.
    """

    detector: GateDetector
    rule: str
    base_rate: float
    label_rule: str
    label_distance_m: float | None
    label_offset_steps: int
    policy_period_s: float | None
    clip_actions: float | None
    dataset_sha256: str
    metrics: dict[str, float]
    tool_version: str
    training: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optional = {name: getattr(self, name) for name in ("label_distance_m", "policy_period_s", "clip_actions")}
        known = {name: value for name, value in optional.items() if value is not None}
        for name, value in {"base_rate": self.base_rate, **known, **self.metrics}.items():
            _require_number(name, value)

    @property
    def threshold_logit(self) -> float:
        """Logit at and above which a step counts as a gate pass."""
        return self.detector.threshold_logit

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
        detector, expected = data["detector"], {f.name for f in fields(GateDetector)}
        if not isinstance(detector, dict) or set(detector) not in (expected, expected - _SLOPE):
            raise CheckpointError(f"gate calibration: detector should have the fields {sorted(expected)}")
        return cls(**{**data, "detector": GateDetector(**detector)})


def _require_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"gate calibration: {name} is {value!r}, not a finite number")


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


def policy_record_text(policy: dict[str, Any], calibration: GateCalibration | None, iteration: int | None) -> str:
    """Return the record of a policy other than `VisionActorCritic` as JSON text.

    Args:
        policy: what builds it again.
        calibration: of its head.
        iteration: training iteration.
    """
    record = {
        "schema": _RECORD_SCHEMA,
        "policy": policy,
        "iteration": iteration,
        "calibration": None if calibration is None else calibration.to_json(),
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
        record = strict_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} is not JSON text; take the checkpoint as it was before finetuning"
        ) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema == _EARLIER_SCHEMA:
        if record.get("calibration") is not None:
            logger.warning(
                "%s: its gate calibration is of an earlier version, without a detector, and is not used; choose one "
                "with: deploy-kit judge %s --feature-file FILE",
                path,
                path,
            )
        return {**record, "calibration": None}
    if schema != _RECORD_SCHEMA:
        raise CheckpointError(
            f"{path}: its entry {RECORD_KEY} has schema {schema!r}, this version reads {_RECORD_SCHEMA}: "
            "update deploy-kit"
        )
    return dict(record)
