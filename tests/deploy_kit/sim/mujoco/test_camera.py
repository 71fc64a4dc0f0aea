import collections
import itertools
import math

import numpy as np
import pytest

from deploy_kit.sim.mujoco.camera import DepthCameras, SolidTable, ray_directions
from deploy_kit.sim.mujoco.scene import build_model
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_euler, matrix_from_quaternion
from deploy_kit.sim.tracks import gate_frame, make_track
from deploy_kit.task.racing import RACING_TASK
from helpers.rotations import random_quaternion
from helpers.tracks import track_of
from helpers.whole_scene import WholeScene, compiled_frame

CAMERA = RACING_TASK.camera
HEIGHT = 30.0
"""Far above the ground, so that only the solids of the test are within range."""


def frame(*primitives, pitch=CAMERA.tilt, roll=0.0, yaw=0.0, centre=None):
    """Capture a frame; by default the optical axis is horizontal and the optical centre at (0, 0, HEIGHT)."""
    rotation = matrix_from_euler(np.array([roll, pitch, yaw]))
    if centre is None:
        centre = np.array([0.0, 0.0, HEIGHT]) - rotation @ np.array(CAMERA.position)
    model = build_model(track_of(*primitives), RACING_TASK)
    return compiled_frame(SolidTable.from_model(model), centre, rotation).reshape(CAMERA.height, CAMERA.width)


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
    model = build_model(track_of(above), RACING_TASK)
    centre = np.array([0.0, 0.0, HEIGHT]) - rotation @ np.array(CAMERA.position)
    out = compiled_frame(SolidTable.from_model(model), centre, rotation)
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


def compare(scene, position, rotation):
    """Return the depths by MuJoCo's rays, which pixels differ by more than 0.1 mm, and which of them for no reason."""
    out = compiled_frame(scene.solids, position, rotation)
    expected = scene.depth(position, rotation)
    differing = ~(np.abs(out - expected) <= 1e-4)
    if not differing.any():
        return expected, differing, differing
    # A ray may graze an edge: rays turned by a millionth of a radian then see both depths.
    turned = [scene.depth(position, rotation, 1e-6 * np.array(t)) for t in itertools.product((-1, 0, 1), repeat=3)]
    grazing = (np.min(turned, axis=0) - 1e-4 <= out) & (out <= np.max(turned, axis=0) + 1e-4)
    return expected, differing, differing & ~grazing


def holding(solids, point):
    """Return the kinds of the solids that a point is in."""
    near = [s for s in solids if math.dist(s.position, point) < s.bounding_radius]
    return [solid.kind for solid in near if solid.distance(point) < 0]


def poses(rng, track):
    """Return poses all over a track, close to its solids, and with the optical centre inside them."""
    offset = np.array(CAMERA.position)
    for number in range(20):
        rotation = matrix_from_quaternion(random_quaternion(rng))
        solid = track.primitives[rng.integers(len(track.primitives))]
        if number % 4 == 0:
            position = track.gate_positions[rng.integers(8)] + rng.uniform(-2, 2, 3)
            position[2] = rng.uniform(0.1, 3)
        elif number % 4 == 1:
            position = np.array(solid.position) + rng.normal(0, 0.4, 3)
        else:
            within = rng.uniform(-1, 1, 3) * np.resize(solid.size, 3)
            position = np.array(solid.position) - rotation @ offset
            position += matrix_from_quaternion(np.array(solid.quaternion)) @ within
        yield position, rotation


def test_frames_are_those_of_mujocos_rays():
    rng = np.random.default_rng(3)
    differing, inside, depths = 0, collections.Counter(), set()
    for _ in range(50):
        track = make_track(int(rng.integers(2**62)))
        scene = WholeScene(track)
        for position, rotation in poses(rng, track):
            expected, different, unexplained = compare(scene, position, rotation)
            assert not unexplained.any(), f"track {track.seed}, {position}, {rotation}"
            differing += different.sum()
            eye = scene.eye(position, rotation)
            held = holding(track.primitives, eye)
            inside.update(held or ["none"])
            inside["two at once"] += len(held) > 1
            inside["ground"] += eye[2] < 0
            depths.update(expected[::97].tolist())
    # Of 6.9 million pixels few lie on an edge to the last digits.
    assert differing <= 20
    assert min(inside[kind] for kind in ("none", "box", "sphere", "cylinder", "capsule")) >= 10
    assert inside["two at once"]
    assert inside["ground"]
    assert len(depths) > 10_000


