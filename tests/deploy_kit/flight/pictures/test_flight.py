"""What the pictures of a flight show, read off the figures and frames before they are written."""

import av
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from PIL import Image

from deploy_kit.flight.pictures.flight import draw_flight, picture_paths, still_steps
from deploy_kit.flight.pictures.track import COLOURS, draw_track, draw_track_axes
from deploy_kit.flight.pictures.video import DARK, LINE, PASSED, SCALE, TEXT, DepthVideo
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.interface import ActionTransform

STEPS, PASSES = 60, (20, 40)
SHAPE = (18, 24)
TRANSFORM = ActionTransform.from_limits(3.0, (6.0, 6.0, 6.0), 9.81)


@pytest.fixture
def trace() -> FlightTrace:
    """A flight that passes the first two gates of a track, with another probability and action in each step."""
    track = make_track(3, ("circular",), obstacles=True)
    steps = np.arange(STEPS)
    return FlightTrace(
        env=0,
        policy_period=0.05,
        image_start=16,
        track=track,
        position=list(np.linspace(track.gate_positions[0] - 1, track.gate_positions[1] + 1, STEPS)),
        speed=list(2.0 + steps / STEPS),
        probability=[0.9 if step == PASSES[1] else 0.4 if step == PASSES[0] else step / 1000 for step in steps],
        action=[np.array([0.01 * step, 0.1, -0.2, 0.3], np.float32) for step in steps],
        depth=[np.full(SHAPE[0] * SHAPE[1], step / STEPS, np.float16) for step in steps],
        passed=[step in PASSES for step in steps],
    )


@pytest.fixture
def figures(monkeypatch) -> dict[str, Figure]:
    """The figures that are saved, by file name; saving happens all the same."""
    saved: dict[str, Figure] = {}
    save = Figure.savefig

    def keep(figure, path, **options):
        saved[path.name] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def draw(trace, tmp_path, threshold=0.3):
    return [path.name for path in draw_flight(tmp_path / "pictures", trace, SHAPE, TRANSFORM, threshold)]


def test_all_pictures_are_written_where_there_is_all_to_show(trace, tmp_path):
    assert draw(trace, tmp_path) == ["actions.png", "auxiliary_prob.png", "depth.mp4", "depth.png", "track.png"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        path.name for path in picture_paths(tmp_path).values()
    }


def test_what_there_is_no_data_for_is_left_out(trace, tmp_path, figures):
    trace.probability, trace.track, trace.passed = [], None, [False] * STEPS
    assert draw(trace, tmp_path) == ["actions.png", "depth.mp4"]
    assert len(figures["actions.png"].axes) == 4


