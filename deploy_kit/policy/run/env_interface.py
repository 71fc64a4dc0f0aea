"""What Isaac Lab's dump of the environment (``params/env.yaml``) says of any policy's observations, actions and clock.

Sizes are known of functions on a list alone; names of joints stand nowhere in the dump, so they stay unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.run.env_file import AGENT_FILE, ENV_FILE, finite, mapping
from deploy_kit.policy.run.env_terms import EnvTerm, read_terms
from deploy_kit.policy.run.interface_file import LAST_ACTION
from deploy_kit.policy.run.task_meaning import ActionMeaning, SourcedNumber, TaskTiming, TermMeaning

STANDARD_MODULES = ("isaaclab.envs.mdp.observations:", "omni.isaac.lab.envs.mdp.observations:")

_VELOCITY_COMMAND = "UniformVelocityCommand"
JOINTS, ACTIONS = -1, -2
"""Sizes of functions that give a number a joint, or a number an action."""


@dataclass(frozen=True)
class StandardFunction:
    """What one of Isaac Lab's functions computes; its size may be that of the joints or of the actions."""

    size: int
    unit: str
    frame: str | None
    description: str


STANDARD_FUNCTIONS = {
    "base_pos_z": StandardFunction(1, "m", "world", "height of the root"),
    "base_lin_vel": StandardFunction(3, "m/s", "body", "linear velocity of the root"),
    "base_ang_vel": StandardFunction(3, "rad/s", "body", "angular velocity of the root"),
    "projected_gravity": StandardFunction(3, "1", "body", "direction of gravity"),
    "root_pos_w": StandardFunction(3, "m", "world", "position of the root, from the environment's origin"),
    "root_quat_w": StandardFunction(4, "1", "world", "attitude of the root as a quaternion"),
    "root_lin_vel_w": StandardFunction(3, "m/s", "world", "linear velocity of the root"),
    "root_ang_vel_w": StandardFunction(3, "rad/s", "world", "angular velocity of the root"),
    "joint_pos": StandardFunction(JOINTS, "rad or m", None, "positions of the joints"),
    "joint_pos_rel": StandardFunction(JOINTS, "rad or m", None, "positions of the joints from their default positions"),
    "joint_vel": StandardFunction(JOINTS, "rad/s or m/s", None, "velocities of the joints"),
    "joint_vel_rel": StandardFunction(JOINTS, "rad/s or m/s", None, "velocities of the joints from their default ones"),
    "joint_effort": StandardFunction(JOINTS, "N·m or N", None, "efforts of the joints"),
    "last_action": StandardFunction(ACTIONS, "1", None, "action of the step before, as the network gave it"),
}


def env_terms(env: Mapping[str, Any], group: str, size: int, num_actions: int) -> tuple[TermMeaning, ...]:
    """Return the terms of a group; those between two of unknown size have no known place and become one slice.

    Args:
        env: the dump.
        group: name of the observation group.
        size: numbers of the group.
        num_actions: numbers of the action.

    Raises:
        CheckpointError: the terms do not make the group's size, or cannot be understood.
    """
    listed = policy_terms(env, group)
    if not listed:
        return ()
    sizes = [_size(term, env, num_actions) for term in listed]
    unknown = [index for index, found in enumerate(sizes) if found is None]
    known = sum(found * term.history for found, term in zip(sizes, listed, strict=True) if found is not None)
    told = ", ".join(
        f"{term.name} {'?' if found is None else found * term.history}"
        for found, term in zip(sizes, listed, strict=True)
    )
    if known > size or (not unknown and known != size):
        raise CheckpointError(
            f"{ENV_FILE}: the terms of observations.{group} ({told}) make {known} numbers, but this policy reads "
            f"{size}; give the checkpoint of this run"
        )
    if len(unknown) == 1:
        rest = size - known
        if rest % listed[unknown[0]].history or rest == 0:
            raise CheckpointError(f"{ENV_FILE}: the terms of observations.{group} ({told}) cannot make {size} numbers")
        sizes[unknown[0]] = rest // listed[unknown[0]].history
        unknown = []
    return _placed(listed, sizes, unknown, size)


