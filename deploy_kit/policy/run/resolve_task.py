"""One meaning of a policy's observations and actions out of all that its run says, or a refusal where that differs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.run.env_file import ENV_FILE, same_number
from deploy_kit.policy.run.env_interface import (
    action_limit,
    env_actions,
    env_num_actions,
    env_terms,
    env_timing,
    group_size,
    policy_terms,
    unknown_term,
)
from deploy_kit.policy.run.interface_file import TIMING_UNITS, TaskInterface, read_interface
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.task_meaning import (
    INTERFACE_FILE,
    ActionMeaning,
    GroupMeaning,
    TaskMeaning,
    TaskTiming,
    TermMeaning,
)

Groups = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes (without batch) of the observation groups that a policy reads."""


def resolve_task_meaning(params: RunParams, groups: Groups, num_actions: int) -> TaskMeaning | None:
    """Return what observations and actions mean, None where the run says nothing.

    ``params/interface.yaml`` says most. ``params/env.yaml`` fills in what it leaves open, and must agree with the rest.

    Args:
        params: the run's parameters.
        groups: what the policy reads.
        num_actions: numbers of the action.

    Raises:
        CheckpointError: the files contradict each other or the policy's sizes, or cannot be understood.
    """
    interface = None if params.interface is None else read_interface(params.interface)
    if interface is None and params.env is None:
        return None
    if interface is not None and interface.groups and not {name for name, _ in groups} & set(interface.groups):
        raise CheckpointError(
            f"params/interface.yaml describes the observation groups {', '.join(interface.groups)}, and the policy "
            f"reads {', '.join(name for name, _ in groups)}"
        )
    meanings = tuple(
        GroupMeaning(name, _group(params, interface, name, shape[0], num_actions) if len(shape) == 1 else ())
        for name, shape in groups
    )
    return TaskMeaning(meanings, _actions(params, interface, num_actions), _timing(params, interface))


def run_timing(params: RunParams) -> TaskTiming:
    """Return the task's clock, as far as the run's files tell.

    Raises:
        CheckpointError: the files contradict each other, or cannot be understood.
    """
    return _timing(params, None if params.interface is None else read_interface(params.interface))


