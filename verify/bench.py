"""The simulator's side of a flight from raw quantities: what its sensors measure, and what a command does.

A bench knows the simulator and nothing of the bundle. It takes the observation of the environment apart into
quantities in SI units, body axes x forward, y left, z up, and turns a command in SI units into the action that the
environment takes. The racing task's layout is written down here once more on purpose, by hand, from what the
simulators compute: contracts are made from `deploy_kit.task.interface`, and a mistake there must show.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import Float32
from deploy_kit.flight.rollout import policy_period
from deploy_kit.policy.run.env_file import same_number
from deploy_kit.policy.run.vehicle import ASSUMED, TASK
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import RACING_TASK, TASK_ID
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint, NamedVehicle

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

Float64 = npt.NDArray[np.float64]

_RACING_STATE = (
    ("base_lin_vel", 0, 3),
    ("base_orientation", 3, 6),
    ("target_position", 6, 9),
    ("next_target_offset", 9, 12),
    ("last_action", 12, 16),
)
_RACING_IMAGE = (72, 96)

_SATURATION = 1.0 - 2.0**-53
"""Largest number below 1: a command at the end of its range becomes a finite action."""


@dataclass(frozen=True)
class Slice:
    """Numbers [start, stop) of the environment's state, of a quantity; None where what they are is not known."""

    quantity: str | None
    start: int
    stop: int
    scale: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RawInput:
    """What the sensors of one drone measure.

    Attributes:
        quantities: by their names in `docs/contract.md`, SI units, body axes.
        state: (S,) the state as the environment gives it, for slices whose quantity is not known.
        depth: (rows, columns) metres, top row first, left column first, +inf where nothing returned.
    """

    quantities: dict[str, Float64]
    state: Float64
    depth: Float64


@dataclass(frozen=True)
class Bench:
    """A simulator, taken apart.

    Attributes:
        slices: of the state.
        image_shape: rows and columns.
        depth_range_m: metres that 1 in the image stands for; a pixel at or above it saw nothing.
        transform: from the environment's action to the command, thrust over mass and body rates.
        period_s: of a step.
        note: what a reader should know of the vehicle; None for nothing.
    """

    slices: tuple[Slice, ...]
    image_shape: tuple[int, int]
    depth_range_m: float
    transform: ActionTransform
    period_s: float
    note: str | None = None

    @property
    def state_size(self) -> int:
        """Numbers before the image."""
        return self.slices[-1].stop

    def measure(self, observation: Float32) -> RawInput:
        """Return what the sensors of one drone measure, from its flat observation (6928,)."""
        state = observation[: self.state_size].astype(np.float64)
        quantities = {
            item.quantity: state[item.start : item.stop] / (1.0 if item.scale is None else np.array(item.scale))
            for item in self.slices
            if item.quantity is not None
        }
        image = observation[self.state_size :].reshape(self.image_shape).astype(np.float64)
        return RawInput(quantities, state, np.where(image >= 1.0, np.inf, image * self.depth_range_m))

    def actions(self, commands: Float64) -> Float32:
        """Return the environment's actions (n, 4) that give commands (n, 4) in SI units, body axes."""
        squashed = (commands - self.transform.offset) / self.transform.scale
        actions: Float32 = np.arctanh(np.clip(squashed, -_SATURATION, _SATURATION)).astype(np.float32)
        return actions


def bench_for(env: "VecEnv", task: str, subject: BundleAndCheckpoint) -> Bench | str:
    """Return the bench of a task, or why there is none.

    The racing task's is the simulator's own. A vehicle of the user's own, by file or run, counts instead of the racing
    task's: then the simulator flies the policy's actions, whatever its vehicle. Another task's bench follows from the
    run and the vehicle that the user names.
    """
    named = subject.named
    if task == TASK_ID:
        return _racing_bench(env, named)
    config = subject.checkpoint.network.config
    if named.vehicle is None or named.meaning is None:
        return f"nothing tells what the observations of {task} measure and what its commands do"
    if named.vehicle.depth_range_m is None:
        return "nothing tells which depth the image is divided by; give depth_range_m in --vehicle FILE"
    return Bench(
        slices=tuple(Slice(term.quantity, term.start, term.stop, term.scale) for term in named.meaning.terms),
        image_shape=config.layout.image_shape,
        depth_range_m=named.vehicle.depth_range_m,
        transform=named.vehicle.action_transform,
        period_s=named.vehicle.policy_period_s,
    )


def _racing_bench(env: "VecEnv", named: NamedVehicle) -> Bench:
    controller = RACING_TASK.controller
    transform = ActionTransform.from_limits(
        controller.max_thrust_to_weight, controller.max_body_rate, RACING_TASK.gravity
    )
    depth, period, notes = RACING_TASK.camera.max_range, policy_period(env), []
    vehicle = named.vehicle
    if vehicle is not None:
        own = {name for name, source in vehicle.sources.items() if source not in (TASK, ASSUMED)}
        if own & {"max_thrust_to_weight", "max_body_rate", "gravity", "clip_actions"}:
            if vehicle.action_transform != transform:
                notes.append("the simulator flies the racing task's vehicle, not the one that you named")
            transform = vehicle.action_transform
        if "depth_range_m" in own and vehicle.depth_range_m is not None:
            depth = vehicle.depth_range_m
        if "policy_period_s" in own and not same_number(period, vehicle.policy_period_s):
            notes.append(f"the simulator's step is {period:g} s, the vehicle's {vehicle.policy_period_s:g} s")
            period = vehicle.policy_period_s
    return Bench(
        slices=tuple(Slice(*item) for item in _RACING_STATE),
        image_shape=_RACING_IMAGE,
        depth_range_m=depth,
        transform=transform,
        period_s=period,
        note="; ".join(notes) or None,
    )
