"""Gates and starts are MasterRacing's: each test states one of its rules."""

import math

import numpy as np
import pytest

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.sim.tracks import gate_frame, make_track

KINDS = ("circular", "zigzag", "ellipse")
SEEDS = range(12)
MANY = range(400)


@pytest.fixture(scope="module")
def tracks():
    """Tracks of each kind without obstacles."""
    return {kind: [make_track(seed, (kind,), obstacles=False) for seed in MANY] for kind in KINDS}


def assert_uniform(values, low, high):
    """Check range and mean of uniform draws, the mean to four of its standard deviations."""
    values = np.asarray(values)
    width = high - low
    assert values.min() >= low - 1e-9
    assert values.max() <= high + 1e-9
    assert np.ptp(values) > 0.95 * width
    assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * values.size)


def bars_of(track):
    """Return the gates' bars, (8, 4): upper and lower beam, left and right post."""
    bars = [solid for solid in track.primitives if solid.role == "gate"]
    return [bars[4 * gate : 4 * gate + 4] for gate in range(8)]


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


def test_difficulty_is_uniform_or_drawn_from_a_range_or_given(tracks):
    assert_uniform([track.difficulty for track in tracks["circular"]], 0.0, 1.0)
    drawn = [make_track(seed, difficulty=(0.3, 0.4), obstacles=False).difficulty for seed in MANY]
    assert_uniform(drawn, 0.3, 0.4)
    assert make_track(0, difficulty=0.7).difficulty == 0.7


