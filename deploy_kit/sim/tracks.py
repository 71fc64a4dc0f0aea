"""Race tracks from a seed: gates, obstacles and the start, as plain geometry that every simulator shares.

Gates are stored in the order in which they are flown, the first one first.
"""

import math
from dataclasses import dataclass

import numpy as np

from deploy_kit.errors import OptionError
from deploy_kit.sim.layouts import LAYOUTS
from deploy_kit.sim.obstacles import place_obstacles
from deploy_kit.sim.options import check_kinds
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import Array, matrix_from_quaternion, quaternion_from_euler
from deploy_kit.task.tracks import (
    GATE_DEPTH,
    GATE_DEPTH_SPREAD,
    GATE_SIZE,
    GATE_SIZE_FALL,
    GATE_SIZE_SPREAD,
    NUM_GATES,
    TRACK_NUMBERS,
    TRACK_PROPORTIONS,
    TrackKind,
)


@dataclass(frozen=True, eq=False)
class Track:
    """One track.

    Attributes:
        kind: how it was laid out.
        seed: seed that gives the same track again, together with the options it was drawn with.
        difficulty: 0 (wide, regular gates) to 1.
        gate_positions: true centres in flight order, world frame, m, shape (8, 3).
        gate_yaws: direction of flight through each gate, rad, shape (8,).
        gate_sizes: inner width and height, m, shape (8, 2).
        start: start point, world frame, m, shape (3,); drones begin around a place above it.
        closed: whether the first gate follows the last one.
        primitives: gate frames and obstacles (the ground z = 0 is not among them).
    """

    kind: TrackKind
    seed: int
    difficulty: float
    gate_positions: Array
    gate_yaws: Array
    gate_sizes: Array
    start: Array
    closed: bool
    primitives: tuple[Primitive, ...]

    @property
    def track_id(self) -> int:
        """Non-negative 63-bit identity: the seed."""
        return self.seed

    @property
    def exit_point(self) -> Array:
        """Point one mean gate spacing straight on from the last gate, m: what follows on a track that is not closed."""
        spacing = np.linalg.norm(np.diff(self.gate_positions, axis=0), axis=1).mean()
        yaw = self.gate_yaws[-1]
        return np.asarray(self.gate_positions[-1] + spacing * np.array([math.cos(yaw), math.sin(yaw), 0.0]))


def gate_frame(
    position: Array, yaw: float, size: tuple[float, float], frame_width: float, depth: float
) -> tuple[Primitive, ...]:
    """Return the four bars of an upright square gate.

    Args:
        position: centre of the opening, m.
        yaw: direction of flight through it, rad.
        size: inner width and height, m.
        frame_width: width of the frame around the opening, m.
        depth: extent along the direction of flight, m.
    """
    width, height = size
    quaternion = quaternion_from_euler(0.0, 0.0, yaw)
    rotation = matrix_from_quaternion(quaternion)
    sideways = (width + frame_width) / 2
    upwards = (height + frame_width) / 2
    beam = (depth / 2, width / 2 + frame_width, frame_width / 2)
    post = (depth / 2, frame_width / 2, height / 2)
    bars = [((0, 0, upwards), beam), ((0, 0, -upwards), beam), ((0, sideways, 0), post), ((0, -sideways, 0), post)]
    return tuple(
        Primitive("box", extent, _point(position + rotation @ np.array(offset)), _quaternion(quaternion), "gate")
        for offset, extent in bars
    )


def _point(vector: Array) -> tuple[float, float, float]:
    x, y, z = (float(c) for c in vector)
    return x, y, z


def _quaternion(vector: Array) -> tuple[float, float, float, float]:
    w, x, y, z = (float(c) for c in vector)
    return w, x, y, z


def make_track(
    seed: int,
    kinds: tuple[str, ...] = ("circular", "zigzag", "ellipse"),
    difficulty: float | tuple[float, float] | None = None,
    obstacles: bool = True,
) -> Track:
    """Draw a track.

    Args:
        seed: non-negative, below 2**63; the same seed and options give the same track.
        kinds: kinds to draw from, in the task's proportions renormalised over those given.
        difficulty: 0 to 1; two numbers to draw it uniformly between them, None between 0 and 1.
        obstacles: whether to place obstacles. Gates do not depend on it.

    Raises:
        OptionError: the difficulty is outside [0, 1], or no kind is given.
        TaskError: a kind is unknown.
    """
    known = check_kinds(kinds)
    low, high = _difficulty_range(difficulty)
    gate_rng, obstacle_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weights = np.array([TRACK_PROPORTIONS[kind] for kind in known])
    kind = known[int(gate_rng.choice(len(known), p=weights / weights.sum()))]
    d = low + (high - low) * float(gate_rng.random())
    layout = LAYOUTS[kind](gate_rng, d)
    sizes = GATE_SIZE - GATE_SIZE_FALL * d + gate_rng.uniform(-GATE_SIZE_SPREAD, GATE_SIZE_SPREAD, (NUM_GATES, 2))
    widths = gate_rng.uniform(*TRACK_NUMBERS[kind].frame_width, NUM_GATES)
    spread = gate_rng.uniform(-GATE_DEPTH_SPREAD, GATE_DEPTH_SPREAD, NUM_GATES)
    depths = GATE_DEPTH * (1 + d) * (1 + spread)
    frames = [
        bar
        for position, yaw, (width, height), frame_width, depth in zip(
            layout.positions, layout.yaws, sizes, widths, depths, strict=True
        )
        for bar in gate_frame(position, float(yaw), (float(width), float(height)), float(frame_width), float(depth))
    ]
    placed = place_obstacles(obstacle_rng, layout, kind, d) if obstacles else []
    return Track(
        kind=kind,
        seed=seed,
        difficulty=d,
        gate_positions=layout.positions,
        gate_yaws=layout.yaws,
        gate_sizes=sizes,
        start=layout.start,
        closed=layout.closed,
        primitives=(*frames, *placed),
    )


def _difficulty_range(difficulty: float | tuple[float, float] | None) -> tuple[float, float]:
    low, high = (0.0, 1.0) if difficulty is None else np.broadcast_to(difficulty, 2).tolist()
    if not 0.0 <= low <= high <= 1.0:
        raise OptionError(f"difficulty is {difficulty}, outside [0, 1]; give a number from 0 (easy) to 1 (hard)")
    return low, high
