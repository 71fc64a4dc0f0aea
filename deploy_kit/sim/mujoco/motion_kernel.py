"""What happens to each drone in a policy step besides physics and frames, as compiled code.

Twins of `deploy_kit.sim.controller`, `observation`, `rewards` and `rules.judgement`, which say what is computed and
why: tests hold each twin to them. For a few drones numpy takes ten times as long.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.mujoco.compiled import compiled

POSITION, QUATERNION, VELOCITY, ANGULAR_VELOCITY = 1, 4, 8, 11
"""First columns of the parts of MuJoCo's state of one free body; the time comes first."""

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.float32]
Flags: TypeAlias = npt.NDArray[np.bool_]


@compiled(
    "void(i8, i8, f8[:,::1], f8[:,:,::1], f8[:,::1], f8[:,::1], f8[::1], f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1],"
    "f8[:,::1], f8[:,::1], f8[:,:,::1])"
)
def hold_wrenches(
    first: int,
    end: int,
    target: Array,
    rotation: Array,
    state: Array,
    angular_acceleration: Array,
    inertia: Array,
    rate_gain: Array,
    acceleration_gain: Array,
    keep: Array,
    drag_linear: Array,
    drag_quadratic: Array,
    lagged: Array,
    control: Array,
) -> None:
    """Advance controller and lags by a policy step and write the wrench to hold; see `RateController`.

    Args:
        first: first drone.
        end: the one after the last.
        target: thrust, N, and body rates, rad/s, shape (N, 4).
        rotation: body to world, shape (N, 3, 3).
        state: of the bodies, shape (N, 14).
        angular_acceleration: body axes, rad/s², shape (N, 3).
        inertia: that the controller reckons with, kg·m², shape (3,).
        rate_gain: 1/s, shape (N, 3).
        acceleration_gain: kg·m², shape (N, 3).
        keep: factors of the lags, shape (N, 4).
        drag_linear: N·s/m, body axes, shape (N, 3).
        drag_quadratic: N·s²/m², body axes, shape (N, 3).
        lagged: thrust and torques that act, shape (N, 4); advanced.
        control: where to write, shape (N, physics steps, 6).
    """
    torque, moment = np.empty(3), np.empty(3)
    for drone in range(first, end):
        for axis in range(3):
            rate = state[drone, ANGULAR_VELOCITY + axis]
            moment[axis] = inertia[axis] * rate
            torque[axis] = inertia[axis] * (rate_gain[drone, axis] * (target[drone, 1 + axis] - rate))
        for axis in range(3):
            one, two = (axis + 1) % 3, (axis + 2) % 3
            torque[axis] += state[drone, ANGULAR_VELOCITY + one] * moment[two]
            torque[axis] -= state[drone, ANGULAR_VELOCITY + two] * moment[one]
            torque[axis] -= acceleration_gain[drone, axis] * angular_acceleration[drone, axis]
            kept = keep[drone, 1 + axis]
            lagged[drone, 1 + axis] = (1.0 - kept) * torque[axis] + kept * lagged[drone, 1 + axis]
        kept = keep[drone, 0]
        lagged[drone, 0] = (1.0 - kept) * target[drone, 0] + kept * lagged[drone, 0]
        for axis in range(3):
            velocity = 0.0
            for world in range(3):
                velocity += rotation[drone, world, axis] * state[drone, VELOCITY + world]
            drag = -velocity * (drag_linear[drone, axis] + drag_quadratic[drone, axis] * abs(velocity))
            for step in range(control.shape[1]):
                control[drone, step, axis] = drag + (lagged[drone, 0] if axis == 2 else 0.0)
                control[drone, step, 3 + axis] = lagged[drone, 1 + axis]


