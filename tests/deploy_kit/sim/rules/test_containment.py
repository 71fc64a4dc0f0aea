import numpy as np
import pytest

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.sim.rules.containment import SolidArrays, points_inside
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.racing import RACING_TASK
from helpers.rotations import random_quaternion

OFFSETS = np.array(RACING_TASK.body_points.offsets)


def test_the_17_points_are_the_centre_a_box_and_half_of_it():
    assert OFFSETS.shape == (17, 3)
    np.testing.assert_array_equal(OFFSETS[0], 0.0)
    np.testing.assert_allclose(np.abs(OFFSETS[1:9]), np.tile([0.0636, 0.0636, 0.025], (8, 1)))
    np.testing.assert_allclose(OFFSETS[9:], OFFSETS[1:9] / 2)
    assert len(np.unique(OFFSETS, axis=0)) == 17


def test_points_are_inside_where_their_distance_to_a_solid_is_negative():
    """Against the distance of each point from each solid, in poses at and in the solids of tracks of all kinds."""
    rng = np.random.default_rng(3)
    tracks = [make_track(seed, (kind,)).primitives for seed, kind in enumerate(("circular", "zigzag", "ellipse"))]
    rows = np.repeat([0, 1, 2], 12)
    near = [tracks[row][rng.integers(len(tracks[row]))] for row in rows]
    position = np.array([solid.position for solid in near]) + rng.uniform(-0.4, 0.4, (len(rows), 3))
    rotation = matrix_from_quaternion(np.array([random_quaternion(rng) for _ in rows]))
    inside = points_inside(position, rotation, OFFSETS, SolidArrays.of(tracks), rows)
    for drone, row in enumerate(rows):
        for point, offset in enumerate(OFFSETS):
            at = position[drone] + rotation[drone] @ offset
            exact = min(at[2], *(solid.distance(at) for solid in tracks[row]))
            assert inside[drone, point] == (exact < 0)
    assert 60 < inside.sum() < inside.size - 60


@pytest.mark.parametrize(
    "solid",
    [
        Primitive("box", (0.2, 0.3, 0.4), (1.0, 0.0, 5.0)),
        Primitive("sphere", (0.3,), (1.0, 0.0, 5.0)),
        Primitive("cylinder", (0.2, 0.4), (1.0, 0.0, 5.0)),
        Primitive("capsule", (0.2, 0.2), (1.0, 0.0, 5.0)),
    ],
    ids=lambda solid: solid.kind,
)
def test_a_point_just_inside_and_just_outside_every_shape(solid):
    top = {"box": 0.4, "sphere": 0.3, "cylinder": 0.4, "capsule": 0.4}[solid.kind]
    position = np.array([[1.0, 0.0, 5 + top - 1e-6], [1.0, 0.0, 5 + top + 1e-6]])
    rotation, rows = np.tile(np.eye(3), (2, 1, 1)), np.zeros(2, np.int64)
    inside = points_inside(position, rotation, np.zeros((1, 3)), SolidArrays.of([[solid]]), rows)
    assert inside[:, 0].tolist() == [True, False]


def test_under_the_ground_is_inside_and_rows_choose_the_track():
    ball = Primitive("sphere", (0.3,), (0.0, 0.0, 2.0))
    solids = SolidArrays.of([[], [ball, ball], [ball]])
    position = np.array([[0.0, 0.0, -0.01], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.01]])
    rotation, rows = np.tile(np.eye(3), (5, 1, 1)), np.array([0, 0, 1, 2, 2])
    inside = points_inside(position, rotation, np.zeros((1, 3)), solids, rows)
    assert inside[:, 0].tolist() == [True, False, True, True, False]
