"""The vehicle's numbers: what scales the network's action, and how fast the policy runs.

A number comes from a file that the user gives, else from the run's ``params/env.yaml``, else from the record in the
checkpoint, else from a task that is known by name. There is no default. A file wins over the others, and what it
overrides is recorded; run, record and task that contradict each other are an error.
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy_kit.errors import CheckpointError, MissingParametersError, OptionError
from deploy_kit.policy.run.env_file import AGENT_FILE, ENV_FILE, finite, same_number
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle_env import env_number
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import DEPTH_RANGE_M, RACING_TASK, TASK_ID
from deploy_kit.yaml_file import read_yaml

KNOWN_TASKS: dict[str, dict[str, Any]] = {
    TASK_ID: {
        "max_thrust_to_weight": RACING_TASK.controller.max_thrust_to_weight,
        "max_body_rate": (RACING_TASK.controller.max_body_rate,) * 3,
        "gravity": RACING_TASK.gravity,
        "policy_period_s": RACING_TASK.clock.policy_dt,
        "depth_period_s": RACING_TASK.clock.camera_period,
        "action_latency_steps": RACING_TASK.clock.action_delay,
        "depth_range_m": DEPTH_RANGE_M,
        "mass_kg": RACING_TASK.airframe.mass,
    }
}
"""Numbers of the tasks that are known by name."""

REQUIRED = (
    "max_thrust_to_weight",
    "max_body_rate",
    "gravity",
    "policy_period_s",
    "depth_period_s",
    "action_latency_steps",
)
"""Numbers without which a policy cannot be deployed."""

KEYS = (*REQUIRED, "depth_range_m", "mass_kg")
"""Keys of a vehicle file."""

CHECKPOINT, TASK = "checkpoint", "task"
"""Sources of numbers: the record in the checkpoint, and the task that is named; see also `ENV_FILE`."""

ASSUMED = "assumed"
"""Source of numbers that deploy-kit flies the task with and that nothing of the training tells."""

_ASSUMED_OF_TASK = ("mass_kg",)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vehicle:
    """Numbers of the vehicle and its loop, with the source of each.

    Attributes:
        max_thrust_to_weight: collective thrust over weight at action tanh = 1, dimensionless.
        max_body_rate: body rates x, y, z at action tanh = 1, rad/s.
        gravity: gravity that turns thrust over weight into thrust over mass, m/s².
        policy_period_s: time between two actions, s.
        depth_period_s: least age at which a depth image is replaced, s.
        action_latency_steps: policy steps between an action and the step in which it acts.
        depth_range_m: depth at which the policy's image is clipped and by which it is divided, m; None where unknown.
        mass_kg: nominal mass, None where unknown; the command itself does not depend on it.
        clip_actions: largest size of an action; larger ones are cut to it. None for no limit and where it is unknown,
            which `sources` tells apart.
        sources: for each number that is known "task", "checkpoint", "assumed", "params/env.yaml", "params/agent.yaml"
            or "file:NAME".
        overridden: for each number that a file replaced, what the run, checkpoint or task said, for a human.
    """

    max_thrust_to_weight: float
    max_body_rate: tuple[float, float, float]
    gravity: float
    policy_period_s: float
    depth_period_s: float
    action_latency_steps: int
    depth_range_m: float | None = None
    mass_kg: float | None = None
    clip_actions: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    overridden: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Sources of the numbers that are required, joined with " + " where there are several."""
        return " + ".join(dict.fromkeys(self.sources[name] for name in REQUIRED))

    @property
    def action_transform(self) -> ActionTransform:
        """Transform from the network's action to thrust over mass (m/s²) and body rates (rad/s)."""
        return ActionTransform.from_limits(
            self.max_thrust_to_weight, self.max_body_rate, self.gravity, self.clip_actions
        )


def resolve_vehicle(params: RunParams, task: str | None = None, vehicle_file: Path | None = None) -> Vehicle:
    """Collect the vehicle's numbers.

    Args:
        params: the run's parameters.
        task: task id, as given with ``--task``; one that is not known by name adds nothing.
        vehicle_file: YAML or JSON with any of `KEYS`, as given with ``--vehicle``.

    Raises:
        MissingParametersError: if a required number is unknown.
        OptionError: if the file is not valid, or run, record and task contradict each other.
        CheckpointError: if the run's env.yaml or the checkpoint's record holds numbers that cannot be understood.
    """
    of_file = {} if vehicle_file is None else read_vehicle_file(vehicle_file)
    numbers: dict[str, Any] = {}
    sources: dict[str, str] = {}
    overridden: dict[str, str] = {}
    for name in KEYS:
        if vehicle_file is not None and name in of_file:
            numbers[name], sources[name] = of_file[name], f"file:{vehicle_file.name}"
            if note := _overridden(name, of_file[name], params, task):
                overridden[name] = note
                _logger.warning("%s: %s says %s, which replaces what %s", name, vehicle_file, of_file[name], note)
            continue
        known = _known_numbers(name, params, task)
        for other, number in known[1:]:
            if not same_number(known[0][1], number):
                raise OptionError(_contradiction(name, known[0], (other, number), task))
        if known:
            sources[name], numbers[name] = known[0]
            if name in _ASSUMED_OF_TASK and sources[name] in (CHECKPOINT, TASK):
                sources[name] = ASSUMED
    if (clip := _clip_actions(params, task)) is not None:
        numbers["clip_actions"], sources["clip_actions"] = clip
    if missing := [name for name in REQUIRED if name not in numbers]:
        raise MissingParametersError(_missing_message(missing, task))
    return Vehicle(**numbers, sources=sources, overridden=overridden)


