"""Where the gates of a track stand and where its start is, for each kind of track.

Gates are in the order in which they are flown, the first one first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy_kit.sim.rotations import Array
from deploy_kit.task.tracks import (
    CIRCLE_RADIUS,
    CROWD_RADIUS,
    ELLIPSE_LONG,
    ELLIPSE_SHORT,
    ELLIPSE_SPACING,
    GATE_HEIGHTS,
    GATE_SPREAD,
    GATE_YAW_SPREAD,
    NUM_GATES,
    START_HEIGHT,
    TRACK_NUMBERS,
    ZIGZAG_LENGTH,
    ZIGZAG_SIDEWAYS,
    ZIGZAG_UPWARDS,
    TrackKind,
    between,
)


@dataclass(frozen=True, eq=False)
class Layout:
    """Gates and start, before frames and obstacles are built.

    Attributes:
        positions: centres, world frame, m, shape (8, 3).
        yaws: directions of flight, rad, shape (8,).
        start: start point, m, shape (3,).
        closed: whether the first gate follows the last one; the start is then on the segment between these two.
        obstacle_spread: how far obstacles stray from a segment, m.
        obstacle_share: factor on the number of obstacles.
    """

    positions: Array
    yaws: Array
    start: Array
    closed: bool
    obstacle_spread: float
    obstacle_share: float


@dataclass(frozen=True)
class _Gates:
    positions: Array
    yaws: Array

    def noisy(self, rng: np.random.Generator, d: float) -> "_Gates":
        """Put noise on a closed track's gates, reverse it half the time, and choose the first gate."""
        positions = self.positions + rng.uniform(-1, 1, (NUM_GATES, 3)) * between(GATE_SPREAD, d)
        yaws = self.yaws + rng.uniform(-1, 1, NUM_GATES) * GATE_YAW_SPREAD * d
        if rng.random() < 0.5:
            positions, yaws = positions[::-1], yaws[::-1] + math.pi
        positions[:, 2] = positions[:, 2].clip(*GATE_HEIGHTS)
        first = int(rng.integers(NUM_GATES))
        return _Gates(np.roll(positions, -first, axis=0), np.roll(yaws, -first))


def _direction(a: Array, b: Array) -> Array:
    """Return the unit vector from a to b."""
    offset = b - a
    return np.asarray(offset / np.linalg.norm(offset))


def _start(rng: np.random.Generator, at: Array, direction: Array, kind: TrackKind) -> Array:
    """Return the start point: from a gate along a unit vector, at a height of its own."""
    start = at + rng.uniform(*TRACK_NUMBERS[kind].start) * direction
    start[2] = rng.uniform(*START_HEIGHT)
    return start


def _circular(rng: np.random.Generator, d: float) -> Layout:
    radius = rng.uniform(*CIRCLE_RADIUS)
    angle = np.arange(NUM_GATES) * 2 * math.pi / NUM_GATES
    positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.ones(NUM_GATES)], axis=-1)
    gates = _Gates(positions, angle + math.pi / 2).noisy(rng, d)
    # Before the first gate, along the way through it.
    against = -np.array([math.cos(gates.yaws[0]), math.sin(gates.yaws[0]), 0.0])
    start = _start(rng, gates.positions[0], against, "circular")
    spread = TRACK_NUMBERS["circular"].sideways * radius
    return Layout(gates.positions, gates.yaws, start, True, spread, radius / CROWD_RADIUS)


def _ellipse(rng: np.random.Generator, d: float) -> Layout:
    g = ELLIPSE_SPACING
    long, short = between(ELLIPSE_LONG, d) * g / 2, between(ELLIPSE_SHORT, d) * g / 2
    x = np.array([long, g, 0.0, -g, -long, -g, 0.0, g])
    y = np.array([0.0, short, short, short, 0.0, -short, -short, -short])
    yaws = np.radians([90.0, 180.0, 180.0, 180.0, 270.0, 0.0, 0.0, 0.0])
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    positions = np.stack([x * cos - y * sin, x * sin + y * cos, np.ones(NUM_GATES)], axis=-1)
    gates = _Gates(positions, yaws + turn).noisy(rng, d)
    # On the segment to the first gate, just past the gate before it.
    last, first = gates.positions[-1], gates.positions[0]
    start = _start(rng, last, _direction(last, first), "ellipse")
    return Layout(gates.positions, gates.yaws, start, True, TRACK_NUMBERS["ellipse"].sideways, 1.0)


def _zigzag(rng: np.random.Generator, d: float) -> Layout:
    heading = rng.uniform(-math.pi, math.pi)
    fraction = np.arange(NUM_GATES) / (NUM_GATES - 1)
    inner = (fraction > 0) & (fraction < 1)
    sideways = rng.uniform(-1, 1, NUM_GATES) * between(ZIGZAG_SIDEWAYS, d) * fraction * inner
    upwards = rng.uniform(-1, 1, NUM_GATES) * between(ZIGZAG_UPWARDS, d) * fraction * inner
    cos, sin = math.cos(heading), math.sin(heading)
    along = (fraction - 0.5) * ZIGZAG_LENGTH
    height = (1 + upwards).clip(*GATE_HEIGHTS)
    positions = np.stack([along * cos - sideways * sin, along * sin + sideways * cos, height], axis=-1)
    yaws = heading + rng.uniform(-1, 1, NUM_GATES) * GATE_YAW_SPREAD * d
    # Before the first gate, on the line through the first two.
    start = _start(rng, positions[0], _direction(positions[1], positions[0]), "zigzag")
    return Layout(positions, yaws, start, False, TRACK_NUMBERS["zigzag"].sideways, 1.0)


LAYOUTS: dict[TrackKind, Callable[[np.random.Generator, float], Layout]] = {
    "circular": _circular,
    "zigzag": _zigzag,
    "ellipse": _ellipse,
}
"""What lays out a track of each kind, from a generator and the difficulty."""
