import math

import numpy as np
import pytest

from deploy_kit.sim.observation import FlightState, add_state_noise, state_terms
from deploy_kit.sim.rotations import matrix_from_euler
from deploy_kit.task.interface import STATE_TERMS
from deploy_kit.task.racing import ObservationNoise

TERMS = {term.name: slice(term.start, term.stop) for term in STATE_TERMS}


def state(roll=0.0, pitch=0.0, yaw=0.0, velocity=(0.0, 0.0, 0.0), position=(0.0, 0.0, 0.0)):
    rotation = matrix_from_euler(np.array([[roll, pitch, yaw]]))
    return FlightState(np.array([position]), rotation, np.array([velocity]), np.array([[9.0, 1.0, 2.0, 3.0]]))


def test_terms_of_a_drone_that_looks_along_world_y():
    flying = state(yaw=math.pi / 2, velocity=(1.0, 2.0, 3.0), position=(10.0, 20.0, 1.0))
    observed = state_terms(flying, np.array([[10.0, 24.0, 1.5]]), np.array([[8.0, 24.0, 2.0]]))[0]
    np.testing.assert_allclose(observed[TERMS["base_lin_vel"]], [2.0, -1.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(observed[TERMS["base_orientation"]], [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(observed[TERMS["target_position"]], [4.0, 0.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(observed[TERMS["next_target_offset"]], [0.0, 2.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(observed[TERMS["last_action"]], [9.0, 1.0, 2.0, 3.0])


def test_orientation_is_world_z_in_body_axes():
    # Nose down by 0.3 rad: world up leans towards the tail.
    pitched = state_terms(state(pitch=0.3), np.zeros((1, 3)), np.zeros((1, 3)))[0, 3:6]
    np.testing.assert_allclose(pitched, [-math.sin(0.3), 0.0, math.cos(0.3)], atol=1e-12)
    # Left side up by 0.3 rad: world up leans towards the left.
    rolled = state_terms(state(roll=0.3), np.zeros((1, 3)), np.zeros((1, 3)))[0, 3:6]
    np.testing.assert_allclose(rolled, [0.0, math.sin(0.3), math.cos(0.3)], atol=1e-12)


def test_noise_statistics():
    rng = np.random.default_rng(0)
    count = 20_000
    flying = state(roll=0.2, pitch=-0.1, yaw=1.0, velocity=(3.0, -1.0, 0.5))
    clean = np.repeat(state_terms(flying, np.ones((1, 3)), np.ones((1, 3))), count, axis=0)
    noisy = clean.copy()
    rotation = np.repeat(flying.rotation, count, axis=0)
    add_state_noise(noisy, rotation, rng.standard_normal((count, 6), dtype=np.float32), ObservationNoise())
    relative = noisy[:, :3] / clean[:, :3] - 1
    np.testing.assert_allclose(relative.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(relative.std(axis=0), 0.03, rtol=0.03)
    np.testing.assert_allclose(np.linalg.norm(noisy[:, 3:6], axis=1), 1.0, atol=1e-6)
    angle = np.arccos(np.clip(np.einsum("ni,ni->n", noisy[:, 3:6], clean[:, 3:6]), -1, 1))
    # Two of the three angles tilt the vertical: a Rayleigh distribution, whose mean is σ·sqrt(π/2).
    assert angle.mean() == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.03)
    np.testing.assert_array_equal(noisy[:, 6:], clean[:, 6:])
