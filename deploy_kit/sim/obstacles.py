"""Obstacles along the segments between a track's gates."""

import math
from collections.abc import Callable

import numpy as np

from deploy_kit.sim.controller import cross
from deploy_kit.sim.layouts import Layout
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import Array, quaternion_about_own_axes
from deploy_kit.task import tracks as numbers
from deploy_kit.task.tracks import TRACK_NUMBERS, SolidKind, TrackKind, between

Make = Callable[[np.random.Generator, Array], Primitive]
"""Makes an obstacle at a point (3,), whose height it may change."""


def _random_attitude(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return the quaternion of Rx(α)·Ry(β)·Rz(γ), each angle uniform over the circle."""
    return quaternion_about_own_axes(*rng.uniform(-math.pi, math.pi, 3).tolist())


def _point(vector: Array) -> tuple[float, float, float]:
    x, y, z = (float(part) for part in vector)
    return x, y, z


def _halves(lengths: Array) -> tuple[float, ...]:
    return tuple(float(length) / 2 for length in lengths)


def _shape(rng: np.random.Generator, shares: dict[SolidKind, float]) -> SolidKind:
    kinds = list(shares)
    # What numpy's choice does with shares, without its checks.
    return kinds[int(np.searchsorted(np.cumsum(list(shares.values()))[:-1], rng.random(), side="right"))]


def wall(rng: np.random.Generator, at: Array) -> Primitive:
    """Make a thin box in the air, in any attitude."""
    at[2] = rng.uniform(*numbers.OBSTACLE_HEIGHT)
    sides = np.append(rng.uniform(*numbers.WALL_SIDE, 2), rng.uniform(*numbers.WALL_THICKNESS))
    return Primitive("box", _halves(sides), _point(at), _random_attitude(rng))


def floating(rng: np.random.Generator, at: Array) -> Primitive:
    """Make a solid in the air, in any attitude."""
    at[2] = rng.uniform(*numbers.OBSTACLE_HEIGHT)
    kind = _shape(rng, numbers.FLOATING_SHAPES)
    if kind == "box":
        size = _halves(rng.uniform(*numbers.FLOATING_SIDE, 3))
    else:
        radius = rng.uniform(*numbers.FLOATING_RADIUS)
        size = (radius,) if kind == "sphere" else (radius, rng.uniform(*numbers.FLOATING_LENGTH) / 2)
    return Primitive(kind, size, _point(at), _random_attitude(rng))


def standing(rng: np.random.Generator, at: Array) -> Primitive:
    """Make an upright box or cylinder on the ground."""
    half = rng.uniform(*numbers.STANDING_HEIGHT) / 2
    at[2] = half
    if _shape(rng, numbers.STANDING_SHAPES) == "box":
        return Primitive("box", (*_halves(rng.uniform(*numbers.STANDING_SIDE, 2)), half), _point(at))
    return Primitive("cylinder", (rng.uniform(*numbers.STANDING_RADIUS), half), _point(at))


def small(rng: np.random.Generator, at: Array) -> Primitive:
    """Make an upright solid near the ground, which may float above it or be sunk into it."""
    kind = _shape(rng, numbers.SMALL_SHAPES)
    size: tuple[float, ...]
    if kind == "box":
        size = _halves(rng.uniform(*numbers.SMALL_SIDE, 3))
        middle = size[2]
    elif kind == "cylinder":
        size = (rng.uniform(*numbers.SMALL_RADIUS), rng.uniform(*numbers.SMALL_LENGTH) / 2)
        middle = size[1]
    else:
        size = (rng.uniform(*numbers.SMALL_BALL),)
        middle = rng.uniform(-size[0], size[0])
    at[2] = middle + rng.uniform(*numbers.SMALL_LIFT)
    return Primitive(kind, size, _point(at))


def obstacle_counts(
    rng: np.random.Generator, kind: TrackKind, d: float, share: float
) -> tuple[tuple[Make, int, float], ...]:
    """Return what makes an obstacle, how many of them a segment gets, and how far along it they are spread.

    Args:
        rng: for the number of small solids.
        kind: of the track.
        d: difficulty.
        share: factor on all numbers but that of the small solids.
    """
    track = TRACK_NUMBERS[kind]
    walls = int(between(numbers.WALL_COUNT, d) * share)
    upright = int(between(numbers.STANDING_COUNT, d) * share)
    least, most = track.small_count
    return (
        (wall, walls, numbers.OBSTACLE_ALONG),
        (floating, walls, numbers.OBSTACLE_ALONG),
        (standing, upright, numbers.OBSTACLE_ALONG),
        (small, int(rng.integers(least, most + 1)), track.small_along),
    )


def _place(rng: np.random.Generator, a: Array, b: Array, along: float, sideways: float) -> Array:
    """Return a point near the segment from a to b."""
    way = b - a
    across = cross(way[None], rng.uniform(-1, 1, (1, 3)))[0]
    across *= rng.uniform(-1, 1) * sideways / math.sqrt(across @ across)
    return np.asarray((a + b) / 2 + way * (rng.uniform(-along, along) / 2) + across)


def _is_free(made: Primitive, make: Make, gates: Array, clearance: float) -> bool:
    """Return whether an obstacle keeps clear of the gates; what stands or lies does so horizontally."""
    if clearance == 0:
        return True
    axes = 3 if make in (wall, floating) else 2
    away = np.linalg.norm(gates[:, :axes] - np.array(made.position[:axes]), axis=1)
    return bool(away.min() >= clearance)


def place_obstacles(rng: np.random.Generator, layout: Layout, kind: TrackKind, d: float) -> list[Primitive]:
    """Return the obstacles of a track: on every segment between gates but the one that holds the start.

    Args:
        rng: source of the draws.
        layout: gates; the start of a closed track is on the segment from the last gate to the first one.
        kind: of the track.
        d: difficulty.
    """
    clearance = TRACK_NUMBERS[kind].clearance
    placed = []
    for a, b in zip(layout.positions[:-1], layout.positions[1:], strict=True):
        gates = np.stack([a, b])
        for make, count, along in obstacle_counts(rng, kind, d, layout.obstacle_share):
            for _ in range(count):
                made = make(rng, _place(rng, a, b, along, layout.obstacle_spread))
                free = _is_free(made, make, gates, clearance)
                # Of a small solid that is in the way there is no second try.
                while not free and make is not small:
                    made = make(rng, _place(rng, a, b, along, layout.obstacle_spread))
                    free = _is_free(made, make, gates, clearance)
                if free:
                    placed.append(made)
    return placed
