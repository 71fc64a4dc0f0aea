"""The 16 state numbers of the observation, for many drones at once (order: `deploy_kit.task.interface`)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array, matrix_from_euler, to_body
from deploy_kit.task.racing import ObservationNoise

STATE_SIZE = 16
NOISE_SIZE = 6
"""Normal draws that the state's noise takes: three for the velocity, three for the attitude."""


@dataclass(frozen=True)
class FlightState:
    """What the state numbers are computed from.

    Attributes:
        position: world frame, m, shape (N, 3).
        rotation: body to world, shape (N, 3, 3).
        velocity: of the centre of mass, world frame, m/s, shape (N, 3).
        command: acting command: thrust over mass, m/s², and body rates, rad/s, shape (N, 4).
    """

    position: Array
    rotation: Array
    velocity: Array
    command: Array


def state_terms(state: FlightState, target: Array, next_target: Array) -> Array:
    """Return the noise-free state, shape (N, 16), for gate centres (N, 3) in the world frame."""
    observed = np.empty((len(state.position), STATE_SIZE))
    observed[:, 0:3] = to_body(state.rotation, state.velocity)
    observed[:, 3:6] = state.rotation[:, 2]
    observed[:, 6:9] = to_body(state.rotation, target - state.position)
    observed[:, 9:12] = to_body(state.rotation, next_target - target)
    observed[:, 12:16] = state.command
    return observed


def add_state_noise(
    observed: Array, rotation: Array, normals: npt.NDArray[np.float32], noise: ObservationNoise
) -> None:
    """Put noise on velocity and attitude of a state (N, 16), in place.

    Args:
        observed: from `state_terms`, computed with the noisy gate centres.
        rotation: body to world, shape (N, 3, 3).
        normals: standard normal draws, shape (N, 6).
        noise: standard deviations.
    """
    observed[:, 0:3] *= 1.0 + noise.velocity * normals[:, 0:3]
    turn = matrix_from_euler(noise.attitude * normals[:, 3:6].astype(np.float64))
    observed[:, 3:6] = to_body(turn, rotation[:, 2])
