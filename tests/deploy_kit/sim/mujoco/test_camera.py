import math

import mujoco
import numpy as np
import pytest

from deploy_kit.sim.mujoco.camera import TILE_GRID, DepthCamera, SolidTable, ray_directions
from deploy_kit.sim.mujoco.scene import DRONE, build_model
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_euler, matrix_from_quaternion, random_quaternion
from deploy_kit.sim.tracks import gate_frame, make_track
from deploy_kit.task.racing import RACING_TASK
from helpers.tracks import track_of

CAMERA = RACING_TASK.camera
HEIGHT = 30.0
"""Far above the ground, so that only the solids of the test are within range."""


def frame(*primitives, pitch=CAMERA.tilt, roll=0.0, yaw=0.0, centre=None):
    """Capture a frame; by default the optical axis is horizontal and the optical centre at (0, 0, HEIGHT)."""
    rotation = matrix_from_euler(np.array([roll, pitch, yaw]))
    if centre is None:
        centre = np.array([0.0, 0.0, HEIGHT]) - rotation @ np.array(CAMERA.position)
    model = build_model(track_of(*primitives), RACING_TASK, 0.5, 1.0)
    out = np.full(CAMERA.height * CAMERA.width, np.nan, np.float32)
    DepthCamera(CAMERA).capture(SolidTable.from_model(model), centre, rotation, out)
    return out.reshape(CAMERA.height, CAMERA.width)


def test_a_known_pose_sees_a_known_gate_at_known_pixels():
    # Front face 5 m ahead, back face at 5.05 m; opening 1.0 m wide and 1.1 m high, frame 0.2 m wide.
    gate = gate_frame(np.array([5.025, 0.0, HEIGHT]), 0.0, (1.0, 1.1), 0.2, 0.05)
    image = frame(*gate)
    # Columns u = 47.556 - 58.344·y/5: outer left edge (y = 0.7) 39.39, inner left edge 41.72 (its back 41.78),
    # inner right edge 53.39 (its back 53.33), outer right edge 55.72. Pixel j covers u = j + 0.5.
    row = image[36]
    np.testing.assert_allclose(row[39:42], 5.0, rtol=1e-6)
    np.testing.assert_allclose(row[53:56], 5.0, rtol=1e-6)
    np.testing.assert_array_equal(row[np.r_[0:39, 42:53, 56:96]], 10.0)
    # Rows v = 36.299 - 58.344·z/5: outer top edge (z = 0.75) 27.55, inner top edge 29.88 (its back 29.94),
    # inner bottom edge 42.72 (its back 42.65), outer bottom edge 45.05.
    column = image[:, 47]
    np.testing.assert_allclose(column[28:30], 5.0, rtol=1e-6)
    np.testing.assert_allclose(column[43:45], 5.0, rtol=1e-6)
    np.testing.assert_array_equal(column[np.r_[0:28, 30:43, 45:72]], 10.0)


def nearest_pixel(image):
    return tuple(int(i) for i in np.unravel_index(image.argmin(), image.shape))


def test_left_is_a_small_column_and_up_a_small_row():
    # Projected at u = 47.556 - 58.344·(1/5) = 35.89, v = 36.299 - 58.344·(0.5/5) = 30.46.
    assert nearest_pixel(frame(Primitive("sphere", (0.05,), (5.0, 1.0, HEIGHT + 0.5)))) == (30, 35)
    # And u = 47.556 + 58.344·(1.5/5) = 65.06, v = 36.299 + 58.344·(1.02/5) = 48.20.
    assert nearest_pixel(frame(Primitive("sphere", (0.05,), (5.0, -1.5, HEIGHT - 1.02)))) == (48, 65)


def test_the_camera_looks_up_from_a_level_body():
    # A ball level with the camera stands below the optical axis: v = 36.299 + 58.344·tan(15.06°) = 52.00; 0.02 m
    # lower it is 52.3. A ball on the axis is at (36, 47).
    level = frame(Primitive("sphere", (0.05,), (5.0, 0.0, HEIGHT - 0.02)), pitch=0.0)
    assert nearest_pixel(level) == (52, 47)
    up = 5 * math.tan(math.radians(15.06))
    assert nearest_pixel(frame(Primitive("sphere", (0.05,), (5.0, 0.0, HEIGHT + up)), pitch=0.0)) == (36, 47)


def test_the_camera_sits_ahead_of_the_bodys_centre():
    wall = Primitive("box", (0.01, 8.0, 8.0), (3.01, 0.0, HEIGHT))
    image = frame(wall, centre=np.array([0.0, 0.0, HEIGHT]))
    np.testing.assert_allclose(image, 3.0 - 0.04 * math.cos(CAMERA.tilt), rtol=1e-6)


