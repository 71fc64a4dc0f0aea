"""Obstacles are MasterRacing's: each test states one of its rules."""

import math

import numpy as np
import pytest

from deploy_kit.sim import obstacles as made_by
from deploy_kit.sim.layouts import LAYOUTS
from deploy_kit.sim.obstacles import obstacle_counts, place_obstacles
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.sim.tracks import make_track

KINDS = ("circular", "zigzag", "ellipse")
DRAWS = 3000


def assert_uniform(values, low, high):
    """Check range and mean of uniform draws, the mean to four of its standard deviations."""
    values = np.asarray(values)
    width = high - low
    assert values.min() >= low - 1e-9
    assert values.max() <= high + 1e-9
    assert np.ptp(values) > 0.95 * width
    assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * values.size)


def draws(make, seed=0):
    rng = np.random.default_rng(seed)
    return [make(rng, np.array([1.0, 2.0, 7.0])) for _ in range(DRAWS)]


def of_kind(solids, kind):
    return [solid for solid in solids if solid.kind == kind]


def share(solids, kind):
    return len(of_kind(solids, kind)) / len(solids)


@pytest.mark.parametrize(("kind", "solids"), [("circular", 44), ("ellipse", 45), ("zigzag", 51)])
def test_solids_a_track(kind, solids):
    """43 to 51 beside the gates with d uniform, not 63 as if every segment had some of each at any d."""
    counts = [len(make_track(seed, (kind,)).primitives) - 32 for seed in range(150)]
    assert np.mean(counts) == pytest.approx(solids, abs=4 * np.std(counts) / np.sqrt(150))


@pytest.mark.parametrize(("d", "walls"), [(0.0, 1), (0.3, 1), (0.34, 2), (0.67, 3), (0.99, 3)])
def test_their_number_grows_with_difficulty(d, walls):
    """int(1 + 3 d) walls and floating solids, int(1 + d) = 1 standing ones on a segment."""
    counts = [count for _, count, _ in obstacle_counts(np.random.default_rng(0), "zigzag", d, 1.0)]
    assert counts[:3] == [walls, walls, 1]


@pytest.mark.parametrize(("radius", "d", "walls", "upright"), [(5.0, 0.0, 0, 0), (7.9, 0.0, 0, 0), (5.1, 0.9, 2, 1)])
def test_small_circles_have_fewer(radius, d, walls, upright):
    """int((1 + 3 d)·r/8) walls and floating solids, int((1 + d)·r/8) standing ones: 0 or 1."""
    counts = [count for _, count, _ in obstacle_counts(np.random.default_rng(0), "circular", d, radius / 8)]
    assert counts[:3] == [walls, walls, upright]


@pytest.mark.parametrize(("kind", "most"), [("circular", 4), ("zigzag", 4), ("ellipse", 2)])
def test_small_solids_are_1_to_4_and_on_ellipses_1_to_2(kind, most):
    rng = np.random.default_rng(0)
    counts = [obstacle_counts(rng, kind, 0.5, 1.0)[3][1] for _ in range(DRAWS)]
    shares = np.bincount(counts, minlength=most + 1)[1:] / DRAWS
    np.testing.assert_allclose(shares, 1 / most, atol=0.035)
    assert set(counts) == set(range(1, most + 1))


