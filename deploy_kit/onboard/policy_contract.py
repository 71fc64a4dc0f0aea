"""The part of any policy's contract that the runner acts on: groups, terms, joints, memory, actions, head."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .detector import DetectorRule, slope_of
from .faults import Fault, OnboardFault
from .strict_json import strict_json

POLICY_CONTRACT_VERSION = 1
LAST_ACTION = "last_action"
"""Quantity of the terms that hold the action of the step before, which the runner fills in itself."""

_MOST_NUMBERS = 1 << 24

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One term of an observation group.

    Attributes:
        name: the key under which `step` takes its value: the contract's name, after its group's where several groups
            have a term of that name.
        group: observation group.
        start: first index within the group.
        size: numbers of one step.
        history: steps that the group holds, the oldest first.
        joints: joint of each number, None where the numbers are no joints.
        unit: SI unit, None where unknown.
        offset: (size,) added first.
        low: (size,) smallest number to be expected, in `unit`; −inf where unknown.
        high: (size,) largest likewise.
        clip: bounds after the offset.
        scale: (size,) factors after the clip.
        own: whether the runner fills it in: the action of the step before.
    """

    name: str
    group: str
    start: int
    size: int
    history: int
    joints: tuple[str, ...] | None
    unit: str | None
    offset: Float64
    low: Float64
    high: Float64
    clip: tuple[float, float]
    scale: Float64
    own: bool


@dataclass(frozen=True)
class Actions:
    """From the graph's actions to commands, ``clip(clamp(action, limit) * scale + offset)``.

    Attributes:
        names: name of each action, None where unknown.
        joints: whether the names are joints.
        limit: largest size of an action, inf for none.
        scale: (n,), None where unknown; then there are no commands.
        offset: (n,), None likewise.
        low: (n,) smallest command.
        high: (n,) largest command.
    """

    names: tuple[str, ...] | None
    joints: bool
    limit: float
    scale: Float64 | None
    offset: Float64 | None
    low: Float64
    high: Float64


@dataclass(frozen=True)
class PolicyOnboardContract:
    """What the runner acts on.

    Attributes:
        text: the whole contract, parsed JSON.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        groups: observation groups by name with their shapes, in the order of the inputs.
        state: (layers, hidden) of each tensor of the memory, in the order of the inputs.
        terms: terms of the groups that have any; the others are given whole, under the group's name.
        num_actions: numbers of an action.
        actions: what they do.
        head: whether the graph gives the head's logit.
        detector: announces events; None if the head was not calibrated.
        policy_period_s: time between two steps; None where unknown.
    """

    text: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    groups: dict[str, tuple[int, ...]]
    state: tuple[tuple[int, int], ...]
    terms: tuple[Term, ...]
    num_actions: int
    actions: Actions
    head: bool
    detector: DetectorRule | None
    policy_period_s: float | None

    @property
    def joints(self) -> tuple[str, ...]:
        """All joints that terms and actions name, each once."""
        named = [term.joints for term in self.terms if term.joints is not None]
        if self.actions.joints and self.actions.names is not None:
            named.append(self.actions.names)
        return tuple(dict.fromkeys(name for names in named for name in names))


_UNUSABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError)


