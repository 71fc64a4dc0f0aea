"""Tracks and racing tasks reduced to what a test is about."""

import dataclasses

import numpy as np

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import RACING_TASK, ObservationNoise, StartSpread, Task


def quiet(task: Task = RACING_TASK, **stage: object) -> Task:
    """Take observation noise and start spread away, start at the start point; stage: changes to every stage."""
    return dataclasses.replace(
        task,
        noise=ObservationNoise(0.0, 0.0, 0.0),
        start=StartSpread(0.0, 0.0, 0.0, 0.0, height=0.0),
        stages=tuple(dataclasses.replace(s, **stage) for s in task.stages),
    )


def track_of(*primitives: Primitive, start: tuple[float, float, float] = (0.0, 0.0, 1.5)) -> Track:
    """Return a track with eight gates in a row along x that are not there, and the given solids."""
    positions = np.array([[5.0 * (gate + 1), 0.0, 1.5] for gate in range(8)])
    return Track(
        kind="zigzag",
        seed=1,
        difficulty=0.5,
        gate_positions=positions,
        gate_yaws=np.zeros(8),
        gate_sizes=np.ones((8, 2)),
        start=np.array(start),
        closed=False,
        primitives=primitives,
    )
