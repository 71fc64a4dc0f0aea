"""Makes the head's probability mean what it says in flight: the prior's offset and a temperature, inside the head."""

import math
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from deploy_kit.arrays import FloatArray

TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is looked for."""


@dataclass(frozen=True)
class Correction:
    """What is done to the trained head before it is judged and saved; ranking is not affected.

    The head is trained at one prior (half positives). By Bayes its logit is the log-likelihood ratio plus that prior's
    log odds; flight has another prior. So logit' = (logit − log odds(training)) / temperature + log odds(flight), which
    is a linear head again: weights / temperature, and the rest into the bias.

    Attributes:
        temperature: divides the log-likelihood ratio (Guo et al., 2017).
        training_prior: share of positives in training.
        flight_prior: share of positives that the probability is to be right for.
    """

    temperature: float
    training_prior: float
    flight_prior: float

    def apply(self, vector: npt.NDArray[np.floating]) -> FloatArray:
        """Return the corrected weights and bias (F + 1,)."""
        corrected = np.asarray(vector, np.float64) / self.temperature
        corrected[-1] += log_odds(self.flight_prior) - log_odds(self.training_prior) / self.temperature
        return corrected.astype(np.float32)

    def undo(self, vector: npt.NDArray[np.floating]) -> FloatArray:
        """Return weights and bias as they were trained."""
        trained = np.asarray(vector, np.float64).copy()
        trained[-1] -= log_odds(self.flight_prior)
        trained *= self.temperature
        trained[-1] += log_odds(self.training_prior)
        return trained.astype(np.float32)

    def to_json(self) -> dict[str, float]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """Return what `to_json` gave, None if it is something else."""
        names = {"temperature", "training_prior", "flight_prior"}
        if not isinstance(data, dict) or set(data) != names or not all(isinstance(v, float) for v in data.values()):
            return None
        found = cls(**data)
        return found if found.temperature > 0 and all(0 < data[n] < 1 for n in names - {"temperature"}) else None


def fit_temperature(
    logit: npt.NDArray[np.float64], label: npt.NDArray[np.bool_], training_prior: float, flight_prior: float
) -> float:
    """Return the temperature with the lowest cross-entropy on validation rows, weighted to the prior of flight.

    Args:
        logit: (n,) of the head as trained.
        label: (n,).
        training_prior: share of positives in training.
        flight_prior: share of positives that the probability is to be right for.
    """
    ratio = logit - log_odds(training_prior)
    share = label.mean()
    weight = np.where(label, flight_prior / share, (1 - flight_prior) / (1 - share))
    sign = np.where(label, -1.0, 1.0)

    def loss(log_temperature: float) -> float:
        corrected = ratio / math.exp(log_temperature) + log_odds(flight_prior)
        return float(weight @ np.logaddexp(0.0, sign * corrected))

    low, high = (math.log(t) for t in TEMPERATURES)
    return float(math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def log_odds(probability: float) -> float:
    """Return log(p / (1 − p))."""
    return math.log(probability) - math.log1p(-probability)