def test_pictures_of_an_earlier_flight_do_not_stay_beside_the_new_ones(trace, tmp_path):
    draw(trace, tmp_path)
    (tmp_path / "pictures" / "mine.png").touch()
    trace.probability, trace.passed = [], [False] * STEPS
    drawn = draw(trace, tmp_path)
    assert drawn == ["actions.png", "depth.mp4", "track.png"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {*drawn, "mine.png"}


def test_a_flight_of_one_step_has_pictures_but_no_track(trace, tmp_path, figures):
    for name in ("position", "speed", "probability", "action", "depth", "passed"):
        setattr(trace, name, getattr(trace, name)[:1])
    assert draw(trace, tmp_path) == ["actions.png", "auxiliary_prob.png", "depth.mp4"]
    for figure in figures.values():
        assert figure.axes[-1].get_xlim() == (0, 0.05)


def path_and_gates(axes):
    path, gates, missed = (found for found in axes.collections if isinstance(found, LineCollection))
    return path, gates, missed


def test_path_and_gates_are_coloured_by_the_probability(trace):
    axes = Figure().subplots()
    draw_track_axes(axes, trace, trace.track)
    path, gates, missed = path_and_gates(axes)
    points = np.stack(trace.position)[:, :2]
    np.testing.assert_array_equal(path.get_array(), trace.probability[1:])
    np.testing.assert_array_equal(path.get_segments()[30], points[30:32])
    np.testing.assert_array_equal(gates.get_array(), [0.4, 0.9])
    assert len(missed.get_segments()) == 6
    for found in (path, gates):
        assert found.get_cmap() is COLOURS
        assert (found.norm.vmin, found.norm.vmax) == (0.0, 1.0)
    low, high = gates.to_rgba([0.0, 0.9])
    assert high[0] > low[0] + 0.15, "the likelier the redder"
    assert high[2] < low[2] - 0.3
    assert [text.get_text() for text in axes.texts] == ["1: 0.40", "2: 0.90", "3", "4", "5", "6", "7", "8"]


def test_gates_lie_across_the_flight_as_wide_as_they_are(trace):
    axes = Figure().subplots()
    draw_track_axes(axes, trace, trace.track)
    for index, bar in enumerate(path_and_gates(axes)[1].get_segments()):
        np.testing.assert_allclose(bar.mean(axis=0), trace.track.gate_positions[index, :2])
        along = bar[1] - bar[0]
        yaw = trace.track.gate_yaws[index]
        assert abs(along @ [np.cos(yaw), np.sin(yaw)]) < 1e-9
        assert np.linalg.norm(along) == pytest.approx(trace.track.gate_sizes[index, 0] + 0.4)


def test_obstacles_start_and_end_are_drawn(trace):
    axes = Figure().subplots()
    draw_track_axes(axes, trace, trace.track)
    obstacles = next(found for found in axes.collections if isinstance(found, PatchCollection))
    assert len(obstacles.get_paths()) == sum(part.role == "obstacle" for part in trace.track.primitives) > 10
    marks = {line.get_label(): line.get_xydata()[0] for line in axes.lines}
    assert set(marks) == {"start", "end"}
    np.testing.assert_array_equal(marks["start"], trace.position[0][:2])
    np.testing.assert_array_equal(marks["end"], trace.position[-1][:2])
    assert "2 gates in 3.0 s" in axes.get_title()
    trace.crashed = True
    crashed = Figure().subplots()
    draw_track_axes(crashed, trace, trace.track)
    assert [line.get_label() for line in crashed.lines] == ["start", "crash"]


def test_without_a_head_the_path_is_coloured_by_speed(trace, tmp_path, figures):
    trace.probability = []
    draw_track(trace, tmp_path / "track.png")
    axes, bar = figures["track.png"].axes
    path, gates, _ = path_and_gates(axes)
    np.testing.assert_array_equal(path.get_array(), trace.speed[1:])
    np.testing.assert_array_equal(gates.get_array(), [trace.speed[step] for step in PASSES])
    assert bar.get_ylabel() == "speed (m/s)"
    assert axes.texts[0].get_text() == "1"


def test_a_second_lap_shows_the_last_passage_of_a_gate(trace):
    trace.passed = [10 <= step < 19 for step in range(STEPS)]
    axes = Figure().subplots()
    draw_track_axes(axes, trace, trace.track)
    _, gates, missed = path_and_gates(axes)
    np.testing.assert_allclose(gates.get_array(), [0.018, *np.arange(11, 18) / 1000])
    assert len(missed.get_segments()) == 0


def test_the_track_has_a_colour_bar_and_a_legend(trace, tmp_path, figures):
    draw_track(trace, tmp_path / "track.png")
    figure = figures["track.png"]
    assert figure.axes[1].get_ylabel() == "gate probability"
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names == {"obstacle", "gate not passed", "start", "end"}


@pytest.mark.parametrize("lacking", ["track", "position"])
def test_a_track_picture_needs_a_track_and_positions(trace, tmp_path, lacking):
    setattr(trace, lacking, None if lacking == "track" else [])
    with pytest.raises(ValueError, match="needs a track and positions"):
        draw_track(trace, tmp_path / "track.png")


def test_probability_and_commands_over_time_in_their_units(trace, tmp_path, figures):
    draw(trace, tmp_path)
    rows = figures["actions.png"].axes
    assert [axes.get_ylabel() for axes in rows] == [
        "gate\nprobability",
        "thrust\n(m/s²)",
        "body rate x\n(rad/s)",
        "body rate y\n(rad/s)",
        "body rate z\n(rad/s)",
    ]
    command = TRANSFORM.apply(np.stack(trace.action))
    drawn = [{line.get_label(): line for line in axes.lines} for axes in rows]
    np.testing.assert_array_equal(drawn[0]["gate probability"].get_ydata(), trace.probability)
    for index in range(4):
        (curve,) = (line for line in rows[index + 1].lines if len(line.get_xdata()) == STEPS)
        np.testing.assert_array_equal(curve.get_ydata(), command[:, index])
        np.testing.assert_allclose(curve.get_xdata(), 0.05 * np.arange(STEPS))
    for axes in (*rows, figures["auxiliary_prob.png"].axes[0]):
        marks = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
        np.testing.assert_allclose(marks, [1.0, 2.0])
    assert drawn[0]["threshold 0.30"].get_ydata()[0] == 0.3


def test_the_probability_alone_fits_its_axis(trace, tmp_path, figures):
    trace.probability = [value / 20 for value in trace.probability]
    draw(trace, tmp_path, threshold=None)
    (axes,) = figures["auxiliary_prob.png"].axes
    assert axes.get_ylim()[1] == pytest.approx(1.2 * 0.9 / 20)
    assert not [line for line in axes.lines if str(line.get_label()).startswith("threshold")]


def test_the_video_has_a_frame_a_step_in_real_time(trace, tmp_path):
    draw(trace, tmp_path)
    with av.open(str(tmp_path / "pictures" / "depth.mp4")) as container:
        assert container.streams.video[0].average_rate == 20
        assert sum(1 for _ in container.decode(video=0)) == STEPS


def test_the_still_shows_the_surest_passage_coming_nearer(trace, tmp_path):
    assert still_steps(trace) == [22, 31, 40]
    draw(trace, tmp_path)
    picture = np.asarray(Image.open(tmp_path / "pictures" / "depth.png"))
    width = SHAPE[1] * SCALE
    assert picture.shape[1] == 3 * width + 2 * 12
    frames = [picture[:, index * (width + 12) :][:, :width] for index in range(3)]
    assert [tuple(frame[0, 0]) == PASSED for frame in frames] == [False, False, True]
    assert (picture[:, width : width + 12] == 255).all()


def test_the_still_prefers_no_passage_where_there_is_no_head_or_none_can_be_shown(trace):
    trace.probability = []
    assert still_steps(trace) == [2, 11, 20]
    trace.passed = [step == 5 for step in range(STEPS)]
    assert still_steps(trace) == []


@pytest.mark.parametrize(("probability", "passed"), [(0.0, False), (0.25, False), (1.0, True)])
def test_the_bar_is_as_long_as_the_probability(tmp_path, probability, passed):
    with DepthVideo(tmp_path / "v.mp4", (72, 96), threshold=0.6) as video:
        frame = video.draw(np.ones((72, 96)), probability, passed)
        video.add(np.ones((72, 96)), probability, passed)
    row = frame[72 * SCALE + 37, 12:565]
    filled = PASSED if passed else LINE
    tick = np.flatnonzero((row == TEXT).all(axis=1))
    np.testing.assert_allclose(tick, 0.6 * len(row), atol=2)
    length = int((row == filled).all(axis=1).sum())
    assert length == pytest.approx(probability * len(row), abs=3)
    assert length + int((row == DARK).all(axis=1).sum()) + len(tick) == len(row)


def test_a_policy_without_a_head_has_no_bar(tmp_path):
    with DepthVideo(tmp_path / "v.mp4", (72, 96), threshold=0.6) as video:
        frame = video.draw(np.ones((72, 96)), None, False)
        video.add(np.ones((72, 96)), None, False)
    assert not (frame[72 * SCALE + 37] == DARK).all(axis=1).any()


def test_a_video_that_ends_before_its_first_frame_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), DepthVideo(tmp_path / "v.mp4", (72, 96)):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
