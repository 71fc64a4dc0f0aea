"""Observation, reward, termination, event and curriculum terms of the racing task.

The torch twins of `deploy_kit.sim.observation` and `deploy_kit.sim.rewards`; tests hold them together.
"""

from typing import Any

import torch
from isaaclab.utils.math import matrix_from_quat, quat_from_euler_xyz
from torch import Tensor

from deploy_kit.sim.isaaclab.racing.race import ctbr_of, race_of
from deploy_kit.sim.isaaclab.racing.randomness import uniform


def to_body(rotation: Tensor, vector: Tensor) -> Tensor:
    """Return world vectors (N, 3) in the body axes of matrices (N, 3, 3)."""
    return torch.einsum("nji,nj->ni", rotation, vector)


def body_velocity(env: Any, noisy: bool) -> Tensor:
    """Return the centre's velocity in body axes, m/s, (N, 3)."""
    race = race_of(env)
    seen = race.sight()
    velocity = to_body(seen.rotation, seen.velocity)
    return velocity * (1.0 + race.task.noise.velocity * race.normals(*velocity.shape)) if noisy else velocity


def attitude(env: Any, noisy: bool) -> Tensor:
    """Return world z in body axes, (N, 3)."""
    race = race_of(env)
    upwards = race.sight().rotation[:, 2]
    if not noisy:
        return upwards
    angles = race.task.noise.attitude * race.normals(*upwards.shape)
    return to_body(matrix_from_quat(quat_from_euler_xyz(*angles.unbind(dim=-1))), upwards)


def targets(env: Any, noisy: bool) -> Tensor:
    """Return the vectors to the gate ahead and from it to the next one, as commanded, body axes, m, (N, 6)."""
    race = race_of(env)
    seen = race.sight()
    target, following = seen.target, seen.following
    if noisy:
        target, following = target + race.target_noise[:, 0], following + race.target_noise[:, 1]
    return torch.cat(
        [to_body(seen.rotation, target - seen.position), to_body(seen.rotation, following - target)], dim=-1
    )


def acting_command(env: Any) -> Tensor:
    """Return thrust over mass, m/s², and body rates, rad/s, (N, 4)."""
    return ctbr_of(env).command


def depth_image(env: Any, noisy: bool) -> Tensor:
    """Return the depth image over the camera's range, row-major, (N, pixels)."""
    race = race_of(env)
    depth, far = race.sight().depth, float(race.task.camera.max_range)
    if noisy:
        depth = (depth * (1.0 + race.task.noise.depth * race.normals(*depth.shape))).clamp(max=far)
    return depth / far


def gate_passed_label(env: Any) -> Tensor:
    """Return 1 where the step just taken passed a gate, judged before any reset, (N, 1)."""
    outcome = race_of(env).outcome
    return torch.zeros(env.num_envs, 1, device=env.device) if outcome is None else outcome.passed[:, None].float()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norm = torch.linalg.norm(a, dim=-1) * torch.linalg.norm(b, dim=-1)
    cosine: Tensor = (a * b).sum(dim=-1) / norm.clamp(min=1e-9)
    return cosine


def progress(env: Any) -> Tensor:
    """Return the cosine between velocity and the direction to the gate, (N,)."""
    outcome = race_of(env).judge()
    return _cosine(outcome.velocity, outcome.to_gate)


def body_rate(env: Any) -> Tensor:
    """Return the norm of the newest command's body rates, rad/s, (N,)."""
    norm: Tensor = torch.linalg.norm(ctbr_of(env).newest[:, 1:], dim=-1)
    return norm


def command_change(env: Any) -> Tensor:
    """Return the summed squared change from the command given before to the newest one, thrust in N, (N,)."""
    ctbr = ctbr_of(env)
    change = ctbr.newest - ctbr.given_before
    return change[:, 1:].square().sum(dim=-1) + (ctbr.reckoned_mass * change[:, 0]).square()


def collision(env: Any) -> Tensor:
    """Return whether there was contact, or what takes its place without colliders, (N,)."""
    return race_of(env).judge().collided.float()


