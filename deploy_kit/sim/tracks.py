"""Race tracks from a seed: gates, obstacles and the start, as plain geometry that every simulator shares.

Gates are stored in the order in which they are flown, the first one first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.sim.primitives import Primitive, PrimitiveKind
from deploy_kit.sim.rotations import Array, matrix_from_quaternion, quaternion_from_euler, random_quaternion
from deploy_kit.task.racing import TRACK_PROPORTIONS, TrackKind
from deploy_kit.text import did_you_mean

NUM_GATES = 8
GATE_HEIGHTS = (0.8, 2.0)
START_CLEARANCE = 0.25
"""Least distance, m, between the drone's centre at reset and any solid; its collision box reaches 0.12 m."""
ZIGZAG_LENGTH = 35.0
ELLIPSE_SPACING = 5.0
GATE_CLEARANCE: dict[TrackKind, float] = {"circular": 1.2, "zigzag": 1.5, "ellipse": 0.8}
"""Horizontal distance, m, that obstacles keep from every gate's centre."""
_OBSTACLE_RADIUS = 6.0
_PLACEMENT_TRIES = 200
_SMALL_KINDS: tuple[PrimitiveKind, ...] = ("box", "cylinder", "sphere", "capsule")


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
        start: middle of the start area, world frame, m, shape (3,).
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

    def clearance(self, point: Array) -> float:
        """Return the distance of a world point to the nearest gate frame, obstacle or the ground, m."""
        if not self.primitives:
            return float(point[2])
        centres, radii = self._bounds
        to_centre = np.linalg.norm(centres - point, axis=1)
        # A solid's distance lies between these two, so only few need the exact one.
        candidates = np.flatnonzero(to_centre - radii <= to_centre.min())
        return min([float(point[2]), *(self.primitives[index].distance(point) for index in candidates)])

    @cached_property
    def _bounds(self) -> tuple[Array, Array]:
        """Centres (n, 3) and bounding radii (n,) of the solids, m."""
        centres = np.array([primitive.position for primitive in self.primitives])
        return centres, np.array([primitive.bounding_radius for primitive in self.primitives])


@dataclass(frozen=True)
class _Layout:
    """Gates before frames and obstacles are built; `yaws` are directions of flight, `radius` scales the obstacles."""

    positions: Array
    yaws: Array
    radius: float
    closed: bool
    start_range: tuple[float, float]


def _reversed_half_the_time(rng: np.random.Generator, positions: Array, yaws: Array) -> tuple[Array, Array]:
    if rng.random() < 0.5:
        return positions[::-1].copy(), yaws[::-1] + math.pi
    return positions, yaws


def _gate_noise(rng: np.random.Generator, difficulty: float) -> tuple[Array, Array]:
    position = rng.uniform(-1, 1, (NUM_GATES, 3)) * (0.2 + 0.8 * difficulty)
    return position, rng.uniform(-1, 1, NUM_GATES) * math.radians(30 * difficulty)


def _closed(rng: np.random.Generator, positions: Array, yaws: Array, difficulty: float, radius: float) -> _Layout:
    position_noise, yaw_noise = _gate_noise(rng, difficulty)
    positions, yaws = _reversed_half_the_time(rng, positions + position_noise, yaws + yaw_noise)
    first = int(rng.integers(NUM_GATES))
    return _Layout(np.roll(positions, -first, axis=0), np.roll(yaws, -first), radius, True, (2.0, 4.0))


def _circular(rng: np.random.Generator, difficulty: float) -> _Layout:
    radius = rng.uniform(5, 8)
    angle = np.arange(NUM_GATES) * 2 * math.pi / NUM_GATES
    positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.ones(NUM_GATES)], axis=-1)
    return _closed(rng, positions, angle + math.pi / 2, difficulty, radius)


def _ellipse(rng: np.random.Generator, difficulty: float) -> _Layout:
    g = ELLIPSE_SPACING
    long = (3.14 + 1.66 * difficulty) * g / 2
    short = (1.414 - 0.614 * difficulty) * g / 2
    x = np.array([long, g, 0.0, -g, -long, -g, 0.0, g])
    y = np.array([0.0, short, short, short, 0.0, -short, -short, -short])
    yaws = np.radians([90.0, 180.0, 180.0, 180.0, 270.0, 0.0, 0.0, 0.0])
    return _closed(rng, np.stack([x, y, np.ones(NUM_GATES)], axis=-1), yaws, difficulty, (long + short) / 2)


