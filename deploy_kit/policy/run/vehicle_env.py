"""Vehicle numbers from Isaac Lab's dump of the training environment (``params/env.yaml``)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from deploy_kit.errors import CheckpointError
from deploy_kit.policy.run.env_file import ENV_FILE, finite, mapping, same_number
from deploy_kit.policy.run.env_terms import DEPTH_FUNCTIONS, read_terms

_HINT = "give --vehicle FILE with the right number"


def env_number(env: Mapping[str, Any], name: str) -> Any | None:
    """Return one number of `vehicle.KEYS` from an environment's settings, None if they do not tell it.

    Raises:
        CheckpointError: if the setting is there and cannot be understood.
    """
    reader = _READERS.get(name)
    return None if reader is None else reader(env)


def _positive(value: Any, key: str) -> float:
    number = finite(value)
    if number is None or number <= 0:
        raise CheckpointError(f"{ENV_FILE}: {key} is {value!r}, not a number above 0; {_HINT}")
    return number


def _ctbr_action(env: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and settings of the one action term that commands thrust and body rates, empty if there is none."""
    terms = mapping(env, "actions").items()
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
    bound = mapping(term, "controller_cfg").get("body_rate_bound")
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
        f"actions.{name}.controller_cfg.g": mapping(term, "controller_cfg").get("g"),
    }
    vector = mapping(env.get("sim")).get("gravity")
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
    step, decimation = mapping(env.get("sim")).get("dt"), env.get("decimation")
    if step is None or decimation is None:
        return None
    return _positive(step, "sim.dt") * _positive(decimation, "decimation")


def policy_camera(env: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return name and settings of the camera that the policy sees through, None if the scene has no camera.

    Of several cameras it is the one that a term of the policy's observation reads.

    Raises:
        CheckpointError: there are several, and the terms do not tell which it is.
    """
    cameras = {
        str(name): sensor
        for name, sensor in mapping(env.get("scene")).items()
        if isinstance(sensor, dict) and "camera" in str(sensor.get("class_type", name)).lower()
    }
    terms = mapping(env, "observations", "policy").values()
    read = {mapping(term, "params", "sensor_cfg").get("name") for term in terms}
    seen = [name for name in cameras if name in read] if len(cameras) > 1 else list(cameras)
    if len(seen) == 1:
        return seen[0], cameras[seen[0]]
    if cameras:
        raise CheckpointError(
            f"{ENV_FILE}: several cameras in the scene ({', '.join(cameras)}), and the policy's observation names "
            f"{'none' if not seen else 'several'} of them; {_HINT}"
        )
    return None


def _depth_period(env: Mapping[str, Any]) -> float | None:
    """Return the depth camera's period; Isaac Lab's 0 means a new image at every policy step."""
    found = policy_camera(env)
    if found is None or "update_period" not in found[1]:
        return None
    name, sensor = found
    period = sensor["update_period"]
    return _policy_period(env) if period == 0 else _positive(period, f"scene.{name}.update_period")


def _depth_range(env: Mapping[str, Any]) -> float | None:
    """Return the depth by which the image is divided, where a function that is known to do so computes it.

    Raises:
        CheckpointError: the image passes settings that this range does not describe.
    """
    images = [term for term in read_terms(env) if term.function in DEPTH_FUNCTIONS]
    found = policy_camera(env) if len(images) == 1 else None
    if found is None:
        return None
    (image,), (name, sensor) = images, found
    if image.clip is not None or image.scale is not None or image.obscured_by is not None:
        raise CheckpointError(
            f"{image.where} has clip, scale, modifiers or a history; supported is an image over the camera's range"
        )
    if sensor.get("depth_clipping_behavior", "max") != "max" or "max_distance" not in sensor:
        return None
    return _positive(sensor["max_distance"], f"scene.{name}.max_distance")


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
    "depth_range_m": _depth_range,
    "action_latency_steps": _latency,
}
