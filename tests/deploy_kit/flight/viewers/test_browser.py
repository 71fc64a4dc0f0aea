"""What viser is told to show; how it looks was seen in a browser."""

import time

import numpy as np
import pytest

pytest.importorskip("viser", reason="the extra 'viewer' is not installed; continuous integration has it in a job")

from deploy_kit.flight.viewers.browser import FlightViewer
from deploy_kit.flight.viewers.camera import camera_pose, coloured
from deploy_kit.task.interface import ACTION_UNITS

SHAPE = (18, 24)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def viewer(flights):
    with FlightViewer(flights, SHAPE, 0.3, port=18080) as viewer:
        yield viewer


def test_a_step_is_shown_as_it_was_flown(viewer, flights):
    trace = flights[0].trace
    for step in (0, 7, 11):
        viewer.show(step)
        assert np.allclose(viewer.drone.position, trace.position[step])
        assert np.allclose(viewer.drone.wxyz, trace.quaternion[step])
        centre, turned = camera_pose(trace.position[step], trace.quaternion[step])
        assert np.allclose(viewer.frustum.position, centre)
        assert np.allclose(viewer.frustum.wxyz, turned)
        assert np.array_equal(viewer.frustum.image, coloured(trace.depth[step], SHAPE))
        assert viewer.gate.value.startswith(f"{trace.probability[step]:.4f} of 0.300")
        assert viewer.gate.value.endswith(", passed") is (step == 7)
        command = flights[0].transform.apply(trace.action[step])
        assert [shown.value for shown in viewer.commands] == [
            f"{value:.2f} {unit}" for value, unit in zip(command, ACTION_UNITS, strict=True)
        ]
        assert viewer.slider.value == step
        assert viewer.clock.value == f"{0.03 * step:.2f} s of 0.36 s"


def test_steps_beyond_the_ends_stop_there(viewer):
    viewer.show(99)
    assert viewer.step == 11
    viewer.show(-5)
    assert viewer.step == 0


def test_flights_of_one_name_can_be_told_apart_and_chosen(viewer, flights):
    assert viewer.choice.options == ("1. same", "2. same")
    viewer.show(5)
    viewer.choose("2. same")
    assert viewer.flight is flights[1]
    assert viewer.step == 0
    assert viewer.gate.value == "no gate head"
    assert np.allclose(viewer.drone.position, flights[1].trace.position[0])


def test_it_plays_to_the_end_and_stops(viewer):
    viewer.speed.value = "2"
    viewer.playing.value = True
    for _ in range(600):
        if not viewer.playing.value:
            break
        time.sleep(0.05)
    assert (viewer.step, viewer.playing.value) == (11, False)


def test_it_is_served_to_this_machine_alone(viewer):
    assert viewer.url.startswith("http://127.0.0.1:")
