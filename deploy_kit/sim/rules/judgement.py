"""What a policy step came to, judged before targets move on and before any reset."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import Stage, Task

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judgement:
    """Flags of each drone, shape (N,).

    Attributes:
        passed: the centre came within the radius of the true centre of the gate it flew to.
        flipped: roll or pitch beyond 90°: body z points down.
        crashed: the episode ends otherwise than by time-out.
    """

    passed: Flags
    flipped: Flags
    crashed: Flags


def judge(height: Array, upwards: Array, to_gate: Array, collided: Flags, stage: Stage, task: Task) -> Judgement:
    """Judge a step.

    Args:
        height: of the centres, m, shape (N,).
        upwards: vertical component of body z, shape (N,).
        to_gate: from the centres to the true centres of the gates, m, shape (N, 3).
        collided: contact, or what takes its place without colliders, shape (N,).
        stage: what ends an episode.
        task: numbers.
    """
    passed: Flags = np.einsum("ni,ni->n", to_gate, to_gate) < task.pass_radius**2
    flipped: Flags = upwards < 0
    crashed: Flags = (collided | flipped) if stage.ends_on_crash else np.zeros(len(height), np.bool_)
    if stage.height_range is not None:
        low, high = stage.height_range
        crashed = crashed | (height < low) | (height > high)
    return Judgement(passed, flipped, crashed)