@pytest.mark.parametrize(
    "kinds", [*itertools.combinations_with_replacement(("box", "sphere", "cylinder", "capsule"), 2)]
)
def test_from_inside_two_solids_at_once_the_nearer_way_out_is_seen(kinds):
    rng = np.random.default_rng(sum(map(ord, "".join(kinds))))
    sizes = {"box": (0.3, 0.5, 0.7), "sphere": (0.6,), "cylinder": (0.5, 0.4), "capsule": (0.4, 0.3)}
    for _ in range(10):
        solids = [
            Primitive(kind, sizes[kind], tuple(rng.normal([0, 0, HEIGHT], 0.1)), tuple(random_quaternion(rng)))
            for kind in kinds
        ]
        scene = WholeScene(track_of(*solids))
        position, rotation = np.array([0.0, 0.0, HEIGHT]), matrix_from_quaternion(random_quaternion(rng))
        assert all(solid.distance(scene.eye(position, rotation)) < 0 for solid in solids)
        assert not compare(scene, position, rotation)[2].any()


def test_solids_turned_any_way_and_cut_off_by_the_near_plane_are_seen_whole():
    rng = np.random.default_rng(5)
    shapes = [("box", (0.02, 1.0, 1.5)), ("cylinder", (0.05, 2.0)), ("capsule", (0.05, 2.0)), ("sphere", (1.0,))]
    for number in range(60):
        kind, size = shapes[number % 4]
        # Beside the optical centre: part of the solid is behind it, and part in view.
        solid = Primitive(kind, size, tuple(rng.normal([0, 0, HEIGHT], 0.5)), tuple(random_quaternion(rng)))
        scene = WholeScene(track_of(solid))
        pose = np.array([0.0, 0.0, HEIGHT]), matrix_from_quaternion(random_quaternion(rng))
        assert not compare(scene, *pose)[2].any()


def test_a_camera_on_a_surface_or_in_its_plane_sees_no_nonsense():
    for solid in (
        Primitive("box", (1.0, 1.0, 1.0), (0.0, 0.0, HEIGHT)),
        Primitive("sphere", (1.0,), (0.0, 0.0, HEIGHT)),
        Primitive("cylinder", (1.0, 1.0), (0.0, 0.0, HEIGHT)),
        Primitive("capsule", (1.0, 0.5), (0.0, 0.0, HEIGHT)),
    ):
        for eye in ([-1.0, 0.0, HEIGHT], [1.0, 0.0, HEIGHT], [-3.0, 0.0, HEIGHT + 1.0]):
            rotation = matrix_from_euler(np.array([0.0, CAMERA.tilt, 0.0]))
            centre = np.array(eye) - rotation @ np.array(CAMERA.position)
            image = frame(solid, centre=centre)
            assert np.isfinite(image).all()
            assert (image >= 0).all()
            assert (image <= 10.0).all()


def test_cameras_see_their_own_solids_and_only_those_wanted_capture():
    ball = Primitive("sphere", (0.5,), (3.0, 0.0, HEIGHT))
    near, far = (SolidTable.from_model(build_model(track_of(*solids), RACING_TASK)) for solids in ([ball], []))
    cameras, positions = DepthCameras(3, CAMERA), np.tile([0.0, 0.0, HEIGHT], (3, 1))
    rotations = np.tile(matrix_from_euler(np.array([0.0, CAMERA.tilt, 0.0])), (3, 1, 1))
    # More solids than there was room for, after fewer, and fewer after more.
    for index, solids in enumerate((far, near, near)):
        cameras.place(index, solids)
    cameras.place(2, far)
    cameras.move(positions, rotations)
    images = np.full((3, 2 + CAMERA.width * CAMERA.height), -1, np.float32)
    cameras.capture(np.array([True, True, True]), 0, 2, images, 2)
    np.testing.assert_allclose(images[:2, 2:], cameras.depth.reshape(3, -1)[:2] / 10, rtol=1e-6)
    assert (images[:, :2] == -1).all()
    assert (images[2] == -1).all()
    assert cameras.depth[0].min() == 10.0
    assert cameras.depth[1].min() < 2.6
    assert not cameras.depth[2].any()
    before = cameras.depth.copy()
    cameras.move(positions + np.array([1.0, 0.0, 0.0]), rotations)
    cameras.capture(np.array([True, False, True]), 0, 3, images, 2)
    np.testing.assert_array_equal(cameras.depth[1], before[1])
    assert cameras.depth[2].min() == 10.0


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e300])
def test_a_position_that_is_no_place_draws_nothing_and_does_no_harm(broken):
    # Indices of pixels computed from it would lie anywhere in memory.
    scene = WholeScene(make_track(1))
    for axis in range(3):
        position = np.array([0.0, 0.0, HEIGHT])
        position[axis] = broken
        image = compiled_frame(scene.solids, position, np.eye(3))
        assert ((image == 10.0) | np.isnan(image) | (image == 0.0)).all()