def _zigzag(rng: np.random.Generator, difficulty: float) -> _Layout:
    heading = rng.uniform(-math.pi, math.pi)
    fraction = np.arange(NUM_GATES) / (NUM_GATES - 1)
    inner = (fraction > 0) & (fraction < 1)
    sideways = rng.uniform(-1, 1, NUM_GATES) * (1 + 3 * difficulty) * fraction * inner
    vertical = rng.uniform(-1, 1, NUM_GATES) * (0.1 + 0.9 * difficulty) * fraction * inner
    cos, sin = math.cos(heading), math.sin(heading)
    along = fraction * ZIGZAG_LENGTH
    positions = np.stack([along * cos - sideways * sin, along * sin + sideways * cos, 1 + vertical], axis=-1)
    yaws = heading + rng.uniform(-1, 1, NUM_GATES) * math.radians(30 * difficulty)
    return _Layout(positions, yaws, _OBSTACLE_RADIUS, False, (2.0, 3.0))


_LAYOUTS: dict[TrackKind, Callable[[np.random.Generator, float], _Layout]] = {
    "circular": _circular,
    "zigzag": _zigzag,
    "ellipse": _ellipse,
}


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


def _wall(rng: np.random.Generator, at: Array) -> Primitive:
    width, height = rng.uniform(0.4, 1.0, 2)
    at[2] = rng.uniform(0.5, 3.0)
    size = (rng.uniform(0.04, 0.08) / 2, width / 2, height / 2)
    return Primitive("box", size, _point(at), _quaternion(random_quaternion(rng)))


def _small(rng: np.random.Generator, at: Array, *, grounded: bool) -> Primitive:
    kind = _SMALL_KINDS[rng.integers(len(_SMALL_KINDS))]
    radius, half = (float(extent) for extent in rng.uniform(0.1, 0.3, 2))
    size = {"box": (radius, radius, half), "sphere": (radius,)}.get(kind, (radius, half))
    if grounded:
        at[2] = {"sphere": radius, "capsule": half + radius}.get(kind, half)
        quaternion = quaternion_from_euler(0.0, 0.0, rng.uniform(-math.pi, math.pi))
    else:
        at[2] = rng.uniform(0.5, 3.0)
        quaternion = random_quaternion(rng)
    return Primitive(kind, size, _point(at), _quaternion(quaternion))


def _floating(rng: np.random.Generator, at: Array) -> Primitive:
    return _small(rng, at, grounded=False)


def _on_ground(rng: np.random.Generator, at: Array) -> Primitive:
    return _small(rng, at, grounded=True)


def _standing(rng: np.random.Generator, at: Array) -> Primitive:
    half = rng.uniform(1.0, 3.0) / 2
    radius = rng.uniform(0.1, 0.3)
    at[2] = half
    quaternion = quaternion_from_euler(0.0, 0.0, rng.uniform(-math.pi, math.pi))
    if rng.random() < 0.5:
        return Primitive("box", (radius, radius, half), _point(at), _quaternion(quaternion))
    return Primitive("cylinder", (radius, half), _point(at), _quaternion(quaternion))


_OBSTACLE_COUNTS: tuple[tuple[Callable[[np.random.Generator, Array], Primitive], int], ...] = (
    (_wall, 4),
    (_floating, 4),
    (_standing, 2),
    (_on_ground, 4),
)
"""Each kind of obstacle, with the largest number of it on a segment (the smallest is 1)."""


