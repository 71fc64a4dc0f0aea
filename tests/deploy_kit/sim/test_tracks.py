import math

import numpy as np
import pytest

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.sim.tracks import GATE_CLEARANCE, START_CLEARANCE, gate_frame, make_track

KINDS = ("circular", "zigzag", "ellipse")
SEEDS = range(12)


def test_kinds_are_drawn_in_the_tasks_proportions():
    kinds = [make_track(seed, obstacles=False).kind for seed in range(600)]
    shares = [kinds.count(kind) / len(kinds) for kind in KINDS]
    # Three standard deviations of a share of 0.4 in 600 draws are 0.06.
    np.testing.assert_allclose(shares, [0.3, 0.3, 0.4], atol=0.06)


def test_proportions_are_renormalised_over_the_kinds_given():
    kinds = [make_track(seed, ("zigzag", "ellipse"), obstacles=False).kind for seed in range(600)]
    assert kinds.count("zigzag") / len(kinds) == pytest.approx(3 / 7, abs=0.06)
    assert set(kinds) == {"zigzag", "ellipse"}


def test_the_same_seed_gives_the_same_track():
    first, second = make_track(5), make_track(5)
    assert first.primitives == second.primitives
    np.testing.assert_array_equal(first.gate_positions, second.gate_positions)
    np.testing.assert_array_equal(first.start, second.start)
    assert first.track_id == 5
    assert make_track(6).primitives != first.primitives


def test_gates_do_not_depend_on_obstacles():
    with_obstacles, without = make_track(5), make_track(5, obstacles=False)
    np.testing.assert_array_equal(with_obstacles.gate_positions, without.gate_positions)
    np.testing.assert_array_equal(with_obstacles.start, without.start)
    assert without.primitives == with_obstacles.primitives[:32]
    assert {p.role for p in without.primitives} == {"gate"}
    assert {p.role for p in with_obstacles.primitives[32:]} == {"obstacle"}