@compiled("void(i8, i8, f8[:,:,::1], f8[:,:,::1], f8, f8, f8[:,::1], f8[:,::1], f8[:,:,::1], b1[::1])")
def take_states(
    first: int,
    end: int,
    states: Array,
    contact_force: Array,
    physics_dt: float,
    limit: float,
    state: Array,
    angular_acceleration: Array,
    rotation: Array,
    exceeded: Flags,
) -> None:
    """Take over what the physics steps have come to.

    Args:
        first: first drone.
        end: the one after the last.
        states: after each physics step, shape (N, physics steps, 14).
        contact_force: in each, N, shape (N, physics steps, 3).
        physics_dt: s.
        limit: of the contact force, N.
        state: before the physics steps; afterwards after them, shape (N, 14).
        angular_acceleration: where to write that of the last one, rad/s², shape (N, 3).
        rotation: where to write the attitude, body to world, shape (N, 3, 3).
        exceeded: where to write whether the force exceeded its limit in any of them, shape (N,).
    """
    last = states.shape[1] - 1
    for drone in range(first, end):
        # A free body's physics step adds to the velocities what they change by, and nothing else.
        for column in range(ANGULAR_VELOCITY, ANGULAR_VELOCITY + 3):
            before = states[drone, last - 1, column] if last > 0 else state[drone, column]
            angular_acceleration[drone, column - ANGULAR_VELOCITY] = (states[drone, last, column] - before) / physics_dt
        state[drone] = states[drone, last]
        exceeded[drone] = False
        for step in range(last + 1):
            x, y, z = contact_force[drone, step, 0], contact_force[drone, step, 1], contact_force[drone, step, 2]
            if x * x + y * y + z * z > limit * limit:
                exceeded[drone] = True
        w, x = state[drone, QUATERNION], state[drone, QUATERNION + 1]
        y, z = state[drone, QUATERNION + 2], state[drone, QUATERNION + 3]
        rotation[drone, 0, 0] = 1.0 - 2.0 * (y * y + z * z)
        rotation[drone, 0, 1] = 2.0 * (x * y - w * z)
        rotation[drone, 0, 2] = 2.0 * (x * z + w * y)
        rotation[drone, 1, 0] = 2.0 * (x * y + w * z)
        rotation[drone, 1, 1] = 1.0 - 2.0 * (x * x + z * z)
        rotation[drone, 1, 2] = 2.0 * (y * z - w * x)
        rotation[drone, 2, 0] = 2.0 * (x * z - w * y)
        rotation[drone, 2, 1] = 2.0 * (y * z + w * x)
        rotation[drone, 2, 2] = 1.0 - 2.0 * (x * x + y * y)


@compiled("f8(f8[:,::1], f8, f8, f8, i8)")
def _to_body(rotation: Array, x: float, y: float, z: float, axis: int) -> float:
    """Return one component of a world vector in body axes."""
    component: float = rotation[0, axis] * x + rotation[1, axis] * y + rotation[2, axis] * z
    return component


@compiled(
    "void(i8, i8, f8[:,::1], f8[:,:,::1], f8[:,::1], f8[:,:,::1], i8[::1], f8[:,:,::1], f4[:,::1], f8, f8, f4[:,::1],"
    "f4[:,::1])"
)
def write_states(
    first: int,
    end: int,
    state: Array,
    rotation: Array,
    command: Array,
    gates: Array,
    gate: npt.NDArray[np.int64],
    target_noise: Array,
    normals: Floats,
    velocity_noise: float,
    attitude_noise: float,
    critic: Floats,
    policy: Floats,
) -> None:
    """Write the 16 state numbers without and with noise; see `state_terms` and `add_state_noise`.

    Args:
        first: first drone.
        end: the one after the last.
        state: of the bodies, shape (N, 14).
        rotation: body to world, shape (N, 3, 3).
        command: acting command, shape (N, 4).
        gates: centres in flight order and what follows the last, world frame, m, shape (N, gates + 1, 3).
        gate: index of the gate flown to, shape (N,).
        target_noise: on that gate's and the next one's centre, m, shape (N, 2, 3).
        normals: normal draws, shape (N, 6).
        velocity_noise: standard deviation, relative.
        attitude_noise: standard deviation, rad.
        critic: where to write in the first 16 columns.
        policy: likewise, with noise.
    """
    for drone in range(first, end):
        turn, index = rotation[drone], gate[drone]
        roll = attitude_noise * np.float64(normals[drone, 3])
        pitch = attitude_noise * np.float64(normals[drone, 4])
        yaw = attitude_noise * np.float64(normals[drone, 5])
        sr, cr, sp, cp = np.sin(roll), np.cos(roll), np.sin(pitch), np.cos(pitch)
        sy, cy = np.sin(yaw), np.cos(yaw)
        ux, uy, uz = turn[2, 0], turn[2, 1], turn[2, 2]
        # The transpose of Rz(yaw)·Ry(pitch)·Rx(roll) applied to what is up in body axes.
        policy[drone, 3] = cy * cp * ux + sy * cp * uy - sp * uz
        policy[drone, 4] = (cy * sp * sr - sy * cr) * ux + (sy * sp * sr + cy * cr) * uy + cp * sr * uz
        policy[drone, 5] = (cy * sp * cr + sy * sr) * ux + (sy * sp * cr - cy * sr) * uy + cp * cr * uz
        for axis in range(3):
            velocity = _to_body(
                turn, state[drone, VELOCITY], state[drone, VELOCITY + 1], state[drone, VELOCITY + 2], axis
            )
            critic[drone, axis] = velocity
            policy[drone, axis] = velocity * (1.0 + velocity_noise * np.float64(normals[drone, axis]))
            critic[drone, 3 + axis] = turn[2, axis]
        for noisy in range(2):
            observed = policy if noisy else critic
            for axis in range(3):
                to_target, to_next = 0.0, 0.0
                for world in range(3):
                    target, following = gates[drone, index, world], gates[drone, index + 1, world]
                    if noisy:
                        target += target_noise[drone, 0, world]
                        following += target_noise[drone, 1, world]
                    to_target += turn[world, axis] * (target - state[drone, POSITION + world])
                    to_next += turn[world, axis] * (following - target)
                observed[drone, 6 + axis], observed[drone, 9 + axis] = to_target, to_next
            for part in range(4):
                observed[drone, 12 + part] = command[drone, part]