def placed(kind, d, monkeypatch, seeds=150):
    """Return, for every obstacle of many tracks, what made it, its segment's ends and the point it was given."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        layout = LAYOUTS[kind](rng, d)
        given = []

        def remember(a, b, at, given=given):
            given.append((a, b, at.copy()))

        original = made_by._place

        def spy(rng, a, b, along, sideways, remember=remember, original=original):
            at = original(rng, a, b, along, sideways)
            remember(a, b, at)
            return at

        with monkeypatch.context() as patch:
            patch.setattr(made_by, "_place", spy)
            place_obstacles(rng, layout, kind, d)
        found.extend((layout, *entry) for entry in given)
    return found


@pytest.mark.parametrize(
    ("kind", "spread"), [("circular", None), ("ellipse", 2.5), ("zigzag", 3.6)], ids=["circular", "ellipse", "zigzag"]
)
def test_they_lie_about_the_middle_of_their_segment(kind, spread, monkeypatch):
    """Middle + v/2·U(-0.6, 0.6) + c·U(-1, 1)·h, c any direction across v, h 0.5 r, 2.5 m or 3.6 m."""
    along, across = [], []
    for layout, a, b, at in placed(kind, 0.5, monkeypatch):
        v = b - a
        half = np.linalg.norm(v) / 2
        offset = at - (a + b) / 2
        along.append(offset @ v / (2 * half) / half)
        sideways = offset - (offset @ v) / (v @ v) * v
        h = layout.obstacle_spread
        if spread is not None:
            assert h == spread
        else:
            assert 2.5 <= h <= 4.0
            # Their number is that of the other kinds times r/8, and h is 0.5 r.
            assert layout.obstacle_share == pytest.approx(2 * h / 8)
        across.append(np.linalg.norm(sideways) / h)
    assert np.abs(along).max() <= 0.6 + 1e-9
    assert np.abs(along).max() > 0.59
    assert np.mean(along) == pytest.approx(0.0, abs=0.02)
    if kind != "zigzag":
        assert_uniform(along, -0.6, 0.6)
        assert_uniform(across, 0.0, 1.0)


def test_zigzags_small_solids_are_spread_less_along_the_way():
    """0.5 instead of 0.6 of the half segment."""
    rng = np.random.default_rng(0)
    assert [along for _, _, along in obstacle_counts(rng, "zigzag", 0.5, 1.0)] == [0.6, 0.6, 0.6, 0.5]
    assert [along for _, _, along in obstacle_counts(rng, "ellipse", 0.5, 1.0)] == [0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("kind", KINDS)
def test_the_segment_of_the_start_stays_free(kind, monkeypatch):
    """On closed tracks that from the last gate to the first one; on zigzags none lies before the first gate."""
    layout = LAYOUTS[kind](np.random.default_rng(1), 0.9)
    ends = set()
    with monkeypatch.context() as patch:
        original = made_by._place

        def spy(rng, a, b, along, sideways):
            ends.add((a.tobytes(), b.tobytes()))
            return original(rng, a, b, along, sideways)

        patch.setattr(made_by, "_place", spy)
        place_obstacles(np.random.default_rng(2), layout, kind, 0.9)
    gates = layout.positions
    assert ends == {(gates[i].tobytes(), gates[i + 1].tobytes()) for i in range(7)}


def test_zigzags_keep_their_gates_free_and_other_tracks_do_not():
    """1.5 m from the segment's own two gates: walls and floating solids in space, the others horizontally."""
    least_space, least_flat = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        layout = LAYOUTS["zigzag"](rng, 0.9)
        a, b = layout.positions[3:5]
        for make in (made_by.wall, made_by.floating, made_by.standing, made_by.small):
            for _ in range(10):
                solid = make(rng, made_by._place(rng, a, b, 0.6, 3.6))
                away = np.array(solid.position) - np.stack([a, b])
                space, flat = np.linalg.norm(away, axis=1).min(), np.linalg.norm(away[:, :2], axis=1).min()
                free = made_by._is_free(solid, make, np.stack([a, b]), 1.5)
                assert free == ((space if make in (made_by.wall, made_by.floating) else flat) >= 1.5)
        for solid in place_obstacles(rng, layout, "zigzag", 0.9):
            away = np.array(solid.position) - layout.positions
            least_space.append(np.linalg.norm(away, axis=1).min())
            if solid.quaternion == (1.0, 0.0, 0.0, 0.0):
                least_flat.append(np.linalg.norm(away[:, :2], axis=1).min())
    assert min(least_flat) > 1.4
    assert min(least_space) > 1.4
    close = []
    for seed in range(150):
        track = make_track(seed, ("circular",), difficulty=0.5)
        close.extend(
            np.linalg.norm(np.array(solid.position) - track.gate_positions, axis=1).min()
            for solid in track.primitives
            if solid.role == "obstacle"
        )
    assert min(close) < 1.0


def test_of_a_small_solid_in_the_way_of_a_zigzags_gate_there_is_no_second_try(monkeypatch):
    """Walls, floating and standing solids are drawn until they are free: their numbers hold. Small ones are dropped."""
    totals = dict.fromkeys(("wall", "floating", "standing", "small"), 0)
    asked = dict(totals)
    for seed in range(80):
        with monkeypatch.context() as patch:
            original = made_by.obstacle_counts

            def counting(rng, kind, d, part, original=original):
                rows = original(rng, kind, d, part)
                for make, count, _ in rows:
                    asked[make.__name__] += count
                return rows

            patch.setattr(made_by, "obstacle_counts", counting)
            rng = np.random.default_rng(seed)
            solids = place_obstacles(rng, LAYOUTS["zigzag"](rng, 0.5), "zigzag", 0.5)
        upright = [solid for solid in solids if solid.quaternion == (1.0, 0.0, 0.0, 0.0)]
        totals["wall"] += len(solids) - len(upright)
        totals["small"] += len(upright)
    assert totals["wall"] == asked["wall"] + asked["floating"]
    dropped = asked["small"] + asked["standing"] - totals["small"]
    assert 0.01 < dropped / asked["small"] < 0.5


def test_walls():
    """Boxes U(0.4, 1.0) × U(0.4, 1.0) × U(0.04, 0.08), centre at U(0.5, 3.0), any attitude."""
    walls = draws(made_by.wall)
    assert share(walls, "box") == 1.0
    sides = 2 * np.array([solid.size for solid in walls])
    for column, (low, high) in enumerate([(0.4, 1.0), (0.4, 1.0), (0.04, 0.08)]):
        assert_uniform(sides[:, column], low, high)
    positions = np.array([solid.position for solid in walls])
    np.testing.assert_array_equal(positions[:, :2], np.tile([1.0, 2.0], (DRAWS, 1)))
    assert_uniform(positions[:, 2], 0.5, 3.0)


