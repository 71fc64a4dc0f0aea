"""Logs of a drone without forces: it turns as the acting command says, flies straight on, and sees what it is given."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deploy_kit.onboard import OnboardOptions, OnboardPolicy, RecordingOptions

Mistake = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def turn(rates: np.ndarray, seconds: float) -> np.ndarray:
    """Return the rotation (3, 3) by constant body rates, in body axes."""
    angle = np.linalg.norm(rates) * seconds
    x, y, z = rates / max(np.linalg.norm(rates), 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def fly(policy: OnboardPolicy, steps: int = 90, mistake: Mistake | None = None, rate_share: float = 1.0) -> None:
    """Fly a policy that records; mistake: changes state and depth on their way to the policy.

    rate_share: of the acting rates that turn the drone, for policies that would tumble.
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
        acting.append(policy.step(state, depth, now, now - 0.002, now - 0.004).command)
        rotation = rotation @ turn(rate_share * acting.popleft()[1:], period)
        position = position + velocity * period


def open_recorded(bundle: Path, log: Path, tolerance: float = OnboardOptions.tolerance) -> OnboardPolicy:
    """Open a bundle with a recorder that loses nothing, however quickly it is flown."""
    return OnboardPolicy(bundle, OnboardOptions(tolerance=tolerance), log, RecordingOptions(lossless=True))


def fly_logged(bundle: Path, log: Path, tolerance: float = OnboardOptions.tolerance, **options: object) -> Path:
    """Fly a bundle and return the log; tolerance: of the golden samples."""
    policy = open_recorded(bundle, log, tolerance)
    fly(policy, **options)
    policy.close()
    return log