def group_shapes(params: RunParams) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the observation groups that the run's files tell, without the batch.

    Raises:
        CheckpointError: a file cannot be understood.
    """
    found: dict[str, tuple[int, ...]] = {}
    env = params.env or {}
    observations = env.get("observations")
    for name in observations if isinstance(observations, Mapping) else ():
        if (size := group_size(env, str(name), env_num_actions(env))) is not None:
            found[str(name)] = (size,)
    if params.interface is not None:
        for name, terms in read_interface(params.interface).groups.items():
            found[name] = (terms[-1].stop,)
    return found


def require_same_interface(params: RunParams, live: Mapping[str, Any], task: str) -> None:
    """Check that a task that describes itself is the one that the policy was trained in, as its run tells.

    Args:
        params: the run's parameters.
        live: what the task says, as an interface file holds it.
        task: the task's name, for messages.

    Raises:
        CheckpointError: terms or joints are others or stand in another order, or are scaled otherwise.
    """
    here = read_interface(live, f"task {task}")
    if params.env is not None:
        for name, terms in here.groups.items():
            _require_env_agrees(params.env, name, terms, f"task {task}")
    if params.interface is None:
        return
    there = read_interface(params.interface)
    for name, terms in here.groups.items():
        if name in there.groups:
            _require_same_terms(f"task {task}: observations.{name}", terms, INTERFACE_FILE, there.groups[name])
    if here.actions is not None and there.actions is not None:
        _require_same_actions(f"task {task}", here.actions, INTERFACE_FILE, there.actions)


def _group(
    params: RunParams, interface: TaskInterface | None, name: str, size: int, num_actions: int
) -> tuple[TermMeaning, ...]:
    told = () if interface is None else interface.groups.get(name, ())
    if told:
        if told[-1].stop != size:
            sizes = ", ".join(f"{term.name} {term.stop - term.start}" for term in told)
            raise CheckpointError(
                f"{INTERFACE_FILE}: the terms of observations.{name} ({sizes}) make {told[-1].stop} numbers, but this "
                f"policy reads {size}; give the checkpoint of this run"
            )
        if params.env is not None:
            _require_env_agrees(params.env, name, told, INTERFACE_FILE)
        return told
    of_env = () if params.env is None else env_terms(params.env, name, size, num_actions)
    return of_env or (unknown_term(name, 0, size, None, None),)


def _require_env_agrees(env: Mapping[str, Any], group: str, terms: Sequence[TermMeaning], where: str) -> None:
    listed = policy_terms(env, group)
    if not listed:
        return
    ours, theirs = [term.name for term in terms], [term.name for term in listed]
    _require_same_names(f"{where}: observations.{group}", ours, ENV_FILE, theirs, "terms")
    for term, other in zip(terms, listed, strict=True):
        scale = other.scale if not isinstance(other.scale, float) else (other.scale,) * term.size
        for key, one, two in (
            ("history", term.history, other.history),
            ("clip", term.clip, other.clip),
            ("scale", term.scale, scale),
        ):
            if not _same(one, two):
                raise CheckpointError(
                    f"{where}: observations.{group}.{term.name} has {key} {_shown(one)}, {ENV_FILE} {_shown(two)}"
                )


def _require_same_terms(where: str, ours: Sequence[TermMeaning], other: str, theirs: Sequence[TermMeaning]) -> None:
    _require_same_names(where, [term.name for term in ours], other, [term.name for term in theirs], "terms")
    for one, two in zip(ours, theirs, strict=True):
        if one.components is not None and two.components is not None:
            _require_same_names(f"{where}.{one.name}", one.components, other, two.components, "components")
        for key in ("size", "history", "unit", "offset", "clip", "scale"):
            if not _same(getattr(one, key), getattr(two, key)):
                raise CheckpointError(
                    f"{where}.{one.name} has {key} {_shown(getattr(one, key))}, in {other} it is "
                    f"{_shown(getattr(two, key))}"
                )


def _require_same_actions(where: str, ours: ActionMeaning, other: str, theirs: ActionMeaning) -> None:
    what = "joints" if ours.joints else "actions"
    if ours.names is not None and theirs.names is not None:
        _require_same_names(f"{where}: actions", ours.names, other, theirs.names, what)
    for key in ("quantity", "unit", "scale", "offset", "clip"):
        one, two = getattr(ours, key), getattr(theirs, key)
        if not _same(one, two):
            raise CheckpointError(f"{where}: actions have {key} {_shown(one)}, in {other} it is {_shown(two)}")


def _require_same_names(where: str, ours: Sequence[str], other: str, theirs: Sequence[str], what: str) -> None:
    if list(ours) == list(theirs):
        return
    if sorted(ours) == sorted(theirs):
        place = next(index for index, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two)
        raise CheckpointError(
            f"{where}: the {what} stand in another order than in {other}: first at place {place}, {ours[place]} "
            f"against {theirs[place]} ({', '.join(ours)}; {other}: {', '.join(theirs)})"
        )
    raise CheckpointError(f"{where} has the {what} {', '.join(ours)}, {other} has {', '.join(theirs)}")


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, (int, float)) and isinstance(two, (int, float)):
        return same_number(float(one), float(two))
    return bool(one == two)


def _shown(value: Any) -> str:
    text = "none" if value is None else f"{list(value) if isinstance(value, tuple) else value}"
    return text if len(text) <= 80 else text[:77] + "…"


def _actions(params: RunParams, interface: TaskInterface | None, num_actions: int) -> ActionMeaning:
    told = None if interface is None else interface.actions
    if told is None:
        return env_actions(params.env or {}, params.agent, num_actions)
    assert told.names is not None
    if len(told.names) != num_actions:
        raise CheckpointError(
            f"{INTERFACE_FILE}: actions has {len(told.names)} names ({', '.join(told.names)}), this policy gives "
            f"{num_actions} actions; give the checkpoint of this run"
        )
    if params.env is not None:
        of_env = env_actions(params.env, params.agent, num_actions)
        for key in ("names", "scale", "offset"):
            one, two = getattr(told, key), getattr(of_env, key)
            if one is not None and two is not None and not _same(one, two):
                raise CheckpointError(
                    f"{INTERFACE_FILE}: actions have {key} {_shown(one)}, in {ENV_FILE} it is {_shown(two)}"
                )
    limit, source = action_limit(params.agent)
    return ActionMeaning(**{**vars(told), "limit": limit, "limit_source": source})


def _timing(params: RunParams, interface: TaskInterface | None) -> TaskTiming:
    of_env = env_timing(params.env or {})
    if interface is None:
        return of_env
    found = {}
    for name in TIMING_UNITS:
        told, other = getattr(interface.timing, name), getattr(of_env, name)
        if told is not None and other is not None and not same_number(told.value, other.value):
            raise CheckpointError(f"{name}: {told.source} says {told.value:g}, but {other.source} says {other.value:g}")
        found[name] = told or other
    timing = TaskTiming(**found)
    period, physics, steps = timing.policy_period_s, timing.physics_period_s, timing.decimation
    if period and physics and steps and not math.isclose(period.value, physics.value * steps.value, rel_tol=0.01):
        raise CheckpointError(
            f"policy_period_s: {period.source} says {period.value:g}, but physics_period_s times decimation is "
            f"{physics.value * steps.value:g}"
        )
    return timing
