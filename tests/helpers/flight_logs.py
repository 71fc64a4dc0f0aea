"""Logs of a drone without forces: it turns as the acting command says, flies straight on, and sees what it is given."""

from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy_kit.onboard import OnboardOptions, OnboardOutput, OnboardPolicy, RecordingOptions

Mistake = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Moment(NamedTuple):
    """A step of a flight: time, world position and velocity, body to world, gates, inputs, output."""

    now: float
    position: np.ndarray
    velocity: np.ndarray
    rotation: np.ndarray
    gates: np.ndarray
    state: np.ndarray
    depth: np.ndarray
    output: OnboardOutput


Watch = Callable[[Moment], None]


def turn(rates: np.ndarray, seconds: float) -> np.ndarray:
    """Return the rotation (3, 3) by constant body rates, in body axes."""
    angle = np.linalg.norm(rates) * seconds
    x, y, z = rates / max(np.linalg.norm(rates), 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def fly(
    policy: OnboardPolicy,
    steps: int = 90,
    mistake: Mistake | None = None,
    rate_share: float = 1.0,
    watch: Watch | None = None,
) -> None:
    """Fly a policy that records; mistake: changes state and depth on their way to the policy.

    rate_share: of the acting rates that turn the drone, for policies that would tumble.
    watch: told of each step, for logs of other stacks.
    """
    contract = policy.contract
    period, rng = contract.policy_period_s, np.random.default_rng(0)
    rotation, position, velocity = np.eye(3), np.zeros(3), np.array([1.5, 0.4, 0.3])
    gates = np.array([[8.0, 1.0, 0.5], [16.0, -2.0, 1.0]])
    # The command that acts in a step is the one given latency + 1 steps before.
    acting = deque([contract.offset] * (contract.latency_steps + 1))
    for step in range(steps):
        state = np.concatenate(
            [rotation.T @ velocity, rotation[2], rotation.T @ (gates[0] - position), rotation.T @ (gates[1] - gates[0])]
        )
        depth = rng.uniform(0.5, 12.0, contract.image_shape).astype(np.float32)
        state, depth = (state, depth) if mistake is None else mistake(state, depth)
        now = step * period
        output = policy.step(state, depth, now, now - 0.002, now - 0.004)
        if watch is not None:
            watch(Moment(now, position, velocity, rotation, gates, state, depth, output))
        acting.append(output.command)
        rotation = rotation @ turn(rate_share * acting.popleft()[1:], period)
        position = position + velocity * period


def open_recorded(
    bundle: Path, log: Path, tolerance: float = OnboardOptions.tolerance, **options: object
) -> OnboardPolicy:
    """Open a bundle with a recorder that loses nothing, however quickly it is flown.

    By its clock each step takes 1 ms, so that no verdict depends on how busy this computer is.
    """
    recording = RecordingOptions(lossless=True, clock=count(step=1_000_000).__next__)
    return OnboardPolicy(bundle, OnboardOptions(tolerance=tolerance, **options), log, recording)


def fly_logged(bundle: Path, log: Path, tolerance: float = OnboardOptions.tolerance, **options: object) -> Path:
    """Fly a bundle and return the log; tolerance: of the golden samples."""
    policy = open_recorded(bundle, log, tolerance)
    fly(policy, **options)
    policy.close()
    return log


def fly_in_millimetres(bundle: Path, log: Path, steps: int = 90) -> list[Moment]:
    """Fly with a camera that gives uint16 millimetres, and 0 where nothing returned; return what happened."""
    moments: list[Moment] = []
    policy = open_recorded(bundle, log, depth_in_millimetres=True, zero_is_no_return=True)
    fly(policy, steps, _in_millimetres, watch=moments.append)
    policy.close()
    return moments


def _in_millimetres(state: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return state, np.where(depth > 11, 0, 1e3 * depth).astype(np.uint16)