def is_policy_contract(text: str) -> bool:
    """Return whether a contract says that it is of kind "policy"; false for what cannot be read."""
    try:
        data = strict_json(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("kind") == "policy"


def parse_policy_contract(text: str) -> PolicyOnboardContract:
    """Return the runner's part of a contract of kind "policy".

    Raises:
        OnboardFault: another kind or schema version, or a field is missing or unusable.
    """
    try:
        data = strict_json(text)
        kind, version = data.get("kind"), data["schema_version"]
    except (*_UNUSABLE, RecursionError) as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json cannot be read ({error!r})") from error
    if kind != "policy":
        raise OnboardFault(
            Fault.CONTRACT_INVALID, "contract.json is the racing policy's: fly it with OnboardPolicy, not TermPolicy"
        )
    if version != POLICY_CONTRACT_VERSION:
        raise OnboardFault(
            Fault.CONTRACT_VERSION,
            f"contract.json has schema version {version!r}, this runner reads {POLICY_CONTRACT_VERSION}: make the "
            "bundle anew with deploy-kit export, or copy the runner of the deploy-kit that wrote it",
        )
    try:
        return _parse(data)
    except _UNUSABLE as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json has an unusable field ({error!r})") from error


def _parse(data: dict[str, Any]) -> PolicyOnboardContract:
    batch = data["inputs"][0]["shape"][0]
    if batch not in ("batch", 1):
        raise ValueError(f"the graph takes batches of {batch}; export with --batch-size 1 or dynamic")
    groups = {str(group["name"]): tuple(map(_count, group["shape"])) for group in data["groups"]}
    if not groups or sum(math.prod(shape) for shape in groups.values()) > _MOST_NUMBERS:
        raise ValueError("the observation groups are none, or too large")
    num_actions, head, task = _count(data["network"]["num_actions"]), data["head"], data.get("task")
    terms = [] if task is None else [term for group in task["groups"] for term in _terms(group, groups, num_actions)]
    terms = _named_apart(terms, [name for name in groups if all(term.group != name for term in terms)])
    timing = None if task is None else task["timing"]["policy_period_s"]
    period = float(timing["value"]) if timing is not None else None if head is None else head["policy_period_s"]
    if period is not None and not 0 < period < math.inf:
        raise ValueError(f"policy_period_s is {period}, not a number above 0")
    return PolicyOnboardContract(
        text=data,
        inputs=tuple(str(item["name"]) for item in data["inputs"]),
        outputs=tuple(str(item["name"]) for item in data["outputs"]),
        groups=groups,
        state=tuple((_count(item["layers"]), _count(item["hidden"])) for item in data["state"]),
        terms=tuple(terms),
        num_actions=num_actions,
        actions=_actions(None if task is None else task["actions"], num_actions),
        head=head is not None,
        detector=None if head is None or head["detector"] is None else _detector(head["detector"]),
        policy_period_s=None if period is None else float(period),
    )


def _named_apart(terms: list[Term], whole: list[str]) -> list[Term]:
    """Return the terms with "group.term" as the names of those that several groups have, or a group given whole."""
    names = [*(term.name for term in terms), *whole]
    apart = [replace(term, name=f"{term.group}.{term.name}") if names.count(term.name) > 1 else term for term in terms]
    keys = [*(term.name for term in apart), *whole]
    if len(set(keys)) < len(keys):
        raise ValueError("two terms of a group have one name")
    return apart


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_NUMBERS:
        raise ValueError(f"a size is {value!r}")
    return value


def _terms(data: dict[str, Any], groups: dict[str, tuple[int, ...]], num_actions: int) -> list[Term]:
    group, terms, stop = str(data["name"]), [], 0
    for item in data["terms"]:
        history, start = _count(item["history"]), item["start"]
        size, rest = divmod(_count(item["stop"] - start), history)
        if start != stop or rest:
            raise ValueError(f"the terms of {group} do not tile it")
        stop = item["stop"]
        named = item["components"] if item["joints"] else None
        joints = None if named is None else tuple(str(name) for name in named)
        if joints is not None and len(set(joints)) != size:
            raise ValueError(f"term {item['name']} names {len(joints)} joints for {size} numbers")
        own = item["quantity"] == LAST_ACTION
        if own and size != num_actions:
            raise ValueError(f"term {item['name']} has {size} numbers, the action {num_actions}")
        low, high = item["clip"] if item["clip"] is not None else (-math.inf, math.inf)
        terms.append(
            Term(
                name=str(item["name"]),
                group=group,
                start=start,
                size=size,
                history=history,
                joints=joints,
                unit=item["unit"],
                offset=_numbers(item["offset"], size, 0.0),
                low=_numbers(item["low"], size, -math.inf),
                high=_numbers(item["high"], size, math.inf),
                clip=(float(low), float(high)),
                scale=_numbers(item["scale"], size, 1.0),
                own=own,
            )
        )
    if terms and groups[group] != (stop,):
        raise ValueError(f"the terms of {group} make {stop} numbers, the group has {groups[group]}")
    return terms


def _numbers(value: Any, size: int, unknown: float) -> Float64:
    if value is None:
        return np.full(size, unknown)
    numbers = np.array(value, np.float64)
    if numbers.shape != (size,) or not np.isfinite(numbers).all():
        raise ValueError(f"{value!r:.60} is not {size} finite numbers")
    return numbers


def _actions(data: dict[str, Any] | None, size: int) -> Actions:
    nothing = np.full(size, -math.inf), np.full(size, math.inf)
    if data is None:
        return Actions(None, False, math.inf, None, None, *nothing)
    names = None if data["names"] is None else tuple(str(name) for name in data["names"])
    if names is not None and len(set(names)) != size:
        raise ValueError(f"the actions have {len(names)} names for {size} numbers")
    low, high = nothing
    if data["clip"] is not None:
        low, high = np.array(data["clip"], np.float64).reshape(size, 2).T
    limit = math.inf if data["limit"] is None else float(data["limit"])
    if not limit > 0 or not (low <= high).all():
        raise ValueError(f"the actions' limit is {limit}, or a clip is no range")
    known = data["scale"] is not None and data["offset"] is not None
    return Actions(
        names=names,
        joints=bool(data["joints"]) and names is not None,
        limit=limit,
        scale=_numbers(data["scale"], size, 1.0) if known else None,
        offset=_numbers(data["offset"], size, 0.0) if known else None,
        low=low,
        high=high,
    )


def _detector(detector: dict[str, Any]) -> DetectorRule:
    threshold, release = float(detector["threshold_logit"]), float(detector["release_logit"])
    refractory = int(detector["refractory_steps"])
    # Written so that NaN is refused too.
    if not -math.inf < release <= threshold < math.inf or refractory < 0:
        raise ValueError(f"the detector's threshold {threshold}, release {release}, refractory steps {refractory}")
    return DetectorRule(threshold, release, refractory, slope_of(detector, probability=False))
