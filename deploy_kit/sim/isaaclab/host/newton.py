"""What is Newton's own in the racing task. The launcher's `physics` argument puts another engine in its place."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np


def newton_physics(num_envs: int) -> Any:
    """Return the physics configuration: MuJoCo-Warp's solver on contacts of Newton's own.

    MuJoCo's contacts would take the track's mesh for its convex hull.

    Args:
        num_envs: environments, for the size of the contact buffers.
    """
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg, NewtonCollisionPipelineCfg

    # 84 rows of constraints were the most that a collision asked for in 40 million steps.
    return NewtonCfg(
        solver_cfg=MJWarpSolverCfg(
            njmax=96, nconmax=24, iterations=20, ls_iterations=50, cone="pyramidal", use_mujoco_contacts=False
        ),
        num_substeps=1,
        collision_cfg=NewtonCollisionPipelineCfg(max_triangle_pairs=max(20_000, 256 * num_envs)),
    )


def restore_newton(cfg: Any, num_envs: int) -> None:
    """Put our Newton configuration back where the launcher's ``--physics newton_mjwarp`` put Isaac Lab's default.

    That one takes the track's mesh for its convex hull: every drone would start in contact.
    """
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg

    physics = cfg.sim.physics
    if isinstance(physics, NewtonCfg) and isinstance(physics.solver_cfg, MJWarpSolverCfg):
        cfg.sim.physics = newton_physics(num_envs)


@contextmanager
def quick_meshes() -> Iterator[None]:
    """Let Newton leave out, of the tracks' mesh, what the racing task never asks for.

    Over five million triangles that is most of the time of its start, and none of it changes a flight:

    * whether the mesh is closed, found by sorting all edges: the ground has an edge, so it is not;
    * its edges, which contacts of meshes with meshes use: the drones are boxes;
    * MuJoCo's copy with its convex hull: contacts are Newton's, so that MuJoCo needs a shape and not this one;
    * faces taken apart one by one, where all are triangles already.
    """
    import newton
    from newton._src.usd import utils
    from newton.solvers import SolverMuJoCo

    finalize, convert, triangulate = (
        newton.ModelBuilder.finalize,
        SolverMuJoCo._convert_to_mjc,
        utils.fan_triangulate_faces,
    )

    def finalize_quickly(self: Any, *arguments: Any, **named: Any) -> Any:
        for mesh in filter(_is_mesh, self.shape_source):
            mesh._is_watertight = False
            mesh._collision_edges = np.empty((0, 2), np.int32)
        return finalize(self, *arguments, **named)

    def convert_quickly(self: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        sources = model.shape_source
        if not self._use_mujoco_contacts:
            model.shape_source = [_stand_in(mesh) if _is_mesh(mesh) else mesh for mesh in sources]
        try:
            return convert(self, model, *arguments, **named)
        finally:
            model.shape_source = sources

    def triangulate_quickly(counts: Any, indices: Any) -> Any:
        if (np.asarray(counts) == 3).all():
            return np.asarray(indices, np.int32).reshape(-1, 3)
        return triangulate(counts, indices)

    with ExitStack() as stack:
        stack.enter_context(patch.object(newton.ModelBuilder, "finalize", finalize_quickly))
        stack.enter_context(patch.object(SolverMuJoCo, "_convert_to_mjc", convert_quickly))
        stack.enter_context(patch.object(utils, "fan_triangulate_faces", triangulate_quickly))
        yield


def _is_mesh(source: Any) -> bool:
    import newton

    return isinstance(source, newton.Mesh)


def _stand_in(mesh: Any) -> Any:
    """Return a tetrahedron as large as a mesh."""
    import newton

    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    corners = np.array([low, [high[0], low[1], low[2]], [low[0], high[1], low[2]], [low[0], low[1], high[2]]])
    return newton.Mesh(corners, np.array([0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3]))