def test_yaw_and_roll_turn_the_view():
    ball = Primitive("sphere", (0.05,), (0.0, 5.0, HEIGHT))
    assert nearest_pixel(frame(ball, yaw=math.pi / 2)) == (36, 47)
    # Rolled by 90° (left side up), what is above the axis appears on the left.
    above = Primitive("sphere", (0.05,), (5.0, 0.0, HEIGHT + 1.02))
    rotation = matrix_from_euler(np.array([math.pi / 2, 0.0, 0.0])) @ matrix_from_euler(np.array([0, CAMERA.tilt, 0]))
    model = build_model(track_of(above), RACING_TASK, 0.5, 1.0)
    out = np.empty(CAMERA.height * CAMERA.width, np.float32)
    centre = np.array([0.0, 0.0, HEIGHT]) - rotation @ np.array(CAMERA.position)
    DepthCamera(CAMERA).capture(SolidTable.from_model(model), centre, rotation, out)
    # u = 47.556 - 58.344·1.02/5 = 35.65
    assert nearest_pixel(out.reshape(CAMERA.height, CAMERA.width)) == (36, 35)


@pytest.mark.parametrize("depth", [0.5, 4.0, 9.5])
def test_depth_is_along_the_optical_axis(depth):
    # The corners' rays are 1.3 to 1.5 times as long; all pixels read the same.
    np.testing.assert_allclose(frame(Primitive("box", (0.01, 20, 20), (depth + 0.01, 0, HEIGHT))), depth, rtol=1e-6)


def test_depth_is_clipped_to_the_range():
    np.testing.assert_array_equal(frame(Primitive("box", (0.01, 20, 20), (10.51, 0, HEIGHT))), 10.0)
    np.testing.assert_array_equal(frame(), 10.0)


def test_the_ground_is_seen_at_its_depth():
    image = frame(centre=np.array([0.0, 0.0, 1.0]) - matrix_from_euler(np.array([0, CAMERA.tilt, 0])) @ CAMERA.position)
    # One metre above the ground, pixel centre v sees it at fy / (v - cy) metres.
    rows = np.arange(72) + 0.5
    with np.errstate(divide="ignore"):
        expected = np.where(rows > CAMERA.cy, np.minimum(CAMERA.fy / np.maximum(rows - CAMERA.cy, 1e-9), 10), 10)
    np.testing.assert_allclose(image, np.repeat(expected[:, None], 96, axis=1), rtol=1e-6)


def test_the_camera_does_not_see_the_drone():
    # Seen from behind the drone's start, where its collision box stands in the way.
    image = frame(centre=np.array([-1.0, 0.0, 1.5]), pitch=0.0)
    assert image[36, 47] == 10.0


def test_ray_directions_are_row_major_from_the_top_left():
    rays = ray_directions(CAMERA).reshape(72, 96, 3)
    assert rays[0, 0, 2] > rays[71, 0, 2]
    assert rays[0, 0, 1] > rays[0, 95, 1]
    axis = np.array([math.cos(CAMERA.tilt), 0.0, math.sin(CAMERA.tilt)])
    np.testing.assert_allclose(rays @ axis, 1.0, rtol=1e-12)


def test_tiles_divide_the_image():
    assert CAMERA.height % TILE_GRID[0] == 0
    assert CAMERA.width % TILE_GRID[1] == 0


@pytest.mark.parametrize("seed", range(8))
def test_tiles_give_the_whole_scenes_frames_bit_by_bit(seed):
    rng = np.random.default_rng(seed)
    track = make_track(seed)
    model = build_model(track, RACING_TASK, 0.5, 1.0)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    solids, camera = SolidTable.from_model(model), DepthCamera(CAMERA)
    directions = ray_directions(CAMERA)
    cutoff = 10.0 * float(np.linalg.norm(directions, axis=1).max())
    count = len(directions)
    hits, ids, out = np.empty(count), np.empty(count, np.int32), np.empty(count, np.float32)
    depths = set()
    for gate in track.gate_positions:
        position = gate + rng.uniform(-2, 2, 3)
        position[2] = rng.uniform(0.1, 3.0)
        rotation = matrix_from_quaternion(random_quaternion(rng))
        camera.capture(solids, position, rotation, out)
        origin = position + rotation @ np.array(CAMERA.position)
        rays = np.ascontiguousarray(directions @ rotation.T).reshape(-1)
        body = model.body(DRONE).id
        mujoco.mj_multiRay(model, data, origin, rays, None, True, body, ids, hits, None, count, cutoff)
        whole = np.minimum(np.where(hits < 0, 10.0, hits), 10.0).astype(np.float32)
        # A ray computed in another order differs in its last bit, which may decide whether it grazes an edge.
        differing = np.abs(whole - out) > 1e-5
        assert differing.sum() <= 1
        depths.update(np.unique(whole).tolist())
    assert len(depths) > 1000
