"""The reward terms, for many drones at once.

Each term is weighted and multiplied by the policy period, as Isaac Lab's reward manager does with the same weights, so
that a weight means reward per second.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import RewardWeights

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StepOutcome:
    """What one policy step came to, before targets move on and before any reset.

    Attributes:
        velocity: world frame, m/s, shape (N, 3).
        to_gate: from the drone to the true centre of the gate it was flying to, world frame, m, shape (N, 3).
        forward: body x in the world frame, shape (N, 3).
        command: newest command, given in this step and not yet acting: thrust, N, and body rates, rad/s, shape (N, 4).
        previous_command: the one given before it; that of an action of 0 in an episode's first step.
        collided: net contact force above the limit, or what takes its place without colliders, shape (N,).
        flipped: roll or pitch beyond 90°, shape (N,).
        passed: gate passed, shape (N,).
    """

    velocity: Array
    to_gate: Array
    forward: Array
    command: Array
    previous_command: Array
    collided: Flags
    flipped: Flags
    passed: Flags


def _cosine(a: Array, b: Array) -> Array:
    # A drone at rest, or at the gate's very centre, has no direction: 0 instead of 0/0.
    norm = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine: Array = np.einsum("ni,ni->n", a, b) / np.maximum(norm, 1e-9)
    return cosine


def reward_terms(outcome: StepOutcome) -> dict[str, Array]:
    """Return the unweighted terms, shape (N,) each, under the names of `RewardWeights`."""
    change = outcome.command - outcome.previous_command
    return {
        "progress": _cosine(outcome.velocity, outcome.to_gate),
        "body_rate": np.linalg.norm(outcome.command[:, 1:], axis=-1),
        "command_change": np.einsum("ni,ni->n", change, change),
        "collision": outcome.collided.astype(float),
        "perception": _cosine(outcome.to_gate, outcome.forward),
        "gate": outcome.passed / (np.einsum("ni,ni->n", outcome.to_gate, outcome.to_gate) + 1.0),
        "flipped": outcome.flipped.astype(float),
    }


def total_reward(outcome: StepOutcome, weights: RewardWeights, dt: float) -> Array:
    """Return the sum of the weighted terms times the policy period dt in s, shape (N,)."""
    terms = reward_terms(outcome)
    return np.asarray(dt * sum(getattr(weights, field.name) * terms[field.name] for field in fields(weights)))
