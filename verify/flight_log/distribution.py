"""Are a flight's inputs such as those that the policy was judged on, the held-out rows of the feature file?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import Float32
from deploy_kit.verify.report import Check, FactCheck, NotRun

NAME = "flight-log/distribution"

QUANTILE = 0.999
"""Share of held-out rows within the distance that counts as inside."""

MOST_OUTSIDE = 0.05
"""Share of a flight's steps that may lie outside: fifty times what held-out rows do."""

STATE_MARGIN = 0.1
"""By which share of its recorded span a number of the state may leave it."""

_SHRINKAGE = 1e-3

Float64 = npt.NDArray[np.float64]


class Distance:
    """Mahalanobis distance of features to the held-out ones, their covariance shrunk towards its diagonal's mean.

    Args:
        features: (n, F) held-out rows; n at least twice F.
    """

    def __init__(self, features: Float32) -> None:
        rows = features.astype(np.float64)
        self._mean = rows.mean(axis=0)
        covariance = np.cov(rows, rowvar=False)
        size = len(covariance)
        covariance += _SHRINKAGE * np.trace(covariance) / size * np.eye(size)
        self._whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
        self.limit = float(np.quantile(self(features), QUANTILE))

    def __call__(self, features: Float32) -> Float64:
        """Return the distance of each row."""
        distance: Float64 = np.linalg.norm((features - self._mean) @ self._whiten, axis=1)
        return distance


def distribution_check(
    heldout: Float32 | None,
    kept: Float32 | None,
    features: Float32,
    state: Float32,
    terms: Sequence[str],
    numbers: Sequence[int],
) -> tuple[Check, Float64 | None]:
    """Return whether features and states lie where held-out ones do, and each step's distance over its limit.

    Args:
        heldout: (n, F) features of the feature file; None without one.
        kept: (k, state) the network's states of the kept observations; None without.
        features: (m, F) the checkpoint's, of the flight's inputs.
        state: (m, state) the network's states of the flight.
        terms: (state,) name of each number.
        numbers: (m,) record numbers.
    """
    if heldout is None:
        return NotRun(NAME, "--no-replay: no feature file was given", "--no-replay"), None
    if len(heldout) < 2 * heldout.shape[1]:
        reason = f"{len(heldout)} held-out rows do not tell how {heldout.shape[1]} features spread; collect more"
        return NotRun(NAME, reason), None
    distance = Distance(heldout)
    relative: Float64 = distance(features) / distance.limit
    problems = []
    outside = relative > 1
    share = float(outside.mean())
    if share > MOST_OUTSIDE:
        first = int(np.argmax(outside))
        problems.append(
            f"{100 * share:.1f} % of the steps have features farther out than {100 * QUANTILE:g} % of the held-out "
            f"rows, the first at record {numbers[first]}; at most {100 * MOST_OUTSIDE:g} % are accepted"
        )
    if kept is not None and len(kept) > 1:
        problems += _state_problems(kept, state, terms)
    note = f"{100 * share:.2f} % of the steps lie outside of {100 * QUANTILE:g} % of {len(heldout)} held-out rows"
    return FactCheck(
        NAME, "features and states of the flight against held-out ones", len(features), tuple(problems), note
    ), relative


def _state_problems(kept: Float32, state: Float32, terms: Sequence[str]) -> list[str]:
    low, high = kept.min(axis=0), kept.max(axis=0)
    margin = STATE_MARGIN * (high - low)
    outside = (state < low - margin) | (state > high + margin)
    shares = outside.mean(axis=0)
    return [
        f"{terms[index]} is outside of the recorded {low[index]:.3g} to {high[index]:.3g} in "
        f"{100 * shares[index]:.1f} % of the steps, at most {np.abs(state[:, index]).max():.3g} in size"
        for index in np.flatnonzero(shares > MOST_OUTSIDE).tolist()
    ]
