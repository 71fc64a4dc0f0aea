"""What is Newton's own in the racing task. The launcher's `physics` argument puts another engine in its place."""

from typing import Any


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
