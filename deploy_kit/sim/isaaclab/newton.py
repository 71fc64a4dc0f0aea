"""What is Newton's own in the racing task. The launcher's `physics` argument puts another engine in its place."""

from typing import Any


def newton_physics(num_envs: int) -> Any:
    """Return the physics configuration: MuJoCo-Warp's solver on contacts of Newton's own.

    MuJoCo's contacts would take the track's mesh for its convex hull.

    Args:
        num_envs: environments, for the size of the contact buffers.
    """
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg, NewtonCollisionPipelineCfg

    return NewtonCfg(
        solver_cfg=MJWarpSolverCfg(
            njmax=60, nconmax=24, iterations=20, ls_iterations=20, cone="pyramidal", use_mujoco_contacts=False
        ),
        num_substeps=1,
        collision_cfg=NewtonCollisionPipelineCfg(max_triangle_pairs=max(20_000, 256 * num_envs)),
    )
