"""From commands in SI units to SET_ATTITUDE_TARGET, and the setpoint that is sent in a command's place."""

import math

import numpy as np
import numpy.typing as npt
from autopilot_link import AutopilotLink, mavlink

from deploy_kit.onboard import OnboardFault
from deploy_kit.onboard.frames import frd_from_flu, ned_from_enu
from deploy_kit.onboard.throttle import GRAVITY, ThrottleModel

Float64 = npt.NDArray[np.float64]

_MASK = mavlink.ATTITUDE_TARGET_TYPEMASK_ATTITUDE_IGNORE
_RATES = (
    mavlink.ATTITUDE_TARGET_TYPEMASK_BODY_ROLL_RATE_IGNORE
    | mavlink.ATTITUDE_TARGET_TYPEMASK_BODY_PITCH_RATE_IGNORE
    | mavlink.ATTITUDE_TARGET_TYPEMASK_BODY_YAW_RATE_IGNORE
)

HOLD_COMMAND: Float64 = np.array([GRAVITY, 0.0, 0.0, 0.0])
"""What the runner is told that a hold is: thrust of hover, no rates."""


class Setpoints:
    """Sends setpoints.

    Args:
        link: to the autopilot.
        model: of the drive.
        system: system id of the autopilot.

    Attributes:
        cut: commands that asked for more thrust than there is.
    """

    def __init__(self, link: AutopilotLink, model: ThrottleModel, system: int = 1) -> None:
        self._link, self._model, self._system = link, model, system
        self.cut = 0

    def require_drive(self, voltage: float | None) -> None:
        """Raise an OnboardFault if the battery's voltage is unknown or out of the model's bounds."""
        self._model.throttle(GRAVITY, voltage)

    def fly(self, command: Float64, voltage: float | None, now: float) -> None:
        """Send body rates and thrust.

        Args:
            command: (4,) thrust over mass, m/s², body rates forward-left-up, rad/s.
            voltage: of the battery, V.
            now: s, on the companion's clock.

        Raises:
            OnboardFault: the command or the voltage is out of the model's bounds; nothing is sent then.
        """
        throttle, cut = self._model.throttle(float(command[0]), voltage)
        self.cut += cut
        self._send(now, _MASK, (1.0, 0.0, 0.0, 0.0), frd_from_flu(command[1:]), throttle)

    def hold(self, rotation: Float64 | None, voltage: float | None, now: float) -> None:
        """Send a level attitude with the present heading, and hover throttle.

        The autopilot holds it with its own sensors, also where position and velocity are lost. Where not even an
        attitude was ever told, no rates are asked for.

        Args:
            rotation: (3, 3) body to world, of which the heading is taken; None where unknown.
            voltage: of the battery, V; None takes the hover throttle as it was measured.
            now: s, on the companion's clock.
        """
        try:
            throttle, _ = self._model.throttle(GRAVITY, voltage)
        except OnboardFault:
            throttle = self._model.hover_throttle
        if rotation is None:
            self._send(now, _MASK, (1.0, 0.0, 0.0, 0.0), np.zeros(3), throttle)
            return
        north, east, _ = ned_from_enu(rotation[:, 0])
        half = math.atan2(east, north) / 2
        self._send(now, _RATES, (math.cos(half), 0.0, 0.0, math.sin(half)), np.zeros(3), throttle)

    def _send(self, now: float, mask: int, quaternion: tuple[float, ...], rates: Float64, throttle: float) -> None:
        self._link.mav.set_attitude_target_send(
            round(1e3 * now) & 0xFFFFFFFF,
            self._system,
            mavlink.MAV_COMP_ID_AUTOPILOT1,
            mask,
            quaternion,
            *map(float, rates),
            throttle,
        )
