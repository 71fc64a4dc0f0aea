import math

import pytest

from deploy_kit.sim.primitives import Primitive

QUARTER_TURN_Y = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)


@pytest.mark.parametrize(
    ("primitive", "point", "distance"),
    [
        (Primitive("sphere", (0.5,), (1, 2, 3)), (1, 2, 4), 0.5),
        (Primitive("sphere", (0.5,), (1, 2, 3)), (1, 2, 3), -0.5),
        (Primitive("box", (1, 2, 3), (0, 0, 0)), (4, 0, 0), 3),
        (Primitive("box", (1, 2, 3), (0, 0, 0)), (4, 6, 3), 5),
        (Primitive("box", (1, 2, 3), (0, 0, 0)), (0.8, 0, 0), -0.2),
        (Primitive("box", (1, 2, 3), (0, 0, 0), QUARTER_TURN_Y), (4, 0, 0), 1),
        (Primitive("cylinder", (1, 2), (0, 0, 0)), (3, 4, 0), 4),
        (Primitive("cylinder", (1, 2), (0, 0, 0)), (0, 0, 5), 3),
        (Primitive("cylinder", (1, 2), (0, 0, 0), QUARTER_TURN_Y), (5, 0, 0), 3),
        (Primitive("capsule", (1, 2), (0, 0, 0)), (0, 0, 5), 2),
        (Primitive("capsule", (1, 2), (0, 0, 0)), (4, 0, 1), 3),
    ],
)
def test_distance_by_hand(primitive, point, distance):
    assert primitive.distance(point) == pytest.approx(distance, abs=1e-12)
