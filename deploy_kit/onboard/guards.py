"""Refuse unusable inputs by name, and bring usable ones into the network's form."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import FloatArray, OnboardContract
from .faults import Fault, OnboardFault


def check_state(
    contract: OnboardContract, margin: float, state: npt.NDArray[Any], acting: npt.NDArray[np.float64]
) -> FloatArray:
    """Return the whole state (16,) float32, as the network takes it.

    Args:
        contract: gives sizes and ranges.
        margin: by which share of its range a number may leave it.
        state: (12,) without `last_action`, or (16,) whole, in SI units.
        acting: (4,) the command now acting, put in where the state comes without it.

    Raises:
        OnboardFault: wrong shape or type, not finite, or out of range.
    """
    if not isinstance(state, np.ndarray) or state.dtype.kind != "f":
        kind = state.dtype if isinstance(state, np.ndarray) else type(state).__name__
        raise OnboardFault(Fault.STATE_TYPE, f"the state is {kind}, give a numpy array of floats")
    size = len(contract.state_low)
    if contract.last_action is not None and state.shape == (size - len(acting),):
        state = np.insert(state.astype(np.float64), contract.last_action[0], acting)
    if state.shape != (size,):
        shapes = f"({size},)" if contract.last_action is None else f"({size},) or, without last_action, ({size - 4},)"
        raise OnboardFault(Fault.STATE_SHAPE, f"the state has shape {state.shape}, expected {shapes}")
    if not np.isfinite(state).all():
        index = int(np.argmin(np.isfinite(state)))
        raise OnboardFault(Fault.STATE_NOT_FINITE, f"state[{index}] is {state[index]}")
    span = contract.state_high - contract.state_low
    slack = margin * np.where(np.isfinite(span), span, 0.0)
    outside = (state < contract.state_low - slack) | (state > contract.state_high + slack)
    if outside.any():
        index = int(np.argmax(outside))
        low, high = contract.state_low[index], contract.state_high[index]
        raise OnboardFault(
            Fault.STATE_OUT_OF_RANGE, f"state[{index}] is {state[index]:g}, expected {low:g} to {high:g}"
        )
    if contract.state_clip is not None:
        state = np.clip(state, *contract.state_clip)
    if contract.state_scale is not None:
        state = state * contract.state_scale
    return state.astype(np.float32)


def check_depth(contract: OnboardContract, zero_is_no_return: bool, depth: npt.NDArray[Any]) -> FloatArray:
    """Return the normalised image (72, 96) float32 in [0, 1].

    Args:
        contract: gives shape, clip and divisor.
        zero_is_no_return: read a depth of exactly 0 as no return.
        depth: (72, 96) metres, +inf where nothing returned.

    Raises:
        OnboardFault: wrong shape or type, NaN, or negative.
    """
    if not isinstance(depth, np.ndarray) or depth.dtype.kind != "f":
        kind = depth.dtype if isinstance(depth, np.ndarray) else type(depth).__name__
        raise OnboardFault(Fault.DEPTH_TYPE, f"the depth image is {kind}, give a numpy array of floats in metres")
    if depth.shape != contract.image_shape:
        raise OnboardFault(
            Fault.DEPTH_SHAPE, f"the depth image has shape {depth.shape}, expected {contract.image_shape}"
        )
    image = depth.astype(np.float32)
    lowest = image.min()
    if np.isnan(lowest):
        row, column = np.argwhere(np.isnan(image))[0]
        raise OnboardFault(Fault.DEPTH_NOT_A_NUMBER, f"depth[{row}, {column}] is NaN")
    if lowest < 0:
        row, column = np.unravel_index(np.argmin(image), image.shape)
        raise OnboardFault(Fault.DEPTH_OUT_OF_RANGE, f"depth[{row}, {column}] is {lowest:g} m")
    if zero_is_no_return:
        image[image == 0] = contract.clip_m
    # Clip first: no return is +inf.
    np.minimum(image, contract.clip_m, out=image)
    image /= contract.divisor_m
    return image


class Clock:
    """Refuses old inputs and clocks that run backwards.

    Args:
        max_state_age_s: oldest state accepted.
        max_depth_age_s: oldest image accepted.
    """

    def __init__(self, max_state_age_s: float, max_depth_age_s: float) -> None:
        self._limits = {"state": max_state_age_s, "depth": max_depth_age_s}
        self.reset()

    def reset(self) -> None:
        """Forget past times."""
        self._last: dict[str, float] = {}

    def check(self, now: float | None, state_time: float | None, depth_time: float | None) -> None:
        """Check ages, as far as times are given.

        Raises:
            OnboardFault: an input is too old or from the future, or a time went backwards.
        """
        times = {"now": now, "state": state_time, "depth": depth_time}
        for name, time in times.items():
            if time is None:
                continue
            if now is None:
                raise OnboardFault(Fault.CLOCK, f"the {name} has a time, but the present time is not given")
            # Written so that NaN is refused too.
            if not time <= now or not time >= self._last.get(name, time):
                raise OnboardFault(
                    Fault.CLOCK, f"time of {name} is {time}, now is {now}, before it was {self._last.get(name)}"
                )
        for name, fault in (("state", Fault.STATE_STALE), ("depth", Fault.DEPTH_STALE)):
            time = times[name]
            if time is not None and now is not None and now - time > self._limits[name]:
                raise OnboardFault(
                    fault, f"the {name} is {now - time:.3f} s old, at most {self._limits[name]:.3f} s are accepted"
                )

    def accept(self, now: float | None, state_time: float | None, depth_time: float | None) -> None:
        """Remember the times of a step that went well."""
        times = {"now": now, "state": state_time, "depth": depth_time}
        self._last.update({name: time for name, time in times.items() if time is not None})
