"""Tracks as triangle meshes: what Isaac Lab's ray caster and its contacts work on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import Array, matrix_from_quaternion
from deploy_kit.task.tracks import SolidKind

SECTIONS = 24
"""Edges of a circle. A chord lies at most 0.9 % of the radius inside the circle: 3 mm for the largest obstacle."""


@dataclass(frozen=True, eq=False)
class TriangleMesh:
    """Vertices (V, 3) in m and faces (F, 3), counter-clockwise seen from outside."""

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int64]


def concatenate(meshes: Iterable[TriangleMesh]) -> TriangleMesh:
    """Return several meshes as one."""
    parts = list(meshes)
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return TriangleMesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)]),
    )


def primitive_mesh(primitive: Primitive) -> TriangleMesh:
    """Return the surface of a solid in the world frame; round ones as polyhedra with their vertices on the surface."""
    return solids_mesh([[primitive]], np.zeros((1, 3)))


def solids_mesh(tracks: Sequence[Sequence[Primitive]], origins: Array) -> TriangleMesh:
    """Return the surfaces of the solids of several tracks, whose frames lie at `origins` (T, 3), m.

    Shape by shape, all solids of a shape at once.
    """
    places = np.repeat(origins, [len(solids) for solids in tracks], axis=0)
    every = [solid for solids in tracks for solid in solids]
    meshes = []
    for kind in dict.fromkeys(solid.kind for solid in every):
        rows = [row for row, solid in enumerate(every) if solid.kind == kind]
        chosen = [every[row] for row in rows]
        template = _template(kind)
        local = _stretched(template, kind, np.array([solid.size for solid in chosen])[:, None])
        rotation = matrix_from_quaternion(np.array([solid.quaternion for solid in chosen]))
        centre = np.array([solid.position for solid in chosen]) + places[rows]
        vertices = local @ np.swapaxes(rotation, 1, 2) + centre[:, None]
        first = len(template.vertices) * np.arange(len(chosen))[:, None, None]
        faces = (template.faces + first).reshape(-1, 3)
        meshes.append(TriangleMesh(vertices.reshape(-1, 3).astype(np.float32), faces))
    return concatenate(meshes)


@lru_cache
def _template(kind: SolidKind) -> TriangleMesh:
    """Return a solid of unit size: half extents, radius and half length are 1 m."""
    from trimesh import creation

    if kind == "box":
        mesh = creation.box(extents=[2.0, 2.0, 2.0])
    elif kind == "sphere":
        mesh = creation.icosphere(subdivisions=2, radius=1.0)
    elif kind == "cylinder":
        mesh = creation.cylinder(radius=1.0, height=2.0, sections=SECTIONS)
    else:
        mesh = creation.capsule(radius=1.0, height=2.0, count=[SECTIONS // 2, SECTIONS])
        # trimesh's capsule may stand on its lower cap's centre.
        mesh.vertices -= mesh.bounds.mean(axis=0)
    return TriangleMesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int64))


def _stretched(template: TriangleMesh, kind: SolidKind, size: Array) -> Array:
    """Return a template's vertices (V, 3) for solids of sizes (S, 1, 1 to 3), shape (S, V, 3)."""
    vertices = template.vertices.astype(np.float64)
    if kind == "capsule":
        radius, half = size[..., :1], size[..., 1:]
        cap = np.sign(vertices[:, 2:])
        return np.concatenate([vertices[:, :2] * radius, (vertices[:, 2:] - cap) * radius + cap * half], axis=-1)
    if kind == "cylinder":
        size = size[..., [0, 0, 1]]
    return np.asarray(vertices * size)


def ground_mesh(low: Array, high: Array, tile: float) -> TriangleMesh:
    """Return the plane z = 0 over a rectangle (corners (2,), m), in square tiles: small triangles keep rays exact."""
    counts = np.ceil((high - low) / tile).astype(int)
    x, y = (start + tile * np.arange(count + 1) for start, count in zip(low, counts, strict=True))
    vertices = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], axis=-1).reshape(-1, 3)
    index = np.arange(len(vertices)).reshape(len(x), len(y))
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    return TriangleMesh(vertices.astype(np.float32), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