def perception(env: Any) -> Tensor:
    """Return the cosine between body x and the direction to the gate, (N,)."""
    outcome = race_of(env).judge()
    return _cosine(outcome.to_gate, outcome.rotation[:, :, 0])


def gate(env: Any) -> Tensor:
    """Return 1/(d² + 1) where a gate was passed at distance d, else 0, (N,)."""
    outcome = race_of(env).judge()
    return outcome.passed / (outcome.to_gate.square().sum(dim=-1) + 1.0)


def flipped(env: Any) -> Tensor:
    """Return whether roll or pitch is beyond 90°, (N,)."""
    return race_of(env).judge().flipped.float()


def crashed(env: Any) -> Tensor:
    """Return whether the episode ends otherwise than by time-out, (N,)."""
    return race_of(env).judge().crashed


def time_is_over(env: Any) -> Tensor:
    """Return whether the clock, or the last gate of an open track, ends the episode, (N,)."""
    over: Tensor = (env.episode_length_buf >= env.max_episode_length) | race_of(env).judge().finished
    return over


def adapt_gate_noise(env: Any, env_ids: Any) -> Tensor:
    """Scale the gate noise by the episodes that end; returns its mean, m."""
    race = race_of(env)
    race.adapt_noise(env_ids)
    return race.gate_noise.mean()


def adapt_levels(env: Any, env_ids: Any) -> Tensor:
    """Move drones whose episodes end to the level that they have earned; returns the mean level."""
    race = race_of(env)
    race.adapt_levels(env_ids)
    return race.level.float().mean()


def set_airframe(env: Any, env_ids: Any) -> None:
    """Give every drone its mass, inertia and gains: nominal ones, or randomised."""
    race, robot = race_of(env), env.scene["robot"]
    airframe, ranges = race.task.airframe, race.task.randomisation
    mass = torch.full((env.num_envs, 1), airframe.mass, device=env.device)
    moments = torch.tensor(airframe.inertia, device=env.device).repeat(env.num_envs, 1)
    if race.options.randomisation:
        mass += uniform(mass.shape, -ranges.mass, ranges.mass, race.generator)
        moments *= mass / airframe.mass * uniform(moments.shape, *ranges.inertia, race.generator)
        ctbr_of(env).randomise_airframe(race.generator)
    robot.set_masses_index(masses=mass)
    robot.set_inertias_index(inertias=torch.diag_embed(moments).flatten(1)[:, None].contiguous())


def begin_episode(env: Any, env_ids: Any) -> None:
    """Choose the track, draw the flight's randomisation and place the drone."""
    race, robot = race_of(env), env.scene["robot"]
    ids = torch.arange(env.num_envs, device=env.device)
    ids = ids[env_ids] if isinstance(env_ids, slice) else torch.as_tensor(env_ids, device=env.device).long()
    race.draw_tracks(ids)
    if race.options.randomisation:
        ctbr_of(env).randomise_flight(ids, race.generator)
    spread = race.task.start
    position = race.start[ids] + uniform((len(ids), 3), -spread.position, spread.position, race.generator)
    position[:, 2] += spread.height
    to_gate = race.first_gate[ids] - position
    half = torch.tensor([spread.tilt, spread.tilt, spread.yaw], device=env.device)
    angles = half * uniform((len(ids), 3), -1, 1, race.generator)
    yaw = torch.atan2(to_gate[:, 1], to_gate[:, 0]) + angles[:, 2]
    quaternion = quat_from_euler_xyz(angles[:, 0], angles[:, 1], yaw)
    velocity = uniform((len(ids), 6), -spread.velocity, spread.velocity, race.generator)
    pose = torch.cat([position + race.origin[ids], quaternion], dim=-1)
    robot.write_root_pose_to_sim_index(root_pose=pose, env_ids=ids.int())
    robot.write_root_velocity_to_sim_index(root_velocity=velocity, env_ids=ids.int())
    # The ray caster reads body poses that only forward kinematics refreshes: without it, the first image of an episode
    # would be taken from where the last one ended.
    env.sim.forward()