@pytest.mark.parametrize("make", [made_by.wall, made_by.floating])
def test_attitudes_are_three_uniform_angles(make):
    """Rx(α)·Ry(β)·Rz(γ), each uniform over the circle, so not uniform over all rotations."""
    matrices = matrix_from_quaternion(np.array([solid.quaternion for solid in draws(make)]))
    # Rx(α)·Ry(β)·Rz(γ): entry (0, 2) is sin β; entries (1, 2), (2, 2) are -sin α cos β, cos α cos β.
    sine = matrices[:, 0, 2]
    assert_uniform(np.arcsin(sine), -math.pi / 2, math.pi / 2)
    alpha = np.arctan2(-matrices[:, 1, 2], matrices[:, 2, 2])
    gamma = np.arctan2(-matrices[:, 0, 1], matrices[:, 0, 0])
    assert_uniform(alpha, -math.pi, math.pi)
    assert_uniform(gamma, -math.pi, math.pi)


def test_floating_solids():
    """20 % boxes U(0.1, 0.5), 20 % cylinders, 20 % spheres, 40 % capsules: radius U(0.1, 0.3), length U(0.2, 0.6)."""
    solids = draws(made_by.floating)
    shares = [share(solids, kind) for kind in ("box", "cylinder", "sphere", "capsule")]
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.2, 0.4], atol=0.04)
    boxes = 2 * np.array([solid.size for solid in of_kind(solids, "box")])
    for column in range(3):
        assert_uniform(boxes[:, column], 0.1, 0.5)
    for kind in ("cylinder", "capsule"):
        sizes = np.array([solid.size for solid in of_kind(solids, kind)])
        assert_uniform(sizes[:, 0], 0.1, 0.3)
        assert_uniform(2 * sizes[:, 1], 0.2, 0.6)
    assert_uniform([solid.size[0] for solid in of_kind(solids, "sphere")], 0.1, 0.3)
    assert_uniform([solid.position[2] for solid in solids], 0.5, 3.0)


def test_standing_solids():
    """Height U(1, 3) from the ground, half boxes of sides U(0.05, 1.0), half cylinders of radius U(0.025, 0.5)."""
    solids = draws(made_by.standing)
    assert share(solids, "box") == pytest.approx(0.5, abs=0.04)
    boxes = np.array([solid.size for solid in of_kind(solids, "box")])
    for column in range(2):
        assert_uniform(2 * boxes[:, column], 0.05, 1.0)
    assert_uniform([solid.size[0] for solid in of_kind(solids, "cylinder")], 0.025, 0.5)
    assert_uniform([2 * solid.size[-1] for solid in solids], 1.0, 3.0)
    assert {solid.quaternion for solid in solids} == {(1.0, 0.0, 0.0, 0.0)}
    for solid in solids:
        assert solid.position[2] == solid.size[-1]


def test_small_solids():
    """33 % boxes U(0.1, 1.5), 33 % cylinders U(0.025, 0.5) by U(0.1, 1), 34 % spheres U(0.05, 0.5), near the ground."""
    solids = draws(made_by.small)
    shares = [share(solids, kind) for kind in ("box", "cylinder", "sphere")]
    np.testing.assert_allclose(shares, [0.33, 0.33, 0.34], atol=0.04)
    boxes = 2 * np.array([solid.size for solid in of_kind(solids, "box")])
    for column in range(3):
        assert_uniform(boxes[:, column], 0.1, 1.5)
    cylinders = np.array([solid.size for solid in of_kind(solids, "cylinder")])
    assert_uniform(cylinders[:, 0], 0.025, 0.5)
    assert_uniform(2 * cylinders[:, 1], 0.1, 1.0)
    radius = np.array([solid.size[0] for solid in of_kind(solids, "sphere")])
    assert_uniform(radius, 0.05, 0.5)
    assert {solid.quaternion for solid in solids} == {(1.0, 0.0, 0.0, 0.0)}
    # Half height + U(-0.2, 0.5): afloat or sunk.
    lift = [s.position[2] - s.size[-1] for s in solids if s.kind != "sphere"]
    assert_uniform(lift, -0.2, 0.5)
    # Spheres: U(-radius, radius) + U(-0.2, 0.5).
    height = np.array([solid.position[2] for solid in of_kind(solids, "sphere")])
    assert np.all(height >= -radius - 0.2)
    assert np.all(height <= radius + 0.5)
    assert height.mean() == pytest.approx(0.15, abs=0.03)
    assert height.var() == pytest.approx(0.7**2 / 12 + np.mean(radius**2) / 3, rel=0.1)
