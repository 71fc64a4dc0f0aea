"""Knows a bundle's contract and nothing else: puts raw quantities into the form that it asks for, and commands back.

Every conversion comes from the contract's words: which quantity a term is, in which unit and frame, in which order the
image lies, what a pixel measures, in which order, units and frame commands come out.
"""

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.policy.run.observation import IMAGE_PLANE
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.task.interface import ACTION_NAMES
from deploy_kit.verify.bench import Float64, RawInput

_TO_UNIT = {
    **{"1": 1.0, "m": 1.0, "m/s": 1.0, "rad/s": 1.0, "m/s²": 1.0},
    **{"cm": 100.0, "mm": 1000.0, "ft": 1 / 0.3048, "cm/s": 100.0, "km/h": 3.6, "ft/s": 1 / 0.3048},
    **{"deg/s": 180.0 / np.pi, "g": 1 / 9.80665},
}
"""Numbers of a unit in one SI unit."""

_AXES = {
    "body": (1.0, 1.0, 1.0),
    "body: x forward, y left, z up": (1.0, 1.0, 1.0),
    "body: x forward, y right, z down": (1.0, -1.0, -1.0),
}
"""Signs from body axes x forward, y left, z up to those of a frame, as contracts name it."""

_RADIAL = "distance to the optical centre, m"

LAST_ACTION = "last_action"


class Integrator:
    """The code that an integrator writes around a policy.

    Args:
        contract: what the integrator knows.

    Raises:
        ArtifactError: it says something that nobody could act on.
    """

    def __init__(self, contract: Contract) -> None:
        self._terms, self._depth = contract.observation.terms, contract.observation.depth
        self._flip = _image_order(self._depth.order)
        self._stretch = _stretch(contract)
        self._commands = _command_order(contract)
        self._factors = {term.start: _factor(term) for term in self._terms if term.quantity not in (None, LAST_ACTION)}

    def state(self, raw: RawInput) -> Float64:
        """Return the state in the contract's units, without the command that acts, which the policy fills in.

        Raises:
            ArtifactError: the contract asks for a quantity that the simulator does not measure.
        """
        parts = []
        for term in self._terms:
            if term.quantity is None:
                parts.append(raw.state[term.start : term.stop])
            elif term.quantity != LAST_ACTION:
                if term.quantity not in raw.quantities:
                    raise ArtifactError(f"the contract asks for {term.quantity}, which the simulator does not measure")
                parts.append(raw.quantities[term.quantity] * self._factors[term.start])
        return np.concatenate(parts)

    def image(self, depth: Float64) -> npt.NDArray[np.float32]:
        """Return the image as the contract orders it, of metres along the optical axis (rows, columns)."""
        image = depth if self._stretch is None else depth * self._stretch
        return np.ascontiguousarray(image[self._flip], dtype=np.float32)

    def si(self, command: Float64) -> Float64:
        """Return a command (4,) in SI units and body axes, of one in the contract's order and units."""
        order, factors = self._commands
        return command[order] * factors


def _factor(term: StateTerm) -> Float64:
    """Return the factors from SI units and body axes to a term's unit and frame."""
    unit = _unit(term.unit, f"the term {term.name}")
    axes = _axes(term.frame, f"the term {term.name}")
    return unit * axes if term.stop - term.start == len(axes) else np.full(term.stop - term.start, unit)


def _unit(unit: str | None, what: str) -> float:
    if unit not in _TO_UNIT:
        raise ArtifactError(f"{what} has the unit {unit!r}, which nobody could fill in")
    return _TO_UNIT[unit]


def _axes(frame: str | None, what: str) -> Float64:
    named = "" if frame is None else frame.partition(";")[0].strip()
    if named not in _AXES:
        raise ArtifactError(f"{what} is in the frame {frame!r}, which nobody could fill in")
    return np.array(_AXES[named])


def _image_order(order: str) -> tuple[slice, slice]:
    """Return how rows and columns are turned, from top row first and left column first."""
    parts = [part.strip() for part in order.split(",")]
    rows = {"top row first": slice(None), "bottom row first": slice(None, None, -1)}
    columns = {"left column first": slice(None), "right column first": slice(None, None, -1)}
    if len(parts) != 3 or parts[0] != "row-major" or parts[1] not in rows or parts[2] not in columns:
        raise ArtifactError(f"the image's order is {order!r}, which nobody could fill in")
    return rows[parts[1]], columns[parts[2]]


def _stretch(contract: Contract) -> Float64 | None:
    """Return the factors from the distance along the optical axis to what a pixel measures; None for 1."""
    measure, camera = contract.observation.depth.measure, contract.camera
    if measure in (None, IMAGE_PLANE):
        return None
    if measure != _RADIAL or camera is None:
        raise ArtifactError(f"a pixel measures {measure!r}, which nobody could fill in")
    columns = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    rows = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    factors: Float64 = np.sqrt(1.0 + columns[None, :] ** 2 + rows[:, None] ** 2)
    return factors


def _command_order(contract: Contract) -> tuple[npt.NDArray[np.intp], Float64]:
    """Return where each of thrust and rates stands among the commands, and its factor to SI units and body axes."""
    action = contract.action
    if sorted(action.names) != sorted(ACTION_NAMES):
        raise ArtifactError(f"the actions are {', '.join(action.names)}, which no controller takes")
    order = np.array([action.names.index(name) for name in ACTION_NAMES])
    x, y, z = _axes(action.frame, "the command")
    signs = {"thrust": z, "body_rate_x": x, "body_rate_y": y, "body_rate_z": z}
    units = [_unit(action.units[index], f"the command {action.names[index]}") for index in order]
    return order, np.array([signs[name] / unit for name, unit in zip(ACTION_NAMES, units, strict=True)])
