"""States of the racing task in Isaac Lab, set and read."""

import numpy as np
import torch
from isaaclab.utils.math import matrix_from_quat

from deploy_kit.sim.isaaclab.racing.race import race_of
from deploy_kit.sim.options import EnvOptions

CALM = EnvOptions(num_envs=4, seed=3, stage=0, randomisation=False, obstacles=False, num_threads=1)
"""Nominal drones on tracks without obstacles, in stage 0: they have no colliders."""

LEVEL = [1.0, 0.0, 0.0, 0.0]
HOVER = float(np.arctanh(2 / 3 - 1))
"""Action whose thrust is the weight: tanh(a) · 1.5 + 1.5 = 1."""


def actions(env, *values):
    """Return one action for all drones."""
    return torch.tensor(values, dtype=torch.float32).repeat(env.num_envs, 1)


def place(env, position, quaternion, velocity, rates):
    """Put every drone somewhere: track's frame, (w, x, y, z), world axes, body axes."""
    race = race_of(env.unwrapped)
    tensors = [torch.as_tensor(values, dtype=torch.float32) for values in (position, quaternion, velocity, rates)]
    position, quaternion, velocity, rates = tensors
    xyzw = quaternion[:, [1, 2, 3, 0]]
    turning = torch.einsum("nij,nj->ni", matrix_from_quat(xyzw), rates)
    robot = env.unwrapped.scene["robot"]
    robot.write_root_pose_to_sim_index(root_pose=torch.cat([position + race.origin, xyzw], -1))
    robot.write_root_velocity_to_sim_index(root_velocity=torch.cat([velocity, turning], -1))
    env.unwrapped.sim.forward()


def state(env):
    """Return position in the track's frame, quaternion (w, x, y, z), velocity in world and rates in body axes."""
    data = env.unwrapped.scene["robot"].data
    return (
        (data.root_link_pos_w.torch - race_of(env.unwrapped).origin).double().numpy(),
        data.root_link_quat_w.torch[:, [3, 0, 1, 2]].double().numpy(),
        data.root_com_lin_vel_w.torch.double().numpy(),
        data.root_com_ang_vel_b.torch.double().numpy(),
    )