def policy_terms(env: Mapping[str, Any], group: str) -> list[EnvTerm]:
    """Return the terms of a group as `read_terms`, each of whose histories is one slice.

    Raises:
        CheckpointError: they cannot be understood, or histories are laid out step by step instead of term by term.
    """
    listed = read_terms(env, group)
    for term in listed:
        if term.history < 1:
            raise CheckpointError(f"{term.where}.history_length is no whole number")
    if mapping(env, "observations", group).get("history_order") == "time" and any(t.history > 1 for t in listed):
        raise CheckpointError(
            f"{ENV_FILE}: observations.{group}.history_order is 'time', which lays out all terms of one step after "
            "another; supported are histories term by term ('term')"
        )
    return listed


def group_size(env: Mapping[str, Any], group: str, num_actions: int | None) -> int | None:
    """Return the numbers of a group, None where the dump does not tell."""
    listed = read_terms(env, group)
    if num_actions is None:
        num_actions = env_num_actions(env)
    total = 0
    for term in listed:
        found = None if num_actions is None else _size(term, env, num_actions)
        if found is None or term.history < 1:
            return None
        total += found * term.history
    return total or None


def env_num_actions(env: Mapping[str, Any]) -> int | None:
    """Return how many actions the dump's terms name one by one, None where they are patterns."""
    total = 0
    for term in mapping(env, "actions").values():
        names = mapping(term).get("joint_names")
        if not isinstance(names, (list, tuple)) or not _plain(names):
            return None
        total += len(names)
    return total or None


def _plain(names: Iterable[Any]) -> bool:
    return all(isinstance(name, str) and name.replace("_", "").isalnum() for name in names)


def _function(term: EnvTerm) -> tuple[str, StandardFunction] | None:
    for module in STANDARD_MODULES:
        if term.function.startswith(module):
            name = term.function.removeprefix(module)
            return None if name not in STANDARD_FUNCTIONS else (name, STANDARD_FUNCTIONS[name])
    return None


def _size(term: EnvTerm, env: Mapping[str, Any], num_actions: int) -> int | None:
    """Return the numbers of one step of a term, None where they are not known."""
    if isinstance(term.scale, tuple):
        return len(term.scale)
    if term.quantities is not None:
        return term.size
    command = mapping(env, "commands", str(term.params.get("command_name")))
    if term.function.endswith(":generated_commands") and _VELOCITY_COMMAND in str(command.get("class_type")):
        return 3
    found = _function(term)
    if found is None:
        return None
    size = found[1].size
    if size == ACTIONS:
        return None if term.params.get("action_name") else num_actions
    if size != JOINTS:
        return size
    names = mapping(term.params, "asset_cfg").get("joint_names")
    if isinstance(names, (list, tuple)) and _plain(names):
        return len(names)
    # All joints of the robot are as many as the actions where one term of these commands all of them.
    actions = list(mapping(env, "actions").values())
    every = (None, ".*", [".*"])
    all_driven = len(actions) == 1 and mapping(actions[0]).get("joint_names") in (".*", [".*"])
    return num_actions if names in every and all_driven else None


def _placed(
    listed: list[EnvTerm], sizes: Sequence[int | None], unknown: list[int], size: int
) -> tuple[TermMeaning, ...]:
    first, last = (unknown[0], unknown[-1] + 1) if unknown else (len(listed), len(listed))
    known = [(term, 0 if found is None else found) for term, found in zip(listed, sizes, strict=True)]
    terms: list[TermMeaning] = []
    for term, found in known[:first]:
        terms.append(_meaning(term, found, terms[-1].stop if terms else 0))
    after = known[last:]
    start, stop = terms[-1].stop if terms else 0, size - sum(found * term.history for term, found in after)
    if middle := listed[first:last]:
        why = ", ".join(term.function for term in middle)
        note = f"{ENV_FILE} lists them; their sizes are not known to deploy-kit ({why})"
        name = " + ".join(term.name for term in middle)
        terms.append(unknown_term(name, start, stop, note, f"{ENV_FILE}: observations.{middle[0].group}"))
    for term, found in after:
        terms.append(_meaning(term, found, terms[-1].stop))
    return tuple(terms)


def unknown_term(name: str, start: int, stop: int, note: str | None, source: str | None) -> TermMeaning:
    """Return a slice of which nothing but its place is known."""
    nothing = (None,) * 3
    return TermMeaning(name, start, stop, 1, *nothing, note, None, False, None, None, None, None, None, source)


