import copy
import math

import pytest

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.camera import resolve_camera
from deploy_kit.policy.run.params import RunParams
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import TASK_ID, Camera

LAYOUT = ObservationLayout()
SENSOR = {
    "class_type": "isaaclab.sensors:RayCasterCamera",
    "prim_path": "/World/Robot/camera",
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


def of_run(task=None, **scene):
    return resolve_camera(RunParams(env={"scene": scene}), task, LAYOUT)


def sensor(section=None, **changes):
    found = copy.deepcopy(SENSOR)
    (found if section is None else found[section]).update(changes)
    return found


def test_the_named_tasks_camera_is_the_simulators():
    camera, simulated = resolve_camera(RunParams(), TASK_ID, LAYOUT), Camera()
    assert (camera.width, camera.height) == (simulated.width, simulated.height)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (simulated.fx, simulated.fy, simulated.cx, simulated.cy)
    assert camera.mount.position_m == simulated.position
    assert math.radians(camera.mount.pitch_up_deg) == simulated.tilt
    assert camera.source == "task"
    assert (camera.mount.link, camera.mount.position_source, camera.mount.pitch_source) == (
        "body",
        "assumed",
        "assumed",
    )


def test_the_runs_camera():
    camera = of_run(robot={"prim_path": "/World/Robot"}, front_camera=SENSOR)
    assert (camera.width, camera.height) == (96, 72)
    assert (camera.fx, camera.fy) == pytest.approx((58.344, 58.344), abs=1e-3)
    assert (camera.cx, camera.cy) == pytest.approx((47.556, 36.299), abs=1e-3)
    assert camera.source == "params/env.yaml: scene.front_camera"
    assert camera.mount.link == "camera"
    assert camera.mount.pitch_up_deg == pytest.approx(15.06, abs=1e-2)
    assert camera.mount.position_m == (0.01, 0.0, 0.0)
    assert camera.mount.position_source == camera.mount.pitch_source == "params/env.yaml: scene.front_camera.offset"


def test_a_camera_on_the_robots_root_sits_on_the_body():
    mount = of_run(robot={"prim_path": "/World/Robot"}, front_camera=sensor(prim_path="/World/Robot")).mount
    assert mount.link == "body"


@pytest.mark.parametrize("rotation", [(0.991, 0, -0.131, 0.0), (0, -0.131, 0, 0.991)])
def test_both_orders_of_isaac_labs_quaternions_are_read(rotation):
    mount = of_run(front_camera=sensor("offset", rot=rotation)).mount
    assert mount.pitch_up_deg == pytest.approx(15.06, abs=1e-2)


@pytest.mark.parametrize("change", [{"convention": "ros"}, {"rot": (0.7, 0.7, 0.0, 0.0)}, {"rot": None}])
def test_an_attitude_that_is_no_pitch_is_unknown(change):
    camera = of_run(front_camera=sensor("offset", **change))
    assert (camera.mount.pitch_up_deg, camera.mount.pitch_source) == (None, None)
    assert camera.fx == pytest.approx(58.344, abs=1e-3)


def test_a_usd_camera_with_square_pixels():
    lens = {"focal_length": 24.0, "horizontal_aperture": 48.0}
    camera = of_run(tiled_camera={"class_type": "isaaclab:TiledCamera", "width": 96, "height": 72, "spawn": lens})
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (48.0, 48.0, 48.0, 36.0)


@pytest.mark.parametrize("change", [{"width": "96"}, {"horizontal_aperture": 0.0}, {"vertical_aperture_offset": "x"}])
def test_numbers_that_are_none_are_an_error(change):
    with pytest.raises(CheckpointError, match=rf"scene.front_camera: {next(iter(change))} is"):
        of_run(front_camera=sensor("pattern_cfg", **change))


def test_another_image_than_the_policys_is_an_error():
    with pytest.raises(CheckpointError, match="has 72 x 95 pixels, this policy's image 72 x 96"):
        of_run(front_camera=sensor("pattern_cfg", width=95))


def test_no_camera_takes_the_place_of_one_that_is_not_understood(caplog):
    fisheye = {"class_type": "x:RayCasterCamera", "pattern_cfg": {"func": "x:fisheye"}}
    assert of_run(TASK_ID, front_camera=fisheye) is None
    assert "scene.front_camera is no pinhole camera" in caplog.text


def test_a_task_that_the_run_contradicts_is_an_error():
    assert of_run(TASK_ID, front_camera=SENSOR).source.startswith("params/env.yaml")
    with pytest.raises(OptionError, match=r"camera: params/env.yaml says fx 60.*, but task .* says fx 58.344"):
        of_run(TASK_ID, front_camera=sensor("pattern_cfg", horizontal_aperture=38.4))


def test_no_camera_is_invented(caplog):
    assert resolve_camera(RunParams(), None, LAYOUT) is None
    assert of_run(TASK_ID, a_camera=SENSOR, b_camera=SENSOR) is None
    assert "several cameras in the scene (a_camera, b_camera)" in caplog.text


def test_of_several_cameras_it_is_the_one_that_the_policy_reads():
    env = {
        "scene": {"a_camera": SENSOR, "b_camera": sensor("pattern_cfg", focal_length=12.0)},
        "observations": {"policy": {"image": {"params": {"sensor_cfg": {"name": "b_camera"}}}}},
    }
    assert resolve_camera(RunParams(env=env), None, LAYOUT).fx == pytest.approx(29.172, abs=1e-3)
