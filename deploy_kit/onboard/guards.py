"""Bring inputs into the network's form, and refuse unusable ones by name.

The quick way does the work and only sees that something is wrong; what is wrong is found out after that.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .contract import FloatArray, OnboardContract
from .faults import Fault, OnboardFault
from .options import OnboardOptions

MILLIMETRES_ABOVE = 500.0
"""Finite metres beyond every depth camera's range: most likely they are millimetres."""


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    try:
        return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)
    except OverflowError:
        return False


def require_time(name: str, value: Any) -> None:
    """Raise an OnboardFault for a time that is no finite number."""
    if not is_finite(value):
        raise OnboardFault(Fault.CLOCK, f"time of {name} is {value!s:.60}, not a finite number of seconds")


def _plain(array: Any) -> Any:
    """Return an array without its subclass, for example a memmap; a masked one stays, and is refused."""
    if isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray):
        return array.view(np.ndarray)
    return array


class StateGuard:
    """Fills the graph's state.

    Args:
        contract: gives sizes and ranges.
        margin: share of its range by which a number may leave it.
        target: (16,) where the state goes.

    Attributes:
        bounds: (2, 16) smallest and largest numbers that pass, the margin included.
    """

    bounds: npt.NDArray[np.float64]

    def __init__(self, contract: OnboardContract, margin: float, target: FloatArray) -> None:
        self._contract, self._target = contract, target
        span = contract.state_high - contract.state_low
        slack = margin * np.where(np.isfinite(span), span, 0.0)
        self._low, self._high = contract.state_low - slack, contract.state_high + slack
        # Without a range, only numbers that are none are refused.
        largest = np.finfo(np.float64).max
        bounds = self._low.clip(-largest, largest).tolist(), self._high.clip(-largest, largest).tolist()
        self._bounds = tuple(zip(*bounds, strict=True))
        self.bounds = np.array(bounds)
        self._size, self._acting = len(self._bounds), contract.last_action
        self._short = -1 if self._acting is None else self._size - (self._acting[1] - self._acting[0])
        self._plain = contract.state_clip is None and contract.state_scale is None

    def fill(self, state: npt.NDArray[Any], acting: list[float]) -> list[float]:
        """Put a state into the graph and return it whole.

        Args:
            state: (12,) without `last_action`, or (16,) whole, in SI units.
            acting: the command now acting, put in where the state comes without it.

        Raises:
            OnboardFault: wrong shape or type, not finite, or out of range; the graph's state is then as it was.
        """
        if type(state) is not np.ndarray:
            state = _plain(state)
        fits = type(state) is np.ndarray and state.ndim == 1 and state.dtype.kind == "f"
        values = state.tolist() if fits else []
        if len(values) == self._short and self._acting is not None:
            first = self._acting[0]
            values[first:first] = acting
        if len(values) != self._size:
            raise self._fault(state)
        for value, (low, high) in zip(values, self._bounds):  # noqa: B905 # strict costs time; the sizes are equal
            if not low <= value <= high:
                raise self._fault(np.array(values))
        whole: list[float] = values
        if self._plain:
            self._target[:] = values
        else:
            self._target[:] = self._scaled(np.array(values))
        return whole

    def _scaled(self, state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self._contract.state_clip is not None:
            state = np.clip(state, *self._contract.state_clip)
        return state if self._contract.state_scale is None else state * self._contract.state_scale

    def _fault(self, state: npt.NDArray[Any]) -> OnboardFault:
        """Say what is wrong with a state."""
        if type(state) is not np.ndarray or state.dtype.kind != "f":
            kind = state.dtype if type(state) is np.ndarray else type(state).__name__
            return OnboardFault(Fault.STATE_TYPE, f"the state is {kind}, give a numpy array of floats")
        if state.shape != (self._size,):
            shapes = (
                f"({self._size},)" if self._short < 0 else f"({self._size},) or, without last_action, ({self._short},)"
            )
            return OnboardFault(Fault.STATE_SHAPE, f"the state has shape {state.shape}, expected {shapes}")
        if not np.isfinite(state).all():
            index = int(np.argmin(np.isfinite(state)))
            return OnboardFault(Fault.STATE_NOT_FINITE, f"state[{index}] is {state[index]}")
        index = int(np.argmax((state < self._low) | (state > self._high)))
        low, high = self._contract.state_low[index], self._contract.state_high[index]
        return OnboardFault(
            Fault.STATE_OUT_OF_RANGE, f"state[{index}] is {state[index]:g}, expected {low:g} to {high:g}"
        )


class DepthGuard:
    """Fills the graph's image.

    Args:
        contract: gives shape, clip, divisor and the policy's period.
        options: what cameras give where nothing returned, and for how long the drone may be blind.
        target: (72, 96) where the image goes.

    Attributes:
        plain: whether images come as metres, +inf where nothing returned.
        blind_steps: images in a row in which nothing returned.
    """

    def __init__(self, contract: OnboardContract, options: OnboardOptions, target: FloatArray) -> None:
        self._contract, self._options, self._target = contract, options, target
        self._flat = target.reshape(-1)
        self._shape, self._kind = contract.image_shape, "u" if options.depth_in_millimetres else "f"
        # An array is quicker here than a scalar, which numpy would convert at each step.
        self._far = np.full(contract.image_shape, contract.clip_m, np.float32)
        self._clip, self._divisor = np.float32(contract.clip_m), np.float32(contract.divisor_m)
        self._rare = options.depth_in_millimetres or options.zero_is_no_return or options.nan_is_no_return
        self.plain = not self._rare
        limit = options.max_blind_s
        self._max_blind_steps = None if limit is None else limit / contract.policy_period_s
        self.reset()

    def reset(self) -> None:
        """Forget how long the drone has been blind, as after an image that showed something."""
        self.blind_steps = 0

    def fill(self, depth: npt.NDArray[Any]) -> None:
        """Put an image into the graph.

        Args:
            depth: (72, 96) metres, +inf where nothing returned; or millimetres, by the options.

        Raises:
            OnboardFault: wrong shape or type, NaN, negative, most likely millimetres, or blind for too long.
        """
        target = self._target
        if type(depth) is not np.ndarray:
            depth = _plain(depth)
        if type(depth) is not np.ndarray or depth.shape != self._shape or depth.dtype.kind != self._kind:
            raise self._misfit(depth)
        metres = self._metres(depth) if self._rare else depth
        # Clip first: no return is +inf. Keeps NaN and negatives.
        try:
            np.minimum(metres, self._far, out=target)
        except (FloatingPointError, RuntimeWarning):
            # A number that float32 cannot hold, where the caller makes numpy or Python raise at one.
            with np.errstate(all="ignore"):
                np.minimum(metres, self._far, out=target)
        nearest = np.minimum.reduce(self._flat)
        if not nearest >= 0:
            raise self._unusable(metres)
        # Cameras that give 0 for no return see nothing in zeros either.
        if nearest >= self._clip or (nearest == 0 and not ((target > 0) & (target < self._clip)).any()):
            self._look(metres)
        else:
            self.blind_steps = 0
        np.divide(target, self._divisor, out=target)

    def _metres(self, depth: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return metres with +inf for what the options read as no return; the caller's image stays as it is."""
        if depth.dtype.itemsize < 2:
            raise self._misfit(depth)
        # What float32 cannot hold is far or unusable, which the guards say; numpy is not to.
        with np.errstate(all="ignore"):
            metres = depth.astype(np.float32)
        if self._options.zero_is_no_return:
            metres[depth == 0] = np.inf
        if self._options.nan_is_no_return:
            metres[np.isnan(metres)] = np.inf
        if self._options.depth_in_millimetres:
            metres *= np.float32(1e-3)
        return metres

    def _look(self, metres: npt.NDArray[Any]) -> None:
        """Judge an image in which nothing returned within the clip."""
        finite = metres[np.isfinite(metres)]
        if finite.size and finite.max() > MILLIMETRES_ABOVE:
            raise OnboardFault(
                Fault.DEPTH_UNIT,
                f"no depth lies between 0 and {self._clip:g} m and the farthest is {finite.max():g} m: give metres, or "
                "set depth_in_millimetres",
            )
        self.blind_steps += 1
        if self._max_blind_steps is not None and self.blind_steps > self._max_blind_steps:
            raise OnboardFault(
                Fault.DEPTH_BLIND,
                f"no pixel had a return within {self._clip:g} m for {self.blind_steps} steps "
                f"({self._options.max_blind_s:g} s are accepted): is the camera covered? One that gives 0 for no "
                "return needs zero_is_no_return",
            )

    def _misfit(self, depth: Any) -> OnboardFault:
        kind = depth.dtype if type(depth) is np.ndarray else type(depth).__name__
        if type(depth) is not np.ndarray or depth.dtype.kind != self._kind or depth.dtype.itemsize < 2:
            wanted = "unsigned integers of 16 bits or more in millimetres" if self._kind == "u" else "floats in metres"
            hint = "" if self._kind == "u" else " (depth_in_millimetres takes unsigned integers)"
            return OnboardFault(Fault.DEPTH_TYPE, f"the depth image is {kind}, give a numpy array of {wanted}{hint}")
        return OnboardFault(Fault.DEPTH_SHAPE, f"the depth image has shape {depth.shape}, expected {self._shape}")

    def _unusable(self, metres: npt.NDArray[Any]) -> OnboardFault:
        if np.isnan(metres).any():
            row, column = np.argwhere(np.isnan(metres))[0]
            return OnboardFault(Fault.DEPTH_NOT_A_NUMBER, f"depth[{row}, {column}] is NaN")
        row, column = np.unravel_index(np.argmin(metres), metres.shape)
        return OnboardFault(Fault.DEPTH_OUT_OF_RANGE, f"depth[{row}, {column}] is {metres[row, column]:g} m")


class Clock:
    """Refuses old inputs, clocks that run backwards, and steps that come too early or too late.

    Args:
        contract: gives the periods.
        options: limits, where they are not the usual ones.
    """

    def __init__(self, contract: OnboardContract, options: OnboardOptions) -> None:
        period, frame = contract.policy_period_s, contract.depth_period_s
        state, depth = options.max_state_age_s, options.max_depth_age_s
        shortest, longest = options.min_step_s, options.max_step_s
        self._max_state_age = 2 * period if state is None else state
        self._max_depth_age = period + frame if depth is None else depth
        self._shortest = period / 2 if shortest is None else shortest
        self._longest = 2 * period if longest is None else longest
        self.reset()

    def reset(self) -> None:
        """Forget past times."""
        self._last: tuple[float | None, float | None, float | None] = (None, None, None)

    def check(self, now: float | None, state_time: float | None, depth_time: float | None) -> None:
        """Check ages and the time since the last step, as far as times are given.

        Raises:
            OnboardFault: an input is too old or from the future, a time went backwards, or the step comes too early or
                too late. A step that is too late counts as the last one from then on.
        """
        before, state_before, depth_before = self._last
        # The usual case at a glance; what is wrong otherwise is found out below.
        if (
            type(now) is float
            and type(state_time) is float
            and type(depth_time) is float
            and before is not None
            and state_before is not None
            and depth_before is not None
            and self._shortest <= now - before <= self._longest
            and state_before <= state_time <= now <= state_time + self._max_state_age
            and depth_before <= depth_time <= now <= depth_time + self._max_depth_age
        ):
            return
        named = (("now", now), ("state", state_time), ("depth", depth_time))
        for (name, time), last in zip(named, self._last, strict=True):
            if time is None:
                continue
            if now is None:
                raise OnboardFault(Fault.CLOCK, f"the {name} has a time, but the present time is not given")
            require_time(name, time)
            if time > now or (last is not None and time < last):
                raise OnboardFault(Fault.CLOCK, f"time of {name} is {time}, now is {now}, before it was {last}")
        if now is None:
            return
        if state_time is not None and now - state_time > self._max_state_age:
            raise self._stale(Fault.STATE_STALE, "state", now - state_time, self._max_state_age)
        if depth_time is not None and now - depth_time > self._max_depth_age:
            raise self._stale(Fault.DEPTH_STALE, "depth", now - depth_time, self._max_depth_age)
        if before is not None:
            self._check_pace(now, now - before)

    def _stale(self, fault: Fault, name: str, age: float, limit: float) -> OnboardFault:
        return OnboardFault(fault, f"the {name} is {age:.3f} s old, at most {limit:.3f} s are accepted")

    def _check_pace(self, now: float, since: float) -> None:
        if since < self._shortest:
            raise OnboardFault(
                Fault.STEP_EARLY, f"{since:.3f} s after the last step, at least {self._shortest:.3f} s are expected"
            )
        if since > self._longest:
            self._last = (now, *self._last[1:])
            raise OnboardFault(
                Fault.STEP_LATE, f"{since:.3f} s after the last step, at most {self._longest:.3f} s are accepted"
            )

    def accept(self, now: float | None, state_time: float | None, depth_time: float | None) -> None:
        """Remember the times of a step that went well."""
        before, state, depth = self._last
        self._last = (
            before if now is None else now,
            state if state_time is None else state_time,
            depth if depth_time is None else depth_time,
        )
