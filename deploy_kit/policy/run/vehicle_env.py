"""Vehicle numbers from Isaac Lab's dump of the training environment (``params/env.yaml``)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from deploy_kit.errors import CheckpointError

ENV_FILE = "params/env.yaml"
"""How messages and sources call the dump."""

_HINT = "give --vehicle FILE with the right number"


def finite(value: Any) -> float | None:
    """Return a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def same_number(a: Any, b: Any) -> bool:
    """Return whether two numbers, or two tuples of equal length, are equal but for rounding."""
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(math.isclose(x, y, rel_tol=1e-9) for x, y in pairs)


def env_number(env: Mapping[str, Any], name: str) -> Any | None:
    """Return one number of `vehicle.KEYS` from an environment's settings, None if they do not tell it.

    Raises:
        CheckpointError: if the setting is there and cannot be understood.
    """
    reader = _READERS.get(name)
    return None if reader is None else reader(env)


def _mapping(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _positive(value: Any, key: str) -> float:
    number = finite(value)
    if number is None or number <= 0:
        raise CheckpointError(f"{ENV_FILE}: {key} is {value!r}, not a number above 0; {_HINT}")
    return number


def _ctbr_action(env: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and settings of the one action term that commands thrust and body rates, empty if there is none."""
    terms = _mapping(dict(env), "actions").items()
    found = [(str(name), term) for name, term in terms if isinstance(term, dict) and "max_thrust_weight_ratio" in term]
    if not found:
        return "", {}
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise CheckpointError(f"{ENV_FILE}: several actions command a thrust ({names}); {_HINT}")
    name, term = found[0]
    command = term.get("command_type", "CTBRController")
    if command != "CTBRController":
        raise CheckpointError(
            f"{ENV_FILE}: actions.{name}.command_type is {command}; supported is CTBRController (thrust, body rates)"
        )
    return name, term


def _thrust_to_weight(env: Mapping[str, Any]) -> float | None:
    name, term = _ctbr_action(env)
    if not term:
        return None
    return _positive(term["max_thrust_weight_ratio"], f"actions.{name}.max_thrust_weight_ratio")


def _body_rate(env: Mapping[str, Any]) -> tuple[float, float, float] | None:
    name, term = _ctbr_action(env)
    bound = _mapping(term, "controller_cfg").get("body_rate_bound")
    if bound is None:
        return None
    numbers = [finite(item) for item in bound] if isinstance(bound, (list, tuple)) else []
    if len(numbers) == 2:
        low, high = numbers
        if low is not None and high is not None and high > 0 and same_number(-low, high):
            return high, high, high
    raise CheckpointError(
        f"{ENV_FILE}: actions.{name}.controller_cfg.body_rate_bound is {bound!r}, "
        f"not a symmetric pair (-limit, limit); {_HINT}"
    )


def _gravity(env: Mapping[str, Any]) -> float | None:
    """Return the gravity that the action, its controller and the simulation agree on."""
    name, term = _ctbr_action(env)
    found = {
        f"actions.{name}.gravity": term.get("gravity"),
        f"actions.{name}.controller_cfg.g": _mapping(term, "controller_cfg").get("g"),
    }
    vector = _mapping(env.get("sim")).get("gravity")
    if isinstance(vector, (list, tuple)) and len(vector) == 3:
        found["sim.gravity"] = math.hypot(*(_component(item) for item in vector))
    known = {key: _positive(value, key) for key, value in found.items() if value is not None}
    for key, value in known.items():
        first = next(iter(known))
        if not same_number(value, known[first]):
            raise CheckpointError(f"{ENV_FILE}: {first} is {known[first]}, but {key} is {value}; {_HINT}")
    return next(iter(known.values()), None)


def _component(value: Any) -> float:
    number = finite(value)
    if number is None:
        raise CheckpointError(f"{ENV_FILE}: sim.gravity holds {value!r}, not a number; {_HINT}")
    return number


def _policy_period(env: Mapping[str, Any]) -> float | None:
    step, decimation = _mapping(env.get("sim")).get("dt"), env.get("decimation")
    if step is None or decimation is None:
        return None
    return _positive(step, "sim.dt") * _positive(decimation, "decimation")


def _depth_period(env: Mapping[str, Any]) -> float | None:
    """Return the depth camera's period; Isaac Lab's 0 means a new image at every policy step."""
    cameras = {
        str(name): sensor["update_period"]
        for name, sensor in _mapping(env.get("scene")).items()
        if isinstance(sensor, dict)
        and "update_period" in sensor
        and "camera" in str(sensor.get("class_type", name)).lower()
    }
    if len(cameras) > 1:
        raise CheckpointError(f"{ENV_FILE}: several cameras in the scene ({', '.join(cameras)}); {_HINT}")
    for name, period in cameras.items():
        return _policy_period(env) if period == 0 else _positive(period, f"scene.{name}.update_period")
    return None


def _latency(env: Mapping[str, Any]) -> int | None:
    name, term = _ctbr_action(env)
    lag = term.get("action_lag")
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 0):
        raise CheckpointError(f"{ENV_FILE}: actions.{name}.action_lag is {lag!r}, not a whole number; {_HINT}")
    return lag


_READERS: dict[str, Callable[[Mapping[str, Any]], Any | None]] = {
    "max_thrust_to_weight": _thrust_to_weight,
    "max_body_rate": _body_rate,
    "gravity": _gravity,
    "policy_period_s": _policy_period,
    "depth_period_s": _depth_period,
    "action_latency_steps": _latency,
}