def test_obstacle_density_is_the_tasks():
    counts = [len(make_track(seed).primitives) + 1 for seed in range(40)]
    # 32 gate bars, the ground and 7 segments of 9 obstacles on average.
    assert np.mean(counts) == pytest.approx(96, abs=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_gates_and_start_are_where_the_task_says(kind, seed):
    track = make_track(seed, (kind,))
    d = track.difficulty
    assert 0 <= d <= 1
    assert np.all((track.gate_positions[:, 2] >= 0.8) & (track.gate_positions[:, 2] <= 2.0))
    assert np.all(np.abs(track.gate_sizes - (1.2 - 0.4 * d)) <= 0.05)
    assert 0.7 <= track.start[2] <= 1.5
    direction = np.array([math.cos(track.gate_yaws[0]), math.sin(track.gate_yaws[0])])
    back = track.gate_positions[0, :2] - track.start[:2]
    along = float(back @ direction)
    np.testing.assert_allclose(back, along * direction, atol=1e-9)
    assert 2 <= along <= (3 if kind == "zigzag" else 4)
    assert track.closed == (kind != "zigzag")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_obstacles_leave_gates_and_start_free(kind, seed):
    track = make_track(seed, (kind,))
    obstacles = [p for p in track.primitives if p.role == "obstacle"]
    for obstacle in obstacles:
        away = np.linalg.norm(track.gate_positions[:, :2] - obstacle.position[:2], axis=1)
        assert away.min() >= GATE_CLEARANCE[kind]
        assert obstacle.distance(track.start) >= 0.87 + START_CLEARANCE
    assert track.clearance(track.start) >= START_CLEARANCE


@pytest.mark.parametrize("seed", SEEDS)
def test_easy_circular_tracks_are_nearly_regular(seed):
    track = make_track(seed, ("circular",), difficulty=0.0)
    radius = np.linalg.norm(track.gate_positions[:, :2], axis=1)
    assert radius.min() > 5 - 0.3
    assert radius.max() < 8 + 0.3
    angle = np.unwrap(np.arctan2(track.gate_positions[:, 1], track.gate_positions[:, 0]))
    step = np.diff(angle)
    assert np.all(np.abs(np.abs(step) - math.pi / 4) < 0.15)
    assert len(set(np.sign(step))) == 1
    # At difficulty 0 there is no yaw noise, so the next gate lies ahead of the direction of flight.
    flight = np.stack([np.cos(track.gate_yaws), np.sin(track.gate_yaws)], axis=-1)
    ahead = np.roll(track.gate_positions, -1, axis=0)[:, :2] - track.gate_positions[:, :2]
    assert np.all(np.einsum("ni,ni->n", flight, ahead) > 0)


def test_both_directions_of_flight_occur():
    signs = set()
    for seed in range(20):
        x, y, _ = make_track(seed, ("circular",), obstacles=False).gate_positions.T
        signs.add(np.sign(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_zigzag_is_a_line_of_35_metres(seed):
    track = make_track(seed, ("zigzag",), difficulty=1.0)
    first, last = track.gate_positions[0], track.gate_positions[-1]
    assert np.linalg.norm(last - first) == pytest.approx(35.0, abs=1e-9)
    forward = (last - first)[:2] / 35
    offset = track.gate_positions[:, :2] - first[:2]
    np.testing.assert_allclose(offset @ forward, np.arange(8) * 5.0, atol=1e-9)
    sideways = np.abs(offset @ np.array([-forward[1], forward[0]]))
    assert np.all(sideways <= 4 * np.arange(8) / 7 + 1e-9)
    assert track.exit_point[2] == last[2]
    assert np.linalg.norm(track.exit_point[:2] - first[:2]) > 37


@pytest.mark.parametrize("seed", SEEDS)
def test_ellipse_axes_at_difficulty_0(seed):
    track = make_track(seed, ("ellipse",), difficulty=0.0, obstacles=False)
    xy = track.gate_positions[:, :2]
    nominal = [(7.85, 0), (5, 3.535), (0, 3.535), (-5, 3.535), (-7.85, 0), (-5, -3.535), (0, -3.535), (5, -3.535)]
    nearest = [int(np.linalg.norm(np.array(nominal) - p, axis=1).argmin()) for p in xy]
    assert sorted(nearest) == list(range(8))
    assert np.abs(xy - np.array(nominal)[nearest]).max() <= 0.2
    assert set((np.diff(nearest) % 8).tolist()) in ({1}, {7})


def test_gate_frame_leaves_the_opening_and_nothing_else():
    bars = gate_frame(np.array([1.0, 2.0, 1.5]), math.pi / 2, (1.0, 0.8), 0.2, 0.04)

    def distance(x, z, y=2.0):
        return min(bar.distance((x, y, z)) for bar in bars)

    assert distance(1.0, 1.5) == pytest.approx(0.4)
    assert distance(1.49, 1.5) == pytest.approx(0.01)
    assert distance(1.51, 1.5) < 0
    assert distance(1.69, 2.09) < 0
    assert distance(1.71, 1.5) == pytest.approx(0.01)
    assert distance(1.0, 1.09) < 0
    assert distance(1.0, 0.89) == pytest.approx(0.01)
    assert distance(1.6, 1.5, y=2.03) == pytest.approx(0.01)


def test_bad_options_are_refused():
    with pytest.raises(TaskError, match="did you mean 'circular'"):
        make_track(0, ("circlar",))
    with pytest.raises(OptionError, match="no track kind"):
        make_track(0, ())
    with pytest.raises(OptionError, match=r"1\.5"):
        make_track(0, difficulty=1.5)


@pytest.mark.parametrize("seed", range(4))
def test_clearance_is_the_least_distance_of_all(seed):
    track, rng = make_track(seed), np.random.default_rng(seed)
    for gate in track.gate_positions:
        point = gate + rng.uniform(-1, 1, 3)
        exact = min([point[2], *(primitive.distance(point) for primitive in track.primitives)])
        assert track.clearance(point) == exact
    assert make_track(seed, obstacles=False).clearance(np.array([50.0, 0.0, 3.0])) == 3.0
