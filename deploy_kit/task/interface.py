"""What goes into the policy and what comes out: slices, units, frames, action transform.

Plain data without torch, shared by the simulators, the exporter, the contract and the documentation.
World frame z up; body frame x forward, y left, z up; SI units.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.task.racing import GRAVITY


@dataclass(frozen=True)
class ObservationTerm:
    """One named slice of the policy's observation.

    Attributes:
        name: term name, as the training environment calls it.
        start: first index in the flat observation.
        stop: one past the last index.
        unit: SI unit, "1" where dimensionless.
        frame: coordinate frame the numbers are expressed in.
        low: smallest value to be expected in flight, per component (for synthetic samples and range guards); None
            where nothing tells it.
        high: largest value to be expected in flight, per component.
        description: one line for a human.
        range_source: "definition" where the quantity cannot be larger, "action transform" where the range is that of
            the commands, "assumed" for deploy-kit's assumption, None without a range.
    """

    name: str
    start: int
    stop: int
    unit: str
    frame: str
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    description: str
    range_source: str | None = "assumed"

    @property
    def size(self) -> int:
        """Number of components."""
        return self.stop - self.start


STATE_TERMS: tuple[ObservationTerm, ...] = (
    ObservationTerm(
        "base_lin_vel",
        0,
        3,
        "m/s",
        "body",
        (-15.0,) * 3,
        (15.0,) * 3,
        "linear velocity of the centre of mass",
    ),
    ObservationTerm(
        "base_orientation",
        3,
        6,
        "1",
        "body",
        (-1.0,) * 3,
        (1.0,) * 3,
        "world z axis seen in body axes: third row of the body-to-world rotation matrix",
        "definition",
    ),
    ObservationTerm(
        "target_position",
        6,
        9,
        "m",
        "body",
        (-40.0,) * 3,
        (40.0,) * 3,
        "vector from the drone to the commanded centre of the current gate",
    ),
    ObservationTerm(
        "next_target_offset",
        9,
        12,
        "m",
        "body",
        (-40.0,) * 3,
        (40.0,) * 3,
        "vector from the commanded centre of the current gate to that of the next gate",
    ),
    ObservationTerm(
        "last_action",
        12,
        16,
        "m/s², rad/s, rad/s, rad/s",
        "body",
        (0.0, -6.0, -6.0, -6.0),
        (3.0 * GRAVITY, 6.0, 6.0, 6.0),
        "command now acting, after latency: collective thrust over mass, then body rates x, y, z",
        "action transform",
    ),
)
"""The 16 numbers before the depth image, in order."""


@dataclass(frozen=True)
class ObservationLayout:
    """How a flat observation splits into vehicle state and depth image.

    Attributes:
        state_size: numbers before the image.
        image_shape: (rows, columns) of the depth image, row-major, top row first.
    """

    state_size: int = 16
    image_shape: tuple[int, int] = (72, 96)

    @property
    def image_size(self) -> int:
        """Number of pixels."""
        return math.prod(self.image_shape)

    @property
    def size(self) -> int:
        """Length of the flat observation."""
        return self.state_size + self.image_size

    @property
    def terms(self) -> tuple[ObservationTerm, ...]:
        """Named slices of the state, empty if the policy's state is not the racing task's."""
        return STATE_TERMS if self.state_size == STATE_TERMS[-1].stop else ()


ACTION_NAMES: tuple[str, ...] = ("thrust", "body_rate_x", "body_rate_y", "body_rate_z")
"""Order of the four actions: collective thrust and body rates (CTBR)."""

ACTION_UNITS: tuple[str, ...] = ("m/s²", "rad/s", "rad/s", "rad/s")
"""Units of the physical command: thrust is divided by the vehicle's mass."""


@dataclass(frozen=True)
class ActionTransform:
    """From the network's unbounded action to a physical command: ``tanh(clip(action)) * scale + offset``.

    Attributes:
        scale: per action, in `ACTION_UNITS`.
        offset: per action, in `ACTION_UNITS`.
        clip: largest size of an action, to which larger ones are cut first (Isaac Lab's ``clip_actions``); None for
            no limit.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    clip: float | None = None

    @classmethod
    def from_limits(
        cls,
        max_thrust_to_weight: float,
        max_body_rate: float | tuple[float, float, float],
        gravity: float = GRAVITY,
        clip: float | None = None,
    ) -> "ActionTransform":
        """Return the transform whose thrust spans [0, max_thrust_to_weight · g] and whose rates span ± max_body_rate.

        Args:
            max_thrust_to_weight: largest collective thrust over weight, dimensionless.
            max_body_rate: largest body rate, rad/s, one for all axes or one each.
            gravity: m/s².
            clip: largest size of an action, None for no limit.
        """
        half_thrust = 0.5 * max_thrust_to_weight * gravity
        rates = (max_body_rate,) * 3 if isinstance(max_body_rate, (int, float)) else max_body_rate
        return cls(scale=(half_thrust, *map(float, rates)), offset=(half_thrust, 0.0, 0.0, 0.0), clip=clip)

    def apply(self, action: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the physical command of shape (..., 4) for network actions of shape (..., 4)."""
        if self.clip is not None:
            action = np.clip(action, -self.clip, self.clip)
        command: npt.NDArray[np.floating] = np.tanh(action) * np.asarray(self.scale, action.dtype)
        return command + np.asarray(self.offset, action.dtype)
