"""Two sets of flights from the same starts, compared episode by episode."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from deploy_kit.flight.episodes import FirstEpisodes, mean_estimate

Array = npt.NDArray[np.floating]

POWER = 0.8
"""Chance with which a difference of the size `visible` is found."""

CERTAINTY = 0.995
"""Chance with which two equal policies are found equal, on each side of the margin, by so many episodes as planned."""

MISSED = 0.05
"""Chance with which a change in so few episodes that none of those flown shows it is overlooked."""


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
        ci90: 90 % interval; equivalence by two one-sided tests at 5 % means that it lies within the margin.
        visible: smallest difference that so many episodes with this spread could have shown, see `visible_difference`.
        spread: standard deviation of the paired differences.
        lost: by how much an episode differs that the candidate loses altogether.
        equal_pairs: how many pairs are exactly equal.
        pairs: how many pairs there are.
    """

    name: str
    unit: str
    reference: float
    candidate: float
    difference: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    visible: float
    spread: float
    lost: float
    equal_pairs: int
    pairs: int

    def within(self, margin: float) -> bool:
        """Return whether the whole 95 % interval lies within ± margin: the figures are equal, to that margin."""
        return -margin <= self.ci95[0] and self.ci95[1] <= margin

    def equivalent(self, margin: float) -> bool:
        """Return whether two one-sided tests at 5 % find the figures equal, to that margin (Schuirmann, 1987)."""
        return -margin <= self.ci90[0] and self.ci90[1] <= margin

    def outside(self, margin: float) -> bool:
        """Return whether the whole 95 % interval lies outside ± margin: the figures differ by more."""
        return self.ci95[0] > margin or self.ci95[1] < -margin

    @property
    def supported(self) -> float:
        """Smallest margin that these episodes support: they show no larger difference, and would have shown it."""
        return max(*map(abs, self.ci95), self.visible)

    def episodes_for(self, margin: float, seen: bool = True) -> int:
        """Return about how many episodes it takes to tell, within a margin, that two equal policies are equal.

        From the spread alone, so that asking in between does not favour either answer (Stein, 1945): as many that two
        equal policies are found so with a chance of `CERTAINTY`.

        Args:
            margin: of the difference.
            seen: whether a difference of the margin must besides be visible.
        """
        few, many = 2, 1 << 20
        while few < many:
            middle = (few + many) // 2
            inside = float(stdtrit(middle - 1, 0.975) + stdtrit(middle - 1, CERTAINTY)) * self.spread / middle**0.5
            visible = visible_difference(middle, self.spread, self.lost) if seen else 0.0
            if max(visible, inside) <= margin:
                many = middle
            else:
                few = middle + 1
        return few

    @classmethod
    def of(
        cls, name: str, unit: str, reference: Array, candidate: Array, lost: float | None = None
    ) -> "PairedDifference":
        """Compare two arrays (n,) of paired values, n ≥ 2.

        Args:
            name: figure.
            unit: SI unit.
            reference: values with the reference driving.
            candidate: values with the candidate driving.
            lost: by how much an episode differs that the candidate loses; the mean of the reference if None.
        """
        difference = candidate.astype(np.float64) - reference.astype(np.float64)
        estimate, spread = mean_estimate(difference), float(difference.std(ddof=1))
        lost = abs(float(reference.mean())) if lost is None else lost
        return cls(
            name=name,
            unit=unit,
            reference=float(reference.mean()),
            candidate=float(candidate.mean()),
            difference=estimate.mean,
            ci95=estimate.ci95,
            ci90=_ninety(estimate.mean, spread, difference.size),
            visible=visible_difference(difference.size, spread, lost),
            spread=spread,
            lost=lost,
            equal_pairs=int((difference == 0).sum()),
            pairs=difference.size,
        )


def _ninety(mean: float, spread: float, pairs: int) -> tuple[float, float]:
    half = float(stdtrit(pairs - 1, 0.95)) * spread / pairs**0.5
    return mean - half, mean + half


def visible_difference(pairs: int, spread: float, lost: float) -> float:
    """Return the smallest mean difference that so many paired episodes can show.

    The larger of two: the one that a t test at 5 % finds with a chance of `POWER`; and the one that comes of losing the
    share of episodes that shows in none of those flown with a chance of `MISSED` (Hanley and Lippman-Hand, 1983),
    since pairs that are all equal have no spread and yet prove little.

    Args:
        pairs: how many, at least 2.
        spread: standard deviation of the differences.
        lost: by how much an episode differs that is lost.
    """
    by_spread: float = (stdtrit(pairs - 1, 0.975) + stdtrit(pairs - 1, POWER)) * spread / pairs**0.5
    return max(by_spread, float(1.0 - MISSED ** (1.0 / pairs)) * lost)


def paired_differences(reference: FirstEpisodes, candidate: FirstEpisodes) -> tuple[PairedDifference, ...]:
    """Compare gates, crashes and, where both report it, mean speed of two flights, episode by episode."""
    differences = [
        PairedDifference.of("gates", "1", reference.gates.astype(np.float64), candidate.gates.astype(np.float64)),
        PairedDifference.of(
            "crashed", "1", reference.crashed.astype(np.float64), candidate.crashed.astype(np.float64), lost=1.0
        ),
    ]
    if reference.mean_speed is not None and candidate.mean_speed is not None:
        # No speed is lost with an episode: another flight's speed differs as those of two episodes do.
        lost = float(reference.mean_speed.std(ddof=1))
        differences.append(PairedDifference.of("speed", "m/s", reference.mean_speed, candidate.mean_speed, lost))
    return tuple(differences)
