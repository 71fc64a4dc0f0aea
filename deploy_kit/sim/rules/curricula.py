"""What an episode's result changes for the next one: the gate noise and the level.

Both count the gates of the episode but for one that its very last step passed: in MasterRacing's order of a step,
curricula come before the count. The reset that begins everything counts no gates.
"""

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import Levels, NoiseCurriculum

Counts = npt.NDArray[np.integer]


def next_gate_noise(noise: Array, gates: Counts, curriculum: NoiseCurriculum | None) -> Array:
    """Return the half widths of the gate noise in the next episodes, m, shape (N,); there is no upper bound.

    Args:
        noise: in the episodes that end, m, shape (N,).
        gates: passed in them before their last step, shape (N,).
        curriculum: factors; None for none.
    """
    if curriculum is None:
        return noise
    noise = np.where(gates >= curriculum.grow_at, noise * curriculum.grow, noise)
    return np.asarray(np.where(gates < curriculum.shrink_below, noise * curriculum.shrink, noise))


def next_levels(level: Counts, gates: Counts, beyond: Counts, levels: Levels) -> npt.NDArray[np.int64]:
    """Return the levels of the next episodes, shape (N,).

    Args:
        level: of the episodes that end, shape (N,).
        gates: passed in them before their last step, shape (N,).
        beyond: where a drone goes that has risen above the last level, drawn from all levels, shape (N,).
        levels: numbers.
    """
    moved = level + (gates >= levels.up_at) - (gates < levels.down_below)
    return np.where(moved >= levels.count, beyond, np.maximum(moved, 0)).astype(np.int64)
