import numpy as np
import pytest

from deploy_kit.flight.solids import corners_of, surface_of
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import quaternion_from_euler

TURN = tuple(quaternion_from_euler(0.3, -0.5, 1.1))
SOLIDS = {
    "box": (Primitive("box", (0.5, 1.0, 0.25), (3.0, -2.0, 1.0), TURN), 1.0 * 2.0 * 0.5),
    "sphere": (Primitive("sphere", (0.7,), (3.0, -2.0, 1.0), TURN), 4 / 3 * np.pi * 0.7**3),
    "cylinder": (Primitive("cylinder", (0.4, 1.5), (3.0, -2.0, 1.0), TURN), np.pi * 0.4**2 * 3.0),
    "capsule": (
        Primitive("capsule", (0.4, 1.5), (3.0, -2.0, 1.0), TURN),
        np.pi * 0.4**2 * 3.0 + 4 / 3 * np.pi * 0.4**3,
    ),
}


def volume(surface) -> float:
    """Signed volume by the divergence theorem: positive only if all triangles look outwards."""
    a, b, c = (surface.vertices[surface.faces[:, corner]] for corner in range(3))
    return float(np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("kind", SOLIDS)
def test_a_surface_encloses_its_solid_and_looks_outwards(kind):
    solid, exact = SOLIDS[kind]
    found = volume(surface_of([solid]))
    assert found == pytest.approx(exact, rel=1e-9) if kind == "box" else 0.85 * exact < found <= exact
    # Every corner lies on the surface.
    assert max(abs(solid.distance(corner)) for corner in corners_of(solid)) < 1e-9


def test_surfaces_add_up():
    solids = [solid for solid, _ in SOLIDS.values()]
    assert volume(surface_of(solids)) == pytest.approx(sum(volume(surface_of([solid])) for solid in solids))
    assert surface_of([]).faces.shape == (0, 3)
