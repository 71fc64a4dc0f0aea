"""Test an integrator's own code around the policy, on physical quantities with known answers.

What is tested puts the policy's inputs together and, where it wants to, makes the vehicle's command of the output.

The quantities are those of the golden samples: each recorded observation is turned back into velocity, attitude and
positions in a world frame, with a heading and a place drawn at random, of which the observation says nothing.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import find_change
from .commands import check_commands
from .contract import FloatArray, OnboardContract
from .faults import Fault, OnboardFault
from .frames import rotation_matrix

TOLERANCE = 1e-4
"""Absolute plus relative: code in float32 is well within, an attitude off by a hundredth of a degree is not."""

Float64 = npt.NDArray[np.float64]
Quantities = dict[str, Float64]
Assemble = Callable[[Quantities], tuple[Any, ...]]

TERMS = ("base_lin_vel", "base_orientation", "target_position", "next_target_offset")


def physical_samples(contract: OnboardContract, golden: dict[str, FloatArray]) -> list[Quantities]:
    """Return the quantities of each golden sample.

    World frame z up, body axes x forward, y left, z up, SI units: `position` (3,) of the drone, `velocity` (3,) in
    world axes, `attitude` (4,) body to world as w, x, y, z, `gate` and `next_gate` (3,) commanded centres in the world,
    `depth` (rows, columns) in metres along the optical axis, +inf where nothing returned; and `output` (4,), what the
    graph gives for it: unbounded actions, or commands where the transform is inside the graph.

    Args:
        contract: gives the terms and the depth's scale.
        golden: arrays of the golden samples.

    Raises:
        OnboardFault: the contract does not know what the state's terms mean.
    """
    places = _places(contract)
    size = len(contract.state_low)
    scale = np.ones(size) if contract.state_scale is None else contract.state_scale
    rng = np.random.default_rng(0)
    samples = []
    outputs = golden["command" if contract.physical else "action"].astype(np.float64)
    for row, output in zip(golden["observation"].astype(np.float64), outputs):  # noqa: B905 # one each
        state = row[:size] / scale
        velocity, up, gate, offset = (state[places[name]] for name in TERMS)
        rotation = _rotation(up, rng.uniform(-np.pi, np.pi))
        position = rng.uniform((-20.0, -20.0, 1.0), (20.0, 20.0, 5.0))
        metres = row[size:].reshape(contract.image_shape) * contract.divisor_m
        samples.append(
            {
                "position": position,
                "velocity": rotation @ velocity,
                "attitude": _quaternion(rotation),
                "gate": position + rotation @ gate,
                "next_gate": position + rotation @ (gate + offset),
                "depth": np.where(metres >= contract.clip_m * (1 - 1e-6), np.inf, metres),
                "output": output,
            }
        )
    return samples


def assemble(quantities: Quantities) -> tuple[Float64, Float64]:
    """Return state (12,) and depth of quantities: what an integrator's code must give, for the racing task's order."""
    terms = _terms(quantities)
    return np.concatenate([terms[name] for name in TERMS]), quantities["depth"]


def check_assembly(contract: OnboardContract, golden: dict[str, FloatArray], function: Assemble) -> int:
    """Run an integrator's function on every sample and compare; return the number of samples.

    Args:
        contract: gives the terms.
        golden: arrays of the golden samples.
        function: takes what `physical_samples` gives, returns state and depth as `OnboardPolicy.step` takes them; and,
            third, the SI command that it sends for `output`: thrust over mass, m/s², and body rates, rad/s.

    Raises:
        OnboardFault: a term comes out otherwise; the message names the first one and a likely cause.
    """
    samples, places = physical_samples(contract, golden), _places(contract)
    states, images, commands = [], [], []
    for sample in samples:
        try:
            state, depth, *command = function({name: value.copy() for name, value in sample.items()})
            whole, image = np.asarray(state, np.float64), np.asarray(depth, np.float64)
            commands += [np.asarray(numbers, np.float64) for numbers in command[:1]]
        except (Exception, SystemExit) as error:  # the function is the caller's, and may raise anything
            raise OnboardFault(Fault.ASSEMBLY, f"the function raised {type(error).__name__}: {error}") from error
        states.append(_whole(whole, contract))
        images.append(image)
    found = np.stack(states)
    expected = {name: np.stack([_terms(sample)[name] for sample in samples]) for name in TERMS}
    for name in sorted(TERMS, key=lambda name: places[name].start):
        given = found[:, places[name]]
        if not _agree(given, expected[name]):
            row = int(np.argmax(np.abs(given - expected[name]).max(axis=1)))
            raise OnboardFault(
                Fault.ASSEMBLY,
                f"{name} of sample {row} is {given[row].round(4).tolist()}, expected "
                f"{expected[name][row].round(4).tolist()}{_cause(name, given, expected, samples)}",
            )
    if commands:
        check_commands(contract, golden, commands)
    _check_depth(images, [sample["depth"] for sample in samples], contract)
    return len(samples)


def _places(contract: OnboardContract) -> dict[str, slice]:
    places = {term["quantity"]: slice(term["start"], term["stop"]) for term in contract.text["observation"]["terms"]}
    if missing := [name for name in TERMS if name not in places]:
        raise OnboardFault(
            Fault.CONTRACT_INVALID, f"the contract knows no {', '.join(missing)}: assembly cannot be tested"
        )
    return places


def _terms(sample: Quantities, rotation: Float64 | None = None) -> Quantities:
    to_body = (rotation_matrix(sample["attitude"]) if rotation is None else rotation).T
    return {
        "base_lin_vel": to_body @ sample["velocity"],
        "base_orientation": to_body @ np.array([0.0, 0.0, 1.0]),
        "target_position": to_body @ (sample["gate"] - sample["position"]),
        "next_target_offset": to_body @ (sample["next_gate"] - sample["gate"]),
    }


def _whole(state: Float64, contract: OnboardContract) -> Float64:
    """Return the state with NaN for an acting command that was left out."""
    size, acting = len(contract.state_low), contract.last_action
    if state.shape == (size,):
        return state
    if acting is not None and state.shape == (size - (acting[1] - acting[0]),):
        return np.insert(state, [acting[0]] * (acting[1] - acting[0]), np.nan)
    raise OnboardFault(Fault.ASSEMBLY, f"the state has shape {state.shape}, expected ({size},), or without last_action")


def _agree(found: Float64, expected: Float64) -> bool:
    # Written so that NaN is refused too.
    return bool((np.abs(found - expected) <= TOLERANCE * (1 + np.abs(expected))).all())


def _cause(name: str, found: Float64, expected: Quantities, samples: list[Quantities]) -> str:
    """Say what mistake would give what was found, as ": …"; empty if none that is known."""
    mistakes: dict[str, Callable[[Quantities], Float64]] = {
        "the quaternion is read with the real part last (x, y, z, w); it is w, x, y, z": lambda sample: rotation_matrix(
            np.roll(sample["attitude"], 1)
        ),
        "the attitude is inverted: world to body in place of body to world": lambda sample: (
            rotation_matrix(sample["attitude"]).T
        ),
        "world axes in place of body axes": lambda sample: np.eye(3),
    }
    for text, rotation in mistakes.items():
        if _agree(found, np.stack([_terms(sample, rotation(sample))[name] for sample in samples])):
            return f": {text}"
    from_drone = np.stack(
        [rotation_matrix(sample["attitude"]).T @ (sample["next_gate"] - sample["position"]) for sample in samples]
    )
    if name == "next_target_offset" and _agree(found, from_drone):
        return ": it is the next gate seen from the drone in place of from the current gate"
    for other, values in expected.items():
        if other != name and _agree(found, values):
            return f": these are the numbers of {other}: the terms stand in another order"
    change = find_change(expected[name], found)
    return "" if change is None else f": {change}"


def load_function(spec: str) -> Assemble:
    """Return the function that ``module:function`` names; modules in the present folder are found.

    Raises:
        OnboardFault: there is none.
    """
    module, _, name = spec.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name, None) if module and name else None
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise OnboardFault(Fault.ASSEMBLY, f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise OnboardFault(Fault.ASSEMBLY, f"{spec!r} names no function: give module:function")
    checked: Assemble = function
    return checked


def _check_depth(found: list[Float64], expected: list[Float64], contract: OnboardContract) -> None:
    for row, (image, wanted) in enumerate(zip(found, expected)):  # noqa: B905 # one each
        if image.shape != contract.image_shape:
            turned = image.shape == contract.image_shape[::-1]
            hint = ": rows and columns are exchanged" if turned else ""
            raise OnboardFault(Fault.ASSEMBLY, f"the depth has shape {image.shape}, expected {wanted.shape}{hint}")
        # What lies beyond the clip is all the same to the network.
        cut, right = np.minimum(image, contract.clip_m), np.minimum(wanted, contract.clip_m)
        if _agree(cut, right):
            continue
        place = np.unravel_index(int(np.argmax(~(np.abs(cut - right) <= TOLERANCE * (1 + right)))), right.shape)
        raise OnboardFault(
            Fault.ASSEMBLY,
            f"depth{list(map(int, place))} of sample {row} is {image[place]:g}, expected {wanted[place]:g} m"
            f"{_depth_cause(image, wanted, contract)}",
        )


def _depth_cause(image: Float64, wanted: Float64, contract: OnboardContract) -> str:
    near = np.isfinite(wanted)
    clip = contract.clip_m
    with np.errstate(invalid="ignore"):
        causes = {
            "where nothing returned it must be +inf": _agree(image[near], wanted[near]),
            "millimetres in place of metres": _agree(image[near] / 1e3, wanted[near]),
            "it is normalised already; give metres": _agree(image[near] * contract.divisor_m, wanted[near]),
            "it is upside down": _agree(np.minimum(image[::-1], clip), np.minimum(wanted, clip)),
            "it is mirrored left to right": _agree(np.minimum(image[:, ::-1], clip), np.minimum(wanted, clip)),
        }
    return next((f": {text}" for text, fits in causes.items() if near.any() and fits), "")


def _rotation(up: Float64, heading: float) -> Float64:
    """Return a rotation from body to world whose third row is along `up`."""
    third = up / max(float(np.linalg.norm(up)), 1e-12)
    axis = np.eye(3)[int(np.argmin(np.abs(third)))]
    first = axis - (axis @ third) * third
    first /= np.linalg.norm(first)
    level = np.stack([first, np.cross(third, first), third])
    cos, sin = np.cos(heading), np.sin(heading)
    turned: Float64 = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ level
    return turned


def _quaternion(rotation: Float64) -> Float64:
    """Return the quaternion (w, x, y, z) of a rotation: the eigenvector that belongs to it (Bar-Itzhack 2000)."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quaternion: Float64 = np.linalg.eigh(k)[1][:, -1]
    return quaternion if quaternion[0] >= 0 else -quaternion
