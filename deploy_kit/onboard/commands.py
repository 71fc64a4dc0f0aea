"""Test an integrator's own code that makes the vehicle's command of the graph's output, on the golden samples."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .axes import find_change
from .contract import FloatArray, OnboardContract
from .faults import Fault, OnboardFault

TOLERANCE = 1e-4
"""Of a command's scale plus its size: code in float32 is well within."""

Float64 = npt.NDArray[np.float64]


def check_commands(contract: OnboardContract, golden: dict[str, FloatArray], commands: list[Float64]) -> None:
    """Compare the commands that an integrator's code made of the golden outputs with the golden ones.

    Args:
        contract: gives the scales.
        golden: arrays of the golden samples.
        commands: one a sample, thrust over mass in m/s² and body rates in rad/s, body axes FLU.

    Raises:
        OnboardFault: one differs; the message names it and a likely cause.
    """
    wanted = golden["command"].astype(np.float64)
    if len(commands) != len(wanted):
        raise OnboardFault(Fault.ASSEMBLY, f"a command came back for {len(commands)} of {len(wanted)} samples")
    if misfit := next((command.shape for command in commands if command.shape != wanted[0].shape), None):
        raise OnboardFault(Fault.ASSEMBLY, f"the command has shape {misfit}, expected {wanted[0].shape}")
    found = np.stack(commands)
    if _agree(found, wanted, contract):
        return
    # Written so that NaN is named too.
    wrong = ~(np.abs(found - wanted) <= TOLERANCE * (contract.scale + np.abs(wanted)))
    row, index = (int(place[0]) for place in np.nonzero(wrong))
    names = contract.text["action"]["names"]
    raise OnboardFault(
        Fault.ASSEMBLY,
        f"the command {names[index]} of sample {row} is {found[row, index]:.6g}, expected {wanted[row, index]:.6g}"
        f"{_cause(found, wanted, golden['action'].astype(np.float64), contract)}",
    )


def _agree(found: Float64, wanted: Float64, contract: OnboardContract) -> bool:
    return bool((np.abs(found - wanted) <= TOLERANCE * (contract.scale + np.abs(wanted))).all())


def _cause(found: Float64, wanted: Float64, action: Float64, contract: OnboardContract) -> str:
    """Say what mistake would give what was found, as ": …"; empty if none that is known."""
    scale, offset, clip = contract.scale, contract.offset, contract.action_clip
    bounded = np.tanh(action if clip is None else action.clip(-clip, clip))
    mistakes: dict[str, Callable[[], Float64]] = {
        "it is the graph's output as it is; apply the contract's transform": lambda: action,
        "the transform is applied to what is a command already": lambda: np.tanh(wanted) * scale + offset,
        "the tanh is missing": lambda: action * scale + offset,
        "the scale is missing: these numbers lie in -1 to 1": lambda: bounded,
        "the offset is missing": lambda: bounded * scale,
        "the action is not cut to the contract's clip first": lambda: np.tanh(action) * scale + offset,
        "the thrust stands last; it comes first": lambda: np.roll(wanted, -1, axis=1),
    }
    for text, made in mistakes.items():
        if _agree(found, made(), contract):
            return f": {text}"
    parts = []
    if wanted.shape[1] == 4:
        parts = [_thrust_cause(found[:, 0], wanted[:, 0], contract), _rates_cause(found[:, 1:], wanted[:, 1:])]
    named = [part for part in parts if part]
    return f": {'; '.join(named)}" if named else ""


def _thrust_cause(found: Float64, wanted: Float64, contract: OnboardContract) -> str:
    power = float(wanted @ wanted)
    factor = float(found @ wanted) / power if power else 0.0
    if not np.isfinite(factor) or np.allclose(found, wanted, rtol=1e-3):
        return ""
    if np.abs(found - factor * wanted).max() > 1e-3 * np.abs(found).max():
        return ""
    largest = 1 / float(contract.scale[0] + contract.offset[0])
    if abs(factor / largest - 1) < 0.01:
        return "the thrust is normalised by the largest one; give m/s², and leave the throttle to its model"
    if abs(factor * 9.80665 - 1) < 0.01:
        return "the thrust is in g in place of m/s²"
    return f"the thrust is scaled by {factor:.4g} (a force in newtons is scaled by the mass in kg)"


def _rates_cause(found: Float64, wanted: Float64) -> str:
    if np.allclose(found, wanted, rtol=1e-3, atol=1e-6):
        return ""
    change = find_change(wanted, found)
    return "" if change is None else f"body rates: {change}"
