"""From thrust over mass to the normalised throttle that autopilots take, by a stated model of the drive."""

import math
from dataclasses import dataclass

from .faults import Fault, OnboardFault

GRAVITY = 9.81
"""m/s², as in the racing task."""


@dataclass(frozen=True)
class ThrottleModel:
    """A model of the drive: thrust over weight is f(u) / f(hover) · (U / U₀)², with f(u) = k·u² + (1 − k)·u.

    u is the throttle, k the quadratic share (PX4's THR_MDL_FAC), U the battery's voltage and U₀ the one at which the
    hover throttle was measured. Motors turn in proportion to the voltage, and thrust grows with the square of their
    speed; without a voltage the model holds near U₀ alone.

    Attributes:
        hover_throttle: throttle at which the drone hovers, above 0 and below 1.
        quadratic: share k, 0 (thrust proportional to throttle) to 1 (to its square).
        reference_voltage: U₀, V; None where no voltage is to be given.
        lowest_voltage: share of U₀ below which a voltage is refused: the battery is empty, or the reading wrong.
        highest_voltage: share of U₀ above which a voltage is refused.
        max_throttle: largest throttle that is given.

    Raises:
        OnboardFault: a number makes no sense.
    """

    hover_throttle: float
    quadratic: float = 1.0
    reference_voltage: float | None = None
    lowest_voltage: float = 0.75
    highest_voltage: float = 1.2
    max_throttle: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        bounds = {
            "hover_throttle": 0 < self.hover_throttle < 1,
            "quadratic": 0 <= self.quadratic <= 1,
            "reference_voltage": self.reference_voltage is None or 0 < self.reference_voltage < math.inf,
            "lowest_voltage": 0 < self.lowest_voltage <= 1,
            "highest_voltage": 1 <= self.highest_voltage < math.inf,
            "max_throttle": self.hover_throttle < self.max_throttle <= 1,
        }
        for name, fits in bounds.items():
            if not fits:
                raise OnboardFault(Fault.OPTIONS, f"{name} of the throttle model is {getattr(self, name)}")

    def throttle(self, thrust: float, voltage: float | None = None) -> tuple[float, bool]:
        """Return the throttle for a thrust, and whether it was cut to the largest one.

        Args:
            thrust: collective thrust over mass, m/s², as the policy commands it.
            voltage: of the battery under load, V; needed if, and only if, the model has a reference voltage.

        Raises:
            OnboardFault: the thrust is negative or not finite, or the voltage is missing, too many, or out of bounds.
        """
        if not 0 <= thrust < math.inf:
            raise OnboardFault(Fault.COMMAND, f"the thrust is {thrust} m/s², not a number of at least 0")
        share = thrust / GRAVITY * self._force(self.hover_throttle) / self._voltage_factor(voltage)
        k = self.quadratic
        # The positive root of k·u² + (1 − k)·u = share, in a form that holds for k = 0 too.
        root = 2 * share / ((1 - k) + math.sqrt((1 - k) ** 2 + 4 * k * share)) if share else 0.0
        return min(root, self.max_throttle), root > self.max_throttle

    def thrust(self, throttle: float, voltage: float | None = None) -> float:
        """Return the thrust over mass, m/s², that a throttle gives."""
        return GRAVITY * self._force(throttle) / self._force(self.hover_throttle) * self._voltage_factor(voltage)

    def _force(self, throttle: float) -> float:
        return self.quadratic * throttle**2 + (1 - self.quadratic) * throttle

    def _voltage_factor(self, voltage: float | None) -> float:
        reference = self.reference_voltage
        if reference is None and voltage is None:
            return 1.0
        if reference is None or voltage is None:
            missing = "reference_voltage of the model" if reference is None else "battery's voltage"
            raise OnboardFault(Fault.OPTIONS, f"the {missing} is missing: give both, or neither")
        ratio = voltage / reference
        if not self.lowest_voltage <= ratio <= self.highest_voltage:
            raise OnboardFault(
                Fault.COMMAND,
                f"the battery has {voltage:g} V, {100 * ratio:.0f} % of the {reference:g} V at which the hover "
                "throttle was measured: the model does not hold there",
            )
        return ratio**2
