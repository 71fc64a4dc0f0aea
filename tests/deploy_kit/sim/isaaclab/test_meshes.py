"""Meshes lie on the surfaces of the solids that they stand for."""

import numpy as np
import pytest

pytest.importorskip("trimesh")

from deploy_kit.sim.isaaclab.racing.meshes import ground_mesh, primitive_mesh
from deploy_kit.sim.isaaclab.racing.pool import CELL, build_pool, pool_size
from deploy_kit.sim.options import EnvOptions, track_seed
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import quaternion_from_euler

TURNED = tuple(quaternion_from_euler(0.3, -0.7, 1.1).tolist())
VOLUMES = {
    ("box", (0.1, 0.2, 0.3)): 8 * 0.1 * 0.2 * 0.3,
    ("sphere", (0.3,)): 4 / 3 * np.pi * 0.3**3,
    ("cylinder", (0.3, 0.5)): np.pi * 0.3**2 * 1.0,
    ("capsule", (0.2, 0.25)): np.pi * 0.2**2 * 0.5 + 4 / 3 * np.pi * 0.2**3,
}


def volume(mesh):
    """Return the enclosed volume, positive if faces look outwards."""
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)
    return np.einsum("ni,ni->", a, np.cross(b, c)) / 6


@pytest.mark.parametrize(("solid", "expected"), VOLUMES.items(), ids=lambda value: str(value))
def test_vertices_lie_on_the_solid_and_faces_look_outwards(solid, expected):
    primitive = Primitive(solid[0], solid[1], (1.0, -2.0, 3.0), TURNED)
    mesh = primitive_mesh(primitive)
    assert max(abs(primitive.distance(vertex)) for vertex in mesh.vertices) < 1e-5
    centred = type(mesh)(mesh.vertices - np.array([1.0, -2.0, 3.0], np.float32), mesh.faces)
    assert 0.93 * expected < volume(centred) < 1.001 * expected


def test_ground_is_flat_and_covers_its_rectangle():
    mesh = ground_mesh(np.array([-3.0, -2.0]), np.array([3.0, 2.0]), 1.0)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    normals = np.cross(b - a, c - a)
    assert (normals[:, 2] > 0).all()
    assert (mesh.vertices[:, 2] == 0).all()
    assert normals[:, 2].sum() / 2 == pytest.approx(24.0)


def test_pool_keeps_tracks_apart_and_numbers_them_as_the_embedded_simulator_does():
    options = EnvOptions(num_envs=5, seed=4)
    pool = build_pool(options)
    assert [track.seed for track in pool.tracks] == [track_seed(4, env, 0) for env in range(5)]
    reached = [np.array([p.position for p in t.primitives]) + o for t, o in zip(pool.tracks, pool.origins, strict=True)]
    for i, one in enumerate(reached):
        for other in reached[:i]:
            assert np.linalg.norm(one[:, None, :2] - other[None, :, :2], axis=-1).min() > 10
    assert np.ptp(pool.mesh.vertices[:, 0]) > CELL


def test_pool_sizes():
    assert pool_size(EnvOptions(num_envs=4)) == 4
    assert pool_size(EnvOptions(num_envs=4, episodes_per_track=1)) == 64
    assert pool_size(EnvOptions(num_envs=4096, episodes_per_track=1)) == 512
    assert pool_size(EnvOptions(num_envs=4096, track_pool=7)) == 7