def test_openings_shrink_with_difficulty_each_side_by_itself(tracks):
    """Inner width and height 1.2 - 0.4 d + U(-0.05, 0.05), drawn separately."""
    every = [track for kind in KINDS for track in tracks[kind]]
    spread = np.array([track.gate_sizes - (1.2 - 0.4 * track.difficulty) for track in every])
    assert_uniform(spread[..., 0], -0.05, 0.05)
    assert_uniform(spread[..., 1], -0.05, 0.05)
    assert abs(np.corrcoef(spread[..., 0].ravel(), spread[..., 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(("kind", "widest"), [("circular", 0.25), ("zigzag", 0.25), ("ellipse", 0.22)])
def test_frames_are_narrower_on_ellipses(tracks, kind, widest):
    """Frame width U(0.15, 0.25), on ellipses U(0.15, 0.22), the same on four sides; depth (0.03 + 0.03 d) ± 20 %."""
    widths, depths = [], []
    for track in tracks[kind]:
        for (upper, lower, left, right), (width, height) in zip(bars_of(track), track.gate_sizes, strict=True):
            frame = 2 * upper.size[2]
            assert (2 * lower.size[2], 2 * left.size[1], 2 * right.size[1]) == pytest.approx((frame,) * 3)
            assert 2 * upper.size[1] == pytest.approx(width + 2 * frame)
            assert 2 * left.size[2] == pytest.approx(height)
            widths.append(frame)
            depths.append(2 * upper.size[0] / (0.03 + 0.03 * track.difficulty))
    assert_uniform(widths, 0.15, widest)
    assert_uniform(depths, 0.8, 1.2)


def test_gates_of_a_circle(tracks):
    """Radius U(5, 8), equal angles, normal along the tangent ± 30° d, position noise ±(0.2 + 0.8 d) m per axis."""
    easy = [make_track(seed, ("circular",), difficulty=0.0, obstacles=False) for seed in MANY]
    # Without much noise the mean distance from the middle is the radius.
    radius = np.array([np.linalg.norm(track.gate_positions[:, :2], axis=1).mean() for track in easy])
    assert radius.min() > 5 - 0.2
    assert radius.max() < 8 + 0.2
    assert radius.mean() == pytest.approx(6.5, abs=0.2)
    for track in easy:
        angle = np.unwrap(np.arctan2(track.gate_positions[:, 1], track.gate_positions[:, 0]))
        turned = np.sign(angle[-1] - angle[0])
        np.testing.assert_allclose(np.diff(angle), turned * math.pi / 4, atol=0.13)
        # At difficulty 0 there is no yaw noise: gates stand at multiples of 45°, and are flown along the tangent.
        tangent = np.round(angle / (math.pi / 4)) * math.pi / 4 + turned * math.pi / 2
        np.testing.assert_allclose(np.cos(track.gate_yaws - tangent), 1.0, atol=1e-12)
    half = [make_track(seed, ("circular",), difficulty=0.5, obstacles=False) for seed in MANY]
    yaws = np.degrees(np.concatenate([track.gate_yaws for track in half]))
    assert_uniform((yaws + 22.5) % 45 - 22.5, -15, 15)
    hard = [make_track(seed, ("circular",), difficulty=1.0, obstacles=False) for seed in MANY]
    heights = np.concatenate([track.gate_positions[:, 2] for track in hard])
    # 1 + U(-1, 1), clipped to [0.8, 2.0].
    assert np.mean(heights == 0.8) == pytest.approx(0.4, abs=0.018)
    assert heights.min() == 0.8
    assert 1.98 < heights.max() <= 2.0


def test_both_directions_of_flight_and_every_first_gate_occur(tracks):
    for kind in ("circular", "ellipse"):
        turns = []
        for track in tracks[kind]:
            x, y, _ = track.gate_positions.T
            turns.append(np.sign(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))
        assert np.mean(turns) == pytest.approx(0.0, abs=0.15)
    first = [math.atan2(*track.gate_positions[0, 1::-1]) for track in tracks["circular"]]
    counts = np.bincount(np.round(np.array(first) / (math.pi / 4)).astype(int) % 8, minlength=8)
    assert counts.min() > 25


def test_starts_of_a_circle(tracks):
    """2 to 4 m before the first gate, against the direction of flight with its yaw noise; height U(0.7, 1.5)."""
    distance = []
    for track in tracks["circular"]:
        direction = np.array([math.cos(track.gate_yaws[0]), math.sin(track.gate_yaws[0])])
        back = track.gate_positions[0, :2] - track.start[:2]
        distance.append(float(back @ direction))
        np.testing.assert_allclose(back, distance[-1] * direction, atol=1e-9)
    assert_uniform(distance, 2.0, 4.0)
    assert_uniform([track.start[2] for track in tracks["circular"]], 0.7, 1.5)


def test_starts_of_an_ellipse(tracks):
    """2 to 3 m past the gate before the first one, on the way to it (unit vector in space, then its own height)."""
    distance, ahead = [], []
    for track in tracks["ellipse"]:
        last, first = track.gate_positions[-1], track.gate_positions[0]
        way = (first - last) / np.linalg.norm(first - last)
        past = track.start[:2] - last[:2]
        distance.append(float(past @ way[:2] / (way[:2] @ way[:2])))
        np.testing.assert_allclose(past, distance[-1] * way[:2], atol=1e-9)
        ahead.append(np.linalg.norm(first[:2] - track.start[:2]))
    assert_uniform(distance, 2.0, 3.0)
    assert_uniform([track.start[2] for track in tracks["ellipse"]], 0.7, 1.5)
    np.testing.assert_allclose(np.percentile(ahead, [5, 50, 95]), [1.8, 2.7, 4.8], atol=0.25)


def test_starts_of_a_zigzag(tracks):
    """2 to 3 m before the first gate, on the line through the first two; height U(0.7, 1.5)."""
    distance = []
    for track in tracks["zigzag"]:
        first, second = track.gate_positions[:2]
        way = (second - first) / np.linalg.norm(second - first)
        back = first[:2] - track.start[:2]
        distance.append(float(back @ way[:2] / (way[:2] @ way[:2])))
        np.testing.assert_allclose(back, distance[-1] * way[:2], atol=1e-9)
    assert_uniform(distance, 2.0, 3.0)
    assert_uniform([track.start[2] for track in tracks["zigzag"]], 0.7, 1.5)


def test_few_starts_are_close_to_a_solid():
    """Nothing keeps the start clear, and in MasterRacing 0 to 1 % lie within 0.25 m of a solid."""
    near = 0
    for seed in range(160):
        track = make_track(seed)
        point = track.start + np.array([0.0, 0.0, 0.5])
        near += min(solid.distance(point) for solid in track.primitives) < 0.25
    assert near <= 5


@pytest.mark.parametrize("seed", SEEDS)
def test_zigzag_is_a_line_of_35_metres(seed):
    """Inner gates shifted by up to (1 + 3 d) t m sideways, t the fraction of the way; the middle is the tile's."""
    track = make_track(seed, ("zigzag",), difficulty=1.0)
    first, last = track.gate_positions[0], track.gate_positions[-1]
    assert np.linalg.norm(last - first) == pytest.approx(35.0, abs=1e-9)
    np.testing.assert_allclose((first + last)[:2], 0.0, atol=1e-9)
    forward = (last - first)[:2] / 35
    offset = track.gate_positions[:, :2] - first[:2]
    np.testing.assert_allclose(offset @ forward, np.arange(8) * 5.0, atol=1e-9)
    sideways = np.abs(offset @ np.array([-forward[1], forward[0]]))
    assert np.all(sideways <= 4 * np.arange(8) / 7 + 1e-9)
    assert track.exit_point[2] == last[2]
    assert np.linalg.norm(track.exit_point[:2] - first[:2]) > 37


def test_shifts_of_a_zigzags_gates():
    """Sideways U(-1, 1)·(1 + 3 d)·t, upwards U(-1, 1)·(0.1 + 0.9 d)·t, for gates 1 to 6; both ends at 1 m."""
    sideways, upwards = [], []
    for seed in MANY:
        track = make_track(seed, ("zigzag",), difficulty=0.2, obstacles=False)
        first, last = track.gate_positions[0], track.gate_positions[-1]
        left = np.array([-(last - first)[1], (last - first)[0]]) / 35
        t = np.arange(1, 7) / 7
        sideways.append((track.gate_positions[1:7, :2] - first[:2]) @ left / (1.6 * t))
        upwards.append((track.gate_positions[1:7, 2] - 1) / (0.28 * t))
        assert first[2] == last[2] == 1.0
    assert_uniform(np.array(sideways), -1, 1)
    upwards = np.array(upwards)[:, :4]
    # Gates 1 to 4 stay above the least height, so none of these is clipped.
    assert_uniform(upwards, -1, 1)


def ellipse_axes(track):
    """Return a track's gates in the axes of its ellipse, for a track with little noise."""
    xy = track.gate_positions[:, :2]
    _, _, axes = np.linalg.svd(xy - xy.mean(axis=0))
    return xy @ axes.T


@pytest.mark.parametrize("seed", SEEDS)
def test_ellipse_at_difficulty_0(seed):
    """Long axis (3.1414 + 1.6586 d)·5 m, short axis (1.414 - 0.614 d)·5 m, four gates 5 m beside the short one's."""
    track = make_track(seed, ("ellipse",), difficulty=0.0, obstacles=False)
    long, short = 3.1414 * 2.5, 1.414 * 2.5
    nominal = np.array(
        [(long, 0), (5, short), (0, short), (-5, short), (-long, 0), (-5, -short), (0, -short), (5, -short)]
    )
    xy = ellipse_axes(track)
    nearest = [int(np.linalg.norm(nominal - p, axis=1).argmin()) for p in xy]
    assert sorted(nearest) == list(range(8))
    assert np.abs(xy - nominal[nearest]).max() <= 0.5
    steps = np.diff(nearest) % 8
    assert set(steps.tolist()) in ({1}, {7})


def test_ellipse_grows_long_with_difficulty_and_lies_in_any_direction():
    hard = [make_track(seed, ("ellipse",), difficulty=1.0, obstacles=False) for seed in MANY]
    extents = np.array([np.ptp(ellipse_axes(track), axis=0) for track in hard])
    # 4.8 · 5 m with noise at both ends; 0.8 · 5 m with noise on rows of three.
    assert extents[:, 0].mean() == pytest.approx(24.0, abs=0.3)
    assert 4.0 < extents[:, 1].mean() < 6.0
    easy = [make_track(seed, ("ellipse",), difficulty=0.0, obstacles=False) for seed in MANY]
    angle = []
    for track in easy:
        xy = track.gate_positions[:, :2]
        end = xy[np.linalg.norm(xy, axis=1).argmax()]
        angle.append(math.atan2(end[1], end[0]))
    assert_uniform(angle, -math.pi, math.pi)


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
    with pytest.raises(OptionError, match=r"0\.6, 0\.2"):
        make_track(0, difficulty=(0.6, 0.2))
