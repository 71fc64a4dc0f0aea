"""The terms of the policy's observation group in Isaac Lab's dump of the training environment (``params/env.yaml``).

Isaac Lab concatenates the terms of a group in the order of the dump; each value passes modifiers, noise, ``clip`` and
``scale``, in this order. The dump names the function that computes a term and says neither its size nor its unit, so
both are known for functions on a list alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.run.env_file import ENV_FILE, finite, mapping
from deploy_kit.task.interface import STATE_TERMS, ObservationTerm

POLICY_GROUP = "policy"
"""Isaac Lab's name of the group that a policy reads, unless its agent's settings say otherwise."""

_GROUP_SETTINGS = frozenset(
    ("concatenate_terms", "concatenate_dim", "enable_corruption", "history_length", "flatten_history_dim")
)

_RACING = {term.name: term for term in STATE_TERMS}
_ISAACLAB = {
    "base_ang_vel": ObservationTerm(
        "base_ang_vel", 0, 3, "rad/s", "body", None, None, "angular velocity of the root's body", None
    ),
    "projected_gravity": ObservationTerm(
        "projected_gravity", 0, 3, "1", "body", (-1.0,) * 3, (1.0,) * 3, "direction of gravity", "definition"
    ),
}

_MASTER_RACING = "diff.lab_tasks.tasks.racing.mdp.observation:"
_OURS = "deploy_kit.sim.isaaclab.racing.terms:"
_STANDARD = "isaaclab.envs.mdp.observations:"

KNOWN_FUNCTIONS: dict[str, tuple[ObservationTerm, ...]] = {
    _MASTER_RACING + "modified_base_lin_vel": (_RACING["base_lin_vel"],),
    _MASTER_RACING + "base_orientation_r": (_RACING["base_orientation"],),
    _MASTER_RACING + "modified_generated_commands": (_RACING["target_position"], _RACING["next_target_offset"]),
    _MASTER_RACING + "modified_generated_commands_gt": (_RACING["target_position"], _RACING["next_target_offset"]),
    _MASTER_RACING + "modified_last_action": (_RACING["last_action"],),
    _OURS + "body_velocity": (_RACING["base_lin_vel"],),
    _OURS + "attitude": (_RACING["base_orientation"],),
    _OURS + "targets": (_RACING["target_position"], _RACING["next_target_offset"]),
    _OURS + "acting_command": (_RACING["last_action"],),
    _STANDARD + "base_lin_vel": (_RACING["base_lin_vel"],),
    _STANDARD + "base_ang_vel": (_ISAACLAB["base_ang_vel"],),
    _STANDARD + "projected_gravity": (_ISAACLAB["projected_gravity"],),
}
"""What the functions of known modules compute, quantity by quantity."""

DEPTH_FUNCTIONS = (_MASTER_RACING + "depth_image", _OURS + "depth_image")
"""Functions that clip the camera's depth at its ``max_distance`` and divide by it."""


@dataclass(frozen=True)
class EnvTerm:
    """One term of the dump.

    Attributes:
        name: name as the environment calls it.
        function: ``module:name`` of what computes it.
        quantities: what it holds, None where the function is not known or the dump changes its values in a way that
            is not understood.
        clip: smallest and largest value before `scale`, None for none.
        scale: factor on every component, or one each; None for none.
        sensor: the scene's sensor that the term reads, None where it names none.
        data_type: what it reads of the sensor.
        obscured_by: the setting that is not understood, None where there is none.
        group: the term's observation group.
        history: steps that the observation holds of the term; 0 where the dump's number is none.
        modified: whether modifiers change its values.
        params: what the function is called with.
    """

    name: str
    function: str
    quantities: tuple[ObservationTerm, ...] | None
    clip: tuple[float, float] | None
    scale: float | tuple[float, ...] | None
    sensor: str | None
    data_type: str | None
    obscured_by: str | None
    group: str = POLICY_GROUP
    history: int = 1
    modified: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        """Numbers that the term adds to the observation, None where that is not known."""
        return None if self.quantities is None else sum(quantity.size for quantity in self.quantities)

    @property
    def where(self) -> str:
        """The term's place in the run."""
        return f"{ENV_FILE}: observations.{self.group}.{self.name}"


def read_terms(env: Mapping[str, Any], group_name: str = POLICY_GROUP) -> list[EnvTerm]:
    """Return the terms of an observation group in their order, none if the dump has no such group.

    Raises:
        CheckpointError: the group is not concatenated, or a term's clip or scale is not numbers.
    """
    group, where = mapping(env, "observations", group_name), f"{ENV_FILE}: observations.{group_name}"
    if group.get("concatenate_terms") is False:
        raise CheckpointError(f"{where}.concatenate_terms is false; supported is one concatenated vector")
    history = group.get("history_length")
    return [
        _read_term(str(name), term, history, group_name, where)
        for name, term in group.items()
        if name not in _GROUP_SETTINGS and isinstance(term, Mapping)
    ]


def _read_term(name: str, term: Mapping[str, Any], group_history: Any, group: str, where: str) -> EnvTerm:
    function = str(term.get("func"))
    known = KNOWN_FUNCTIONS.get(function)
    obscured = _obscured(term, group_history)
    clip, scale = _clip(f"{where}.{name}", term.get("clip")), _scale(f"{where}.{name}", term.get("scale"))
    if isinstance(scale, tuple) and known is not None and len(scale) != sum(item.size for item in known):
        raise CheckpointError(
            f"{where}.{name}.scale has {len(scale)} numbers, the term {sum(item.size for item in known)}"
        )
    params = mapping(term, "params")
    sensor = mapping(params, "sensor_cfg").get("name")
    return EnvTerm(
        name=name,
        function=function,
        quantities=None if obscured else known,
        clip=clip,
        scale=scale,
        sensor=None if sensor is None else str(sensor),
        data_type=params["data_type"] if isinstance(params.get("data_type"), str) else None,
        obscured_by=obscured,
        group=group,
        history=_history(term.get("history_length") if group_history is None else group_history),
        modified=bool(term.get("modifiers")),
        params=params,
    )


def _history(value: Any) -> int:
    if not value:
        return 1
    return value if isinstance(value, int) and value > 0 and not isinstance(value, bool) else 0


def _obscured(term: Mapping[str, Any], group_history: Any) -> str | None:
    """Return the setting that changes a term's size or values in a way that is not understood."""
    if term.get("modifiers"):
        return "modifiers"
    return "history_length" if term.get("history_length") or group_history else None


def _clip(where: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = [finite(item) for item in value] if isinstance(value, (list, tuple)) else []
    if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None and numbers[0] < numbers[1]:
        return numbers[0], numbers[1]
    raise CheckpointError(f"{where}.clip is {value!r}, not two finite numbers in rising order")


def _scale(where: str, value: Any) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    several = isinstance(value, (list, tuple))
    numbers = [finite(item) for item in (value if several else [value])]
    # A factor of 0 would hide the quantity from the policy.
    found = tuple(number for number in numbers if number)
    if not found or len(found) != len(numbers):
        raise CheckpointError(f"{where}.scale is {value!r}, not a number other than 0, or several")
    return found if several else found[0]
