import copy
import math
from dataclasses import replace

import pytest

from deploy_kit.policy.run.camera import resolve_camera
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle import vehicle_record
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import TASK_ID, Camera

LAYOUT = ObservationLayout()
SENSOR = {
    "offset": {"pos": (0.01, 0.0, 0.0), "rot": (0.991, 0, -0.131, 0.0), "convention": "world"},
    "pattern_cfg": {
        "focal_length": 24.0,
        "horizontal_aperture": 39.48961726436705,
        "vertical_aperture": 29.617212948275284,
        "horizontal_aperture_offset": -0.0076099783269873225,
        "vertical_aperture_offset": 0.005116167861724587,
        "width": 96,
        "height": 72,
    },
}


def of_run(**scene):
    return resolve_camera(RunParams(env={"scene": scene}), None, LAYOUT)


def test_the_named_tasks_camera_is_the_simulators():
    camera, simulated = resolve_camera(RunParams(), TASK_ID, LAYOUT), Camera()
    assert (camera.width, camera.height) == (simulated.width, simulated.height)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (simulated.fx, simulated.fy, simulated.cx, simulated.cy)
    assert camera.position_m == simulated.position
    assert math.radians(camera.pitch_up_deg) == simulated.tilt
    assert camera.source == "task"


def test_the_runs_camera():
    camera = of_run(robot=1, front_camera=SENSOR)
    assert (camera.width, camera.height) == (96, 72)
    assert (camera.fx, camera.fy) == pytest.approx((58.344, 58.344), abs=1e-3)
    assert (camera.cx, camera.cy) == pytest.approx((47.556, 36.299), abs=1e-3)
    assert camera.pitch_up_deg == pytest.approx(15.06, abs=1e-2)
    assert camera.position_m is None
    assert camera.source == "params/env.yaml"


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("pattern_cfg", {"width": 95}),
        ("pattern_cfg", {"width": "96"}),
        ("pattern_cfg", {"horizontal_aperture": 0.0}),
        ("offset", {"convention": "ros"}),
        ("offset", {"rot": (0.7, 0.7, 0.0, 0.0)}),
        ("offset", {"rot": None}),
    ],
)
def test_a_camera_that_is_not_understood_is_left_out(section, change):
    sensor = copy.deepcopy(SENSOR)
    sensor[section].update(change)
    assert of_run(front_camera=sensor) is None


def test_no_camera_is_invented():
    assert resolve_camera(RunParams(), None, LAYOUT) is None
    assert of_run(a=SENSOR, b=SENSOR) is None


def test_the_camera_of_the_task_that_is_recorded_in_the_checkpoint():
    params = RunParams(recorded_vehicle=vehicle_record(TASK_ID))
    of_task = resolve_camera(RunParams(), TASK_ID, LAYOUT)
    for task in (None, TASK_ID):
        assert resolve_camera(params, task, LAYOUT) == replace(of_task, source="checkpoint")
    assert resolve_camera(RunParams(recorded_vehicle={"task": "another"}), None, LAYOUT) is None
