"""What the checks of a verification measure: figures and facts, without a verdict."""

from dataclasses import dataclass
from typing import Any

from deploy_kit.bundle.parity import ParityCheck
from deploy_kit.flight.paired import PairedDifference


@dataclass(frozen=True)
class FactCheck:
    """Facts that either hold or do not.

    Attributes:
        name: of the check.
        compared: what with what.
        count: how many facts were looked at.
        problems: those that do not hold, one line each.
        note: what a reader should know besides.
    """

    name: str
    compared: str
    count: int
    problems: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True)
class ReferenceFlight:
    """The checkpoint's own flights, against which those of the artifact are held: a policy must fly to show anything.

    Attributes:
        name: of the check.
        compared: what flew where.
        episodes: how many.
        gates: mean number of gates passed in an episode.
        statistics: as `FlightStatistics.to_json` gives them.
        note: what a reader should know besides.
    """

    name: str
    compared: str
    episodes: int
    gates: float
    statistics: dict[str, Any]
    note: str | None = None


@dataclass(frozen=True)
class FlightCheck:
    """Flights of the artifact against flights of the checkpoint, paired by seed.

    Attributes:
        name: of the check.
        compared: what with what.
        differences: paired differences of gates, crashes and speed.
        reference: statistics with the checkpoint driving, as `FlightStatistics.to_json` gives them.
        candidate: the same with the artifact driving.
        paired: whether the environment repeated itself, so that each pair of episodes began alike.
        thorough: whether the run was asked to fly until the full margins are supported.
        note: what a reader should know besides.
    """

    name: str
    compared: str
    differences: tuple[PairedDifference, ...]
    reference: dict[str, Any]
    candidate: dict[str, Any]
    paired: bool
    thorough: bool = False
    note: str | None = None


@dataclass(frozen=True)
class NotRun:
    """A check that was not run, and why. It is never counted as passed.

    Attributes:
        name: of the check.
        reason: why.
        switch: option by which the user switched it off; None if nobody did, and then the report has not passed.
    """

    name: str
    reason: str
    switch: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Where a part of a bundle that failed first differs from the checkpoint, and the likely cause. It judges nothing.

    Attributes:
        part: "onnx", "torchscript", "safetensors", "golden", "contract", or the first word of a check.
        layer: first layer that differs, by its name in the checkpoint; null if none does, or it cannot be told.
        error: largest difference there; null likewise, or where it is not finite.
        row: index of the input with that difference, of those that were looked at.
        cause: in words.
    """

    part: str
    layer: str | None
    error: float | None
    row: int | None
    cause: str

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.part}: {self.cause}"
        error = "values that are not finite" if self.error is None else f"{self.error:.3g}"
        return f"{self.part}: {self.layer} is the first layer that differs, by {error}; likely cause: {self.cause}"


@dataclass(frozen=True)
class Certificate:
    """For how many recorded gate decisions rounding cannot matter. Figures; nothing is judged by them.

    Attributes:
        rows: recorded observations that were looked at.
        certain: of these, decisions that no order of float32 summation, in any layer, could flip.
        largest_bound: largest bound on the logit's error among them.
        feature_rows: recorded rows of features that were looked at.
        feature_certain: of these, decisions that no order of summation in the gate head could flip.
        epsilon: perturbation of every feature that the head was trained against; null if it was not.
        robust: rows of features whose decision holds under every perturbation within epsilon; null likewise.
        median_radius: perturbation of every feature up to which half of the decisions hold.
    """

    rows: int
    certain: int
    largest_bound: float
    feature_rows: int
    feature_certain: int
    epsilon: float | None
    robust: int | None
    median_radius: float

    def __str__(self) -> str:
        held = f"{self.certain} of {self.rows} recorded decisions" if self.rows else "decisions"
        text = f"certificate: no order of float32 summation could flip {held} (bound {self.largest_bound:.1g})"
        text += f", or {self.feature_certain} of {self.feature_rows} from stored features"
        if self.robust is not None:
            text += f"; {self.robust} hold for any perturbation of the features within {self.epsilon:g}"
        return f"{text}; half hold within {self.median_radius:.2g}"


Check = FactCheck | ParityCheck | FlightCheck | ReferenceFlight | NotRun

KINDS: dict[str, type[Any]] = {
    "facts": FactCheck,
    "parity": ParityCheck,
    "reference flight": ReferenceFlight,
    "flight": FlightCheck,
    "not run": NotRun,
}
"""What `kind` is in report.json."""