def named_task(params: RunParams, task: str | None) -> tuple[str | None, str]:
    """Return the task that is known by name and where it is named: in the checkpoint's record, else by the user."""
    recorded = recorded_task(params)
    return (recorded, CHECKPOINT) if recorded in KNOWN_TASKS else (task, TASK)


def _clip_actions(params: RunParams, task: str | None) -> tuple[float | None, str] | None:
    """Return Isaac Lab's limit of the actions, which the agent's settings hold, with its source; None if unknown."""
    if params.agent is None or "clip_actions" not in params.agent:
        known, source = named_task(params, task)
        return (None, source) if known in KNOWN_TASKS else None
    value = params.agent["clip_actions"]
    limit = finite(value)
    if value is not None and (limit is None or limit <= 0):
        raise CheckpointError(f"{AGENT_FILE}: clip_actions is {value!r}, not a number above 0 or null")
    return limit, AGENT_FILE


def _missing_message(missing: list[str], task: str | None) -> str:
    message = f"the vehicle's {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} unknown: give --vehicle FILE"
    if task is None:
        return f"{message} with these keys, or --task (known: {', '.join(KNOWN_TASKS)})"
    near = difflib.get_close_matches(task, KNOWN_TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known is {', '.join(KNOWN_TASKS)}"
    return f"{message} with these keys (task {task} is not known by name; {hint})"


def _known_numbers(name: str, params: RunParams, task: str | None) -> list[tuple[str, Any]]:
    """Return what run, checkpoint and task say of a number, each with its source, in the order in which they count."""
    found = (
        (ENV_FILE, None if params.env is None else env_number(params.env, name)),
        (CHECKPOINT, _recorded_numbers(params).get(name)),
        (TASK, KNOWN_TASKS.get(task or "", {}).get(name)),
    )
    return [(source, number) for source, number in found if number is not None]


def _contradiction(name: str, one: tuple[str, Any], other: tuple[str, Any], task: str | None) -> str:
    calls = {ENV_FILE: ENV_FILE, CHECKPOINT: "the vehicle recorded in the checkpoint", TASK: f"task {task}"}
    advice = "leave out --task, or decide with --vehicle FILE" if other[0] == TASK else "decide with --vehicle FILE"
    return f"{name}: {calls[one[0]]} says {one[1]}, but {calls[other[0]]} says {other[1]}; {advice}"


def _overridden(name: str, value: Any, params: RunParams, task: str | None) -> str | None:
    """Say what would be used without the file's number, None if it is the same or nothing."""
    try:
        known = _known_numbers(name, params, task)
    except CheckpointError as error:
        return f"could not be read ({error})"
    if not known or same_number(known[0][1], value):
        return None
    source, other = known[0]
    return f"{source if source == ENV_FILE else f'the {source}'} says: {other}"


def vehicle_record(task: str) -> dict[str, Any]:
    """Return the vehicle of a task that is known by name, as it is recorded in a checkpoint."""
    return {"task": task, "numbers": dict(KNOWN_TASKS[task])}


def recorded_task(params: RunParams) -> str | None:
    """Return the task of the vehicle that is recorded in a checkpoint, None where there is none."""
    record = params.recorded_vehicle
    task = record.get("task") if isinstance(record, dict) else None
    return task if isinstance(task, str) else None


def _recorded_numbers(params: RunParams) -> dict[str, Any]:
    record = params.recorded_vehicle
    if record is None:
        return {}
    numbers = record.get("numbers") if isinstance(record, dict) else None
    where = "the vehicle recorded in the checkpoint"
    if not isinstance(numbers, dict) or not set(numbers) <= set(KEYS):
        raise CheckpointError(f"{where} is no record that deploy-kit wrote; give the numbers with --vehicle FILE")
    try:
        return {key: _check_vehicle_value(where, key, value) for key, value in numbers.items()}
    except OptionError as error:
        raise CheckpointError(f"{error}; give the numbers with --vehicle FILE") from error


def describe_vehicle_file(path: Path) -> dict[str, Any]:
    """Return a vehicle file's numbers, and which of `REQUIRED` it leaves to the run or the task.

    Raises:
        OptionError: the file is not valid.
    """
    numbers = read_vehicle_file(path)
    return {"path": str(path), "numbers": numbers, "left_to_run_or_task": [n for n in REQUIRED if n not in numbers]}


def read_vehicle_file(path: Path) -> dict[str, Any]:
    """Return the numbers of a vehicle file, by the names in `KEYS`.

    Raises:
        OptionError: a key is unknown, a value out of range, or the file cannot be read.
    """
    data = read_yaml(path, OptionError)
    numbers: dict[str, Any] = {}
    for key, value in data.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            raise OptionError(f"{path}: unknown key {key!r}; {hint}")
        numbers[key] = _check_vehicle_value(path, key, value)
    return numbers


def _check_vehicle_value(path: Path | str, key: str, value: Any) -> Any:
    if key == "action_latency_steps":
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise OptionError(f"{path}: {key} is {value!r}, not a whole number of at least 0")
        return value
    several = key == "max_body_rate" and isinstance(value, (list, tuple))
    values = [finite(item) for item in (value if several else [value])]
    if (several and len(values) != 3) or any(number is None or number <= 0 for number in values):
        wanted = "a number above 0, or three of them" if key == "max_body_rate" else "a number above 0"
        raise OptionError(f"{path}: {key} is {value!r}, not {wanted}")
    if key == "max_body_rate":
        return tuple(values if several else values * 3)
    return values[0]
