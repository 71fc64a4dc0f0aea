"""How much may differ. Verdicts come from here alone; what was measured is stored apart from them."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """Largest difference allowed between two numbers: ``absolute + relative * |reference|``.

    Attributes:
        absolute: in the output's unit (its transform's scale, for physical commands).
        relative: of the reference's magnitude.
    """

    absolute: float
    relative: float

    def share(self, error: float, reference: float) -> float:
        """Return which share of the tolerance an error uses up; above 1 it fails, and so does NaN."""
        used = error / (self.absolute + self.relative * abs(reference))
        return used if not math.isnan(used) else math.inf

    def __str__(self) -> str:
        return f"{self.absolute:.0e} + {self.relative:.0e}·|ref|"


FP32_PARITY = Tolerance(absolute=1e-5, relative=1e-5)
"""Same float32 arithmetic in another order. The reference policy's worst of 61 000 rows used 0.30 of it."""

STORED_FEATURES = Tolerance(absolute=1e-4, relative=1e-4)
"""Features in a feature file were computed on whatever device collected them, in batches of another size."""


@dataclass(frozen=True)
class Thresholds:
    """All limits of one verification.

    Attributes:
        parity: artifact against checkpoint, per element.
        stored_features: features stored in the feature file against the checkpoint.
        decision_band: a gate decision may flip only if the checkpoint's logit is closer to the threshold than this.
        gates_margin: driving; the interval of the paired difference in gates per episode must lie within ± this.
        crash_margin: driving; the same for the share of episodes that crash.
        speed_margin: driving; the same for the mean speed, m/s.
    """

    parity: Tolerance = field(default=FP32_PARITY)
    stored_features: Tolerance = field(default=STORED_FEATURES)
    decision_band: float = 1e-4
    gates_margin: float = 0.5
    crash_margin: float = 0.15
    speed_margin: float = 0.25

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Thresholds":
        """Return the thresholds that `to_json` wrote."""
        tolerances = {name: Tolerance(**data[name]) for name in ("parity", "stored_features")}
        return cls(**{**data, **tolerances})
