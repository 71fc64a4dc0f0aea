"""Two sets of flights from the same starts, compared episode by episode."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.flight.episodes import FirstEpisodes, mean_estimate

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PairedDifference:
    """A flight figure of one policy, the candidate, minus another's, the reference, over episodes paired by seed.

    Attributes:
        name: figure.
        unit: SI unit, "1" for a share.
        reference: mean with the reference driving.
        candidate: mean with the candidate driving.
        difference: mean of the paired differences.
        ci95: 95 % confidence interval of that mean, by Student's t.
        equal_pairs: how many pairs are exactly equal.
        pairs: how many pairs there are.
    """

    name: str
    unit: str
    reference: float
    candidate: float
    difference: float
    ci95: tuple[float, float]
    equal_pairs: int
    pairs: int

    def within(self, margin: float) -> bool:
        """Return whether the whole interval lies within ± margin: the figures are equal, to that margin."""
        return -margin <= self.ci95[0] and self.ci95[1] <= margin

    def reaches(self, margin: float) -> bool:
        """Return whether the interval reaches into ± margin and is at most three times as wide: no difference shows."""
        return self.ci95[0] <= margin and self.ci95[1] >= -margin and self.ci95[1] - self.ci95[0] <= 6.0 * margin

    @classmethod
    def of(cls, name: str, unit: str, reference: Array, candidate: Array) -> "PairedDifference":
        """Compare two arrays (n,) of paired values, n ≥ 2."""
        difference = candidate.astype(np.float64) - reference.astype(np.float64)
        estimate = mean_estimate(difference)
        return cls(
            name=name,
            unit=unit,
            reference=float(reference.mean()),
            candidate=float(candidate.mean()),
            difference=estimate.mean,
            ci95=estimate.ci95,
            equal_pairs=int((difference == 0).sum()),
            pairs=difference.size,
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PairedDifference":
        """Return what `dataclasses.asdict` wrote."""
        low, high = data["ci95"]
        return cls(**{**data, "ci95": (low, high)})


def paired_differences(reference: FirstEpisodes, candidate: FirstEpisodes) -> tuple[PairedDifference, ...]:
    """Compare gates, crashes and, where both report it, mean speed of two flights, episode by episode."""
    differences = [
        PairedDifference.of("gates", "1", reference.gates.astype(np.float64), candidate.gates.astype(np.float64)),
        PairedDifference.of("crashed", "1", reference.crashed.astype(np.float64), candidate.crashed.astype(np.float64)),
    ]
    if reference.mean_speed is not None and candidate.mean_speed is not None:
        differences.append(PairedDifference.of("speed", "m/s", reference.mean_speed, candidate.mean_speed))
    return tuple(differences)