def _obstacles(rng: np.random.Generator, layout: _Layout, kind: TrackKind, start: Array) -> list[Primitive]:
    """Return obstacles on every segment but the one that holds the start, none where the drone may start."""
    placed = []
    for a, b in zip(layout.positions[:-1], layout.positions[1:], strict=True):
        for make, most in _OBSTACLE_COUNTS:
            for _ in range(rng.integers(1, most + 1)):
                for _ in range(_PLACEMENT_TRIES):
                    sideways = np.cross(b - a, rng.uniform(-1, 1, 3))
                    sideways *= rng.uniform(-0.5, 0.5) * layout.radius / np.linalg.norm(sideways)
                    at = (a + b) / 2 + (b - a) / 2 * rng.uniform(-0.6, 0.6) + sideways
                    obstacle = make(rng, at)
                    from_gates = np.linalg.norm(layout.positions[:, :2] - at[:2], axis=1).min()
                    if from_gates < GATE_CLEARANCE[kind]:
                        continue
                    # The start is spread by 0.5 m along each axis, 0.87 m in all.
                    if obstacle.distance(start) >= 0.87 + START_CLEARANCE:
                        placed.append(obstacle)
                        break
    return placed


def _start(rng: np.random.Generator, layout: _Layout, frames: list[Primitive]) -> Array:
    """Return a start before the first gate, clear of every gate frame."""
    direction = np.array([math.cos(layout.yaws[0]), math.sin(layout.yaws[0])])
    while True:
        start = np.append(layout.positions[0, :2] - rng.uniform(*layout.start_range) * direction, rng.uniform(0.7, 1.5))
        if all(frame.distance(start) >= START_CLEARANCE for frame in frames):
            return start


def check_kinds(kinds: tuple[str, ...]) -> tuple[TrackKind, ...]:
    """Return the track kinds.

    Raises:
        OptionError: none is given.
        TaskError: one is unknown.
    """
    if not kinds:
        raise OptionError(f"no track kind given; choose among {', '.join(TRACK_PROPORTIONS)}")
    for kind in kinds:
        if kind not in TRACK_PROPORTIONS:
            raise TaskError(f"unknown track kind {kind!r}{did_you_mean(kind, TRACK_PROPORTIONS)}")
    return tuple(kind for kind in TRACK_PROPORTIONS if kind in kinds)


def make_track(
    seed: int,
    kinds: tuple[str, ...] = ("circular", "zigzag", "ellipse"),
    difficulty: float | None = None,
    obstacles: bool = True,
) -> Track:
    """Draw a track.

    Args:
        seed: non-negative, below 2**63; the same seed and options give the same track.
        kinds: kinds to draw from, in the task's proportions renormalised over those given.
        difficulty: 0 to 1, None to draw it uniformly.
        obstacles: whether to place obstacles. Gates do not depend on it.

    Raises:
        OptionError: the difficulty is outside [0, 1], or no kind is given.
        TaskError: a kind is unknown.
    """
    known = check_kinds(kinds)
    if difficulty is not None and not 0.0 <= difficulty <= 1.0:
        raise OptionError(f"difficulty is {difficulty}, outside [0, 1]; give a number from 0 (easy) to 1 (hard)")
    gate_rng, obstacle_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weights = np.array([TRACK_PROPORTIONS[kind] for kind in known])
    kind = known[int(gate_rng.choice(len(known), p=weights / weights.sum()))]
    drawn = gate_rng.random()
    level = float(drawn) if difficulty is None else difficulty
    layout = _LAYOUTS[kind](gate_rng, level)
    layout.positions[:, 2] = layout.positions[:, 2].clip(*GATE_HEIGHTS)
    sizes = 1.2 - 0.4 * level + gate_rng.uniform(-0.05, 0.05, (NUM_GATES, 2))
    widths = gate_rng.uniform(0.15, 0.25, NUM_GATES)
    depths = (0.03 + 0.03 * level) * gate_rng.uniform(0.8, 1.2, NUM_GATES)
    frames = [
        bar
        for position, yaw, (width, height), frame_width, depth in zip(
            layout.positions, layout.yaws, sizes, widths, depths, strict=True
        )
        for bar in gate_frame(position, float(yaw), (float(width), float(height)), float(frame_width), float(depth))
    ]
    start = _start(gate_rng, layout, frames)
    placed = _obstacles(obstacle_rng, layout, kind, start) if obstacles else []
    return Track(
        kind=kind,
        seed=seed,
        difficulty=level,
        gate_positions=layout.positions,
        gate_yaws=layout.yaws,
        gate_sizes=sizes,
        start=start,
        closed=layout.closed,
        primitives=(*frames, *placed),
    )