@compiled("f8(f8, f8, f8, f8, f8, f8)")
def _cosine(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> float:
    """Return the cosine between two vectors, 0 if one has no direction."""
    size = np.sqrt(ax * ax + ay * ay + az * az) * np.sqrt(bx * bx + by * by + bz * bz)
    cosine: float = (ax * bx + ay * by + az * bz) / max(size, 1e-9)
    return cosine


@compiled(
    "void(f8[:,::1], f8[:,:,::1], f8[:,:,::1], i8[::1], b1[::1], f8[:,::1], f8[:,::1], f8[:,::1], f8[::1], f8, f8, b1,"
    "f8, f8, b1[::1], b1[::1], f4[::1])"
)
def judge_steps(
    state: Array,
    rotation: Array,
    gates: Array,
    gate: npt.NDArray[np.int64],
    collided: Flags,
    newest: Array,
    given_before: Array,
    to_force: Array,
    weights: Array,
    pass_radius: float,
    policy_dt: float,
    ends_on_crash: bool,
    lowest: float,
    highest: float,
    passed: Flags,
    crashed: Flags,
    rewards: Floats,
) -> None:
    """Judge and reward the step just flown; see `rules.judgement.judge` and `rewards.total_reward`.

    Args:
        state: of the bodies, shape (N, 14).
        rotation: body to world, shape (N, 3, 3).
        gates: true centres, world frame, m, shape (N, gates + 1, 3).
        gate: index of the gate flown to, shape (N,).
        collided: contact, or what takes its place without colliders, shape (N,).
        newest: command given in this step, thrust over mass and body rates, shape (N, 4).
        given_before: the one before it, shape (N, 4).
        to_force: factors from commands to N and rad/s, shape (N, 4).
        weights: in the order of `RewardWeights`, shape (7,).
        pass_radius: m.
        policy_dt: s.
        ends_on_crash: whether contact or a flip ends an episode.
        lowest: height below which it ends, m.
        highest: height above which it ends, m.
        passed: where to write whether the gate was passed, shape (N,).
        crashed: where to write whether the episode ends otherwise than by time-out, shape (N,).
        rewards: where to write, shape (N,).
    """
    for drone in range(len(gate)):
        x = gates[drone, gate[drone], 0] - state[drone, POSITION]
        y = gates[drone, gate[drone], 1] - state[drone, POSITION + 1]
        z = gates[drone, gate[drone], 2] - state[drone, POSITION + 2]
        distance = x * x + y * y + z * z
        height, flipped = state[drone, POSITION + 2], rotation[drone, 2, 2] < 0.0
        passed[drone] = distance < pass_radius * pass_radius
        crashed[drone] = ends_on_crash and (collided[drone] or flipped)
        crashed[drone] |= height < lowest or height > highest
        rate, change = 0.0, 0.0
        for part in range(4):
            command = newest[drone, part] * to_force[drone, part]
            change += (command - given_before[drone, part] * to_force[drone, part]) ** 2
            rate += command * command if part else 0.0
        vx, vy, vz = state[drone, VELOCITY], state[drone, VELOCITY + 1], state[drone, VELOCITY + 2]
        total = weights[0] * _cosine(vx, vy, vz, x, y, z)
        total += weights[1] * np.sqrt(rate) + weights[2] * change
        total += weights[3] if collided[drone] else 0.0
        total += weights[4] * _cosine(x, y, z, rotation[drone, 0, 0], rotation[drone, 1, 0], rotation[drone, 2, 0])
        total += weights[5] / (distance + 1.0) if passed[drone] else 0.0
        total += weights[6] if flipped else 0.0
        rewards[drone] = policy_dt * total