def _meaning(term: EnvTerm, size: int, start: int) -> TermMeaning:
    found = _function(term)
    name, known = (None, None) if found is None or term.modified else found
    quantity = None if term.quantities is None or len(term.quantities) != 1 else term.quantities[0]
    scale = (term.scale,) * size if isinstance(term.scale, float) else term.scale
    description = None if known is None else known.description
    if known is None and term.quantities is not None and not term.modified:
        description = "; ".join(item.description for item in term.quantities)
    return TermMeaning(
        name=term.name,
        start=start,
        stop=start + size * term.history,
        history=term.history,
        quantity=LAST_ACTION if name == LAST_ACTION else name or (None if quantity is None else quantity.name),
        unit=known.unit if known is not None else None if quantity is None else quantity.unit,
        frame=known.frame if known is not None else None if quantity is None else quantity.frame,
        description=description,
        components=None,
        joints=False,
        offset=None,
        clip=term.clip,
        scale=scale,
        low=None,
        high=None,
        source=f"{term.where} ({term.function.rpartition(':')[2]})",
    )


def env_actions(env: Mapping[str, Any], agent: Mapping[str, Any] | None, num_actions: int) -> ActionMeaning:
    """Return what the dump and the agent's settings say of the actions.

    Raises:
        CheckpointError: a number is none.
    """
    listed = {str(name): mapping(term) for name, term in mapping(env, "actions").items()}
    term = next(iter(listed.values())) if len(listed) == 1 else {}
    kind = str(term.get("class_type", "")).rpartition(":")[2].removesuffix("Action")
    quantities = {
        "JointPosition": ("joint position target", "rad or m"),
        "JointVelocity": ("joint velocity target", "rad/s or m/s"),
        "JointEffort": ("joint effort", "N·m or N"),
    }
    quantity, unit = quantities.get(kind, (None, None))
    affine = quantity is not None
    names = term.get("joint_names")
    named = affine and isinstance(names, (list, tuple)) and _plain(names) and len(names) == num_actions
    # Isaac Lab puts named joints into the robot's own order unless it is told to keep theirs.
    keeps = bool(named and (term.get("preserve_order") or num_actions == 1))
    scale = _each(term.get("scale"), num_actions) if affine else None
    offset = _each(term.get("offset"), num_actions) if affine and not term.get("use_default_offset") else None
    limit, limit_source = action_limit(agent)
    where = ", ".join(f"actions.{name}" for name in listed)
    return ActionMeaning(
        names=tuple(names) if keeps and isinstance(names, (list, tuple)) else None,
        joints=keeps,
        quantity=quantity,
        unit=unit,
        limit=limit,
        limit_source=limit_source,
        scale=scale,
        offset=offset,
        clip=None,
        default_positions=None,
        stiffness=_gain(env, "stiffness", num_actions) if affine else None,
        damping=_gain(env, "damping", num_actions) if affine else None,
        source=f"{ENV_FILE}: {where}" if listed else None,
    )


def action_limit(agent: Mapping[str, Any] | None) -> tuple[float | None, str | None]:
    """Return Isaac Lab's limit of the actions' size with its source; the source is None where nothing says.

    Raises:
        CheckpointError: it is no number.
    """
    if agent is None or "clip_actions" not in agent:
        return None, None
    value = agent["clip_actions"]
    limit = finite(value)
    if value is not None and (limit is None or limit <= 0):
        raise CheckpointError(f"{AGENT_FILE}: clip_actions is {value!r}, not a number above 0 or null")
    return limit, AGENT_FILE


def _each(value: Any, size: int) -> tuple[float, ...] | None:
    number = finite(value)
    return None if number is None else (number,) * size


def _gain(env: Mapping[str, Any], name: str, size: int) -> tuple[float, ...] | None:
    """Return the gain of the robot's drives where one number holds for all of them."""
    drives = [mapping(drive) for drive in mapping(env, "scene", "robot", "actuators").values()]
    return _each(drives[0].get(name), size) if len(drives) == 1 else None


def env_timing(env: Mapping[str, Any]) -> TaskTiming:
    """Return the clock. A task may delay its actions itself, which the dump does not say: the latency is unknown."""
    physics, decimation = finite(mapping(env.get("sim")).get("dt")), finite(env.get("decimation"))
    known = physics is not None and physics > 0, decimation is not None and decimation >= 1
    period = physics * decimation if physics and decimation and all(known) else None
    return TaskTiming(
        policy_period_s=None if period is None else SourcedNumber(period, "s", f"{ENV_FILE}: sim.dt times decimation"),
        physics_period_s=SourcedNumber(physics, "s", f"{ENV_FILE}: sim.dt") if known[0] and physics else None,
        decimation=SourcedNumber(decimation, "1", f"{ENV_FILE}: decimation") if known[1] and decimation else None,
        action_latency_steps=None,
    )
