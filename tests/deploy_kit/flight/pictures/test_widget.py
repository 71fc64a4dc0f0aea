"""What the page shows of a flight, read from the page's own data."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from deploy_kit.flight.pictures import widget
from deploy_kit.flight.pictures.index import chosen_traces
from deploy_kit.flight.pictures.widget import ShownFlight, flight_widget
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.page.blocks import Page, Section, Verdict
from deploy_kit.page.render import render_page
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.interface import ActionTransform
from helpers.pages import assert_self_contained

STEPS, SHAPE = 40, (18, 24)
TRANSFORM = ActionTransform.from_limits(3.0, (6.0, 6.0, 6.0), 9.81)


def make_trace(steps=STEPS, passed=(10, 30), crashed=False, env=0) -> FlightTrace:
    rng = np.random.default_rng(env)
    track = make_track(3, ("circular",), obstacles=True)
    ramp = np.linspace(0.0, 1.0, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    return FlightTrace(
        env=env,
        policy_period=0.05,
        image_start=16,
        track=track,
        position=list(np.linspace(track.gate_positions[0] - 1, track.gate_positions[1] + 1, steps)),
        quaternion=[np.array([1.0, 0.0, 0.0, 0.0])] * steps,
        speed=list(rng.uniform(2, 5, steps)),
        probability=list(rng.uniform(1e-6, 0.9, steps)),
        action=list(rng.normal(size=(steps, 4)).astype(np.float32)),
        depth=[(ramp * (step + 1) / steps).ravel().astype(np.float16) for step in range(steps)],
        passed=[step in passed for step in range(steps)],
        crashed=crashed,
    )


def shown(trace, threshold=0.3):
    flight = ShownFlight("name", "about", trace, TRANSFORM)
    block = flight_widget([flight], SHAPE, threshold)
    source = render_page(Page("t", Verdict("v"), (Section("s", (block,)),)))
    return assert_self_contained(source).data[0]


def images(depth):
    sheet = Image.open(io.BytesIO(base64.b64decode(depth["uri"].split(",")[1])))
    rows, columns = SHAPE
    pixels = np.asarray(sheet.convert("L"))
    across = depth["columns"]
    assert pixels.shape[1] == across * columns
    return lambda index: pixels[
        index // across * rows : (index // across + 1) * rows, index % across * columns : (index % across + 1) * columns
    ]


def test_every_step_is_the_flight_s():
    trace = make_trace()
    data = shown(trace)
    (flight,) = data["flights"]
    assert np.allclose(np.array(flight["position"]).T, trace.position, atol=6e-4)
    assert np.allclose(np.array(flight["command"]).T, TRANSFORM.apply(np.stack(trace.action)), atol=6e-4)
    assert np.allclose(flight["probability"], trace.probability, rtol=1e-3)
    assert np.allclose(flight["speed"], trace.speed, atol=6e-4)
    assert flight["distance"][-1] == pytest.approx(np.linalg.norm(trace.position[-1] - trace.position[0]), abs=0.01)
    assert (flight["passed"], flight["crashed"], data["threshold"], data["period"]) == ([10, 30], False, 0.3, 0.05)
    for index, command in enumerate(data["commands"]):
        values = np.array(flight["command"][index])
        assert command["low"] == pytest.approx(min(0, values.min()), abs=1e-3)
        assert command["high"] == pytest.approx(values.max(), abs=1e-3)


def test_depth_images_lie_where_the_script_looks_for_them():
    trace = make_trace()
    depth = shown(trace)["flights"][0]["depth"]
    at = images(depth)
    for step in (0, 7, STEPS - 1):
        expected = trace.depth[step].astype(np.float64).reshape(SHAPE) * 255
        assert np.abs(at(step) - expected).mean() < 6


def test_long_flights_show_every_other_image(monkeypatch):
    monkeypatch.setattr(widget, "MOST_IMAGES", 15)
    trace = make_trace()
    depth = shown(trace)["flights"][0]["depth"]
    assert depth["stride"] == 3
    expected = trace.depth[39].astype(np.float64).reshape(SHAPE) * 255
    assert np.abs(images(depth)(13) - expected).mean() < 6


def test_the_camera_looks_ahead_and_up():
    camera = shown(make_trace())["camera"]
    corners = np.array(camera["corners"]) - camera["eye"]
    middle = corners.mean(axis=0)
    assert np.degrees(np.arctan2(middle[2], middle[0])) == pytest.approx(15.06, abs=0.5)
    # Left and right, upper and lower: y is left, z is up.
    assert corners[0, 1] > 0 > corners[1, 1]
    assert corners[0, 2] > corners[3, 2]
    width = np.degrees(np.arctan2(corners[0, 1], np.hypot(*corners[0, [0, 2]])))
    assert 30 < width < 40


def test_track_and_ground_hold_what_was_flown():
    trace = make_trace()
    (flight,) = shown(trace)["flights"]
    track, solids = flight["track"], trace.track.primitives
    assert np.allclose(np.array(track["centres"]).T, trace.track.gate_positions, atol=6e-4)
    gates = np.array(track["gates"]["vertices"])
    assert gates.shape[1] == 8 * sum(solid.role == "gate" for solid in solids)
    assert max(map(max, track["obstacles"]["faces"])) < len(track["obstacles"]["vertices"][0])
    middle = (np.array(track["bars"]).sum(axis=1) / 2).T
    assert np.allclose(middle.T, trace.track.gate_positions[:, :2], atol=1e-3)
    ground = np.array(flight["ground"])
    for axis in (0, 1):
        assert ground[axis].min() < min(p[axis] for p in trace.position)
        assert ground[axis].max() > max(p[axis] for p in trace.position)


def test_what_is_not_finite_is_said_to_be_missing():
    trace = make_trace()
    trace.probability[3] = float("nan")
    trace.position[4] = np.array([np.inf, 0.0, 1.0])
    (flight,) = shown(trace)["flights"]
    assert flight["probability"][3] is None
    assert flight["position"][0][4] is None


def test_the_best_flight_is_shown_and_the_worst_crash():
    best, good = make_trace(env=0, passed=(1, 2, 3)), make_trace(env=1, passed=(1, 2), crashed=True)
    worst, same = make_trace(env=2, passed=(1,), crashed=True), make_trace(env=3, passed=(1, 2, 3), crashed=True)
    assert chosen_traces([same, good, worst, best]) == (best, worst)
    assert chosen_traces([worst]) == (worst,)
    assert chosen_traces([]) == ()
