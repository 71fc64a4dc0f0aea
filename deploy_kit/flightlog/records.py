"""What a flight log holds: steps with their inputs, holds and resets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoggedStep:
    """One call of the policy's step.

    Attributes:
        sequence: number among all records of the flight, from 1.
        clock_ns: monotonic clock when it began.
        duration_ns: how long it took.
        times: `now`, state_time and depth_time as given, s; NaN where not given.
        acting: (n,) command that was acting.
        command: (n,) command that was given; NaN where the step was refused.
        first: (n,) float32, the graph's first output.
        gate: its gate output; NaN without one.
        passed: gate_passed of the output, None without.
        event: gate_event of the output, None without.
        fault: "name: message" of a refused step, None for one that went well.
    """

    sequence: int
    clock_ns: int
    duration_ns: int
    times: tuple[float, float, float]
    acting: Float64
    command: Float64
    first: npt.NDArray[np.float32]
    gate: float
    passed: bool | None
    event: bool | None
    fault: str | None


@dataclass(frozen=True)
class LoggedInputs:
    """What a step was given and what the network saw.

    Attributes:
        state: the state as given; None if it was no array that a log holds.
        depth: the image as given; None likewise.
        network_state: what the network saw, float32; None for a refused step.
        network_image: likewise.
    """

    state: npt.NDArray[Any] | None
    depth: npt.NDArray[Any] | None
    network_state: npt.NDArray[np.float32] | None
    network_image: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class LoggedHold:
    """A period without a step: the command that flew, and whether the caller told it."""

    sequence: int
    clock_ns: int
    now: float
    told: bool
    command: Float64


@dataclass(frozen=True)
class LoggedReset:
    """The past was forgotten."""

    sequence: int
    clock_ns: int


Record = LoggedStep | LoggedHold | LoggedReset
