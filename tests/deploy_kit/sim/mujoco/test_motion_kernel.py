"""The compiled twins against what they are twins of, on random drones."""

import dataclasses
from dataclasses import astuple

import numpy as np
import pytest

from deploy_kit.sim.controller import RateController, drag_force
from deploy_kit.sim.mujoco.motion_kernel import hold_wrenches, judge_steps, take_states, write_states
from deploy_kit.sim.observation import FlightState, add_state_noise, state_terms
from deploy_kit.sim.rewards import StepOutcome, total_reward
from deploy_kit.sim.rotations import matrix_from_quaternion, to_body
from deploy_kit.sim.rules.judgement import judge
from deploy_kit.task.racing import RACING_TASK
from helpers.rotations import random_quaternion

N = 40


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.fixture
def state(rng):
    """Return states as MuJoCo keeps them, in motion near the origin."""
    state = rng.normal(size=(N, 14))
    state[:, 4:8] = [random_quaternion(rng) for _ in range(N)]
    return state


def test_wrenches_are_those_of_controller_and_drag(rng, state):
    controller = RateController(N)
    controller.rate_gain *= rng.uniform(0.9, 1.1, (N, 3))
    controller.acceleration_gain *= rng.uniform(0.9, 1.1, (N, 3))
    controller.time_constant *= rng.uniform(0.8, 1.3, (N, 4))
    acceleration, linear, quadratic = rng.normal(size=(3, N, 3))
    rotation, lagged, control = matrix_from_quaternion(state[:, 4:8]), np.zeros((N, 4)), np.zeros((N, 3, 6))
    for _ in range(3):
        target = rng.normal(size=(N, 4))
        controller.update(target[:, 0], target[:, 1:], state[:, 11:], acceleration)
        expected = np.zeros((N, 6))
        expected[:, 2:] = controller.wrench
        expected[:, :3] += drag_force(to_body(rotation, state[:, 8:11]), linear, quadratic)
        control[:] = np.nan
        for first, end in ((0, 11), (11, N)):
            hold_wrenches(
                first,
                end,
                target,
                rotation,
                state,
                acceleration,
                controller.inertia,
                controller.rate_gain,
                controller.acceleration_gain,
                controller.keep(),
                linear,
                quadratic,
                lagged,
                control,
            )
        np.testing.assert_allclose(control, np.repeat(expected[:, None], 3, axis=1), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(lagged, controller.wrench, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3])
def test_states_are_taken_from_the_last_physics_step(rng, state, steps):
    states, force = rng.normal(size=(N, steps, 14)), rng.normal(0, 0.5, (N, steps, 3))
    states[..., 4:8] = [[random_quaternion(rng) for _ in range(steps)] for _ in range(N)]
    rates = np.concatenate([state[:, None, 11:], states[..., 11:]], axis=1)
    now, acceleration, rotation = state.copy(), np.full((N, 3), np.nan), np.full((N, 3, 3), np.nan)
    exceeded = rng.random(N) < 0.5
    for first, end in ((0, 13), (13, N)):
        take_states(first, end, states, force, 0.01, 1.0, now, acceleration, rotation, exceeded)
    np.testing.assert_array_equal(now, states[:, -1])
    np.testing.assert_allclose(acceleration, (rates[:, -1] - rates[:, -2]) / 0.01, rtol=1e-12)
    np.testing.assert_allclose(rotation, matrix_from_quaternion(states[:, -1, 4:8]), atol=1e-15)
    np.testing.assert_array_equal(exceeded, (np.linalg.norm(force, axis=2) > 1.0).any(axis=1))
    assert 0 < exceeded.sum() < N


def test_state_numbers_are_those_of_the_observation(rng, state):
    noise = dataclasses.replace(RACING_TASK.noise, velocity=0.3, attitude=0.2)
    gates, gate = rng.normal(0, 5, (N, 9, 3)), rng.integers(0, 8, N)
    rotation, command = matrix_from_quaternion(state[:, 4:8]), rng.normal(size=(N, 4))
    target_noise, normals = rng.normal(size=(N, 2, 3)), rng.normal(size=(N, 6)).astype(np.float32)
    flight, rows = FlightState(state[:, 1:4], rotation, state[:, 8:11], command), np.arange(N)
    target, following = gates[rows, gate], gates[rows, gate + 1]
    clean = state_terms(flight, target, following)
    noisy = state_terms(flight, target + target_noise[:, 0], following + target_noise[:, 1])
    add_state_noise(noisy, rotation, normals, noise)
    critic, policy = np.full((2, N, 20), np.nan, np.float32)
    for first, end in ((0, 7), (7, N)):
        write_states(
            first,
            end,
            state,
            rotation,
            command,
            gates,
            gate,
            target_noise,
            normals,
            noise.velocity,
            noise.attitude,
            critic,
            policy,
        )
    np.testing.assert_allclose(critic[:, :16], clean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(policy[:, :16], noisy, rtol=1e-6, atol=1e-6)
    assert np.isnan(critic[:, 16:]).all()
    assert np.isnan(policy[:, 16:]).all()


@pytest.mark.parametrize("stage", range(3))
def test_judgement_and_reward_are_the_rules(rng, state, stage):
    numbers, task = RACING_TASK.stages[stage], RACING_TASK
    # Every term has a weight, so that a wrong one shows.
    weights = dataclasses.replace(numbers.rewards, flipped=-30.0, perception=0.7, command_change=-0.3)
    gates, gate, rows = np.zeros((N, 9, 3)), rng.integers(0, 8, N), np.arange(N)
    # Some drones are in their gate, one at its very centre, one at rest, two above and below all heights.
    state[5:7, 3] = 10.5, -0.5
    gates[rows, gate] = state[:, 1:4] + rng.normal(0, 0.3, (N, 3))
    gates[3, gate[3]] = state[3, 1:4]
    state[4, 8:11] = 0.0
    newest, before = rng.normal(size=(2, N, 4))
    to_force = np.ones((N, 4))
    to_force[:, 0] = rng.uniform(0.4, 0.6, N)
    rotation, collided = matrix_from_quaternion(state[:, 4:8]), rng.random(N) < 0.3
    to_gate = gates[rows, gate] - state[:, 1:4]
    judged = judge(state[:, 3], rotation[:, 2, 2], to_gate, collided, numbers, task)
    outcome = StepOutcome(
        state[:, 8:11],
        to_gate,
        rotation[:, :, 0],
        newest * to_force,
        before * to_force,
        collided,
        judged.flipped,
        judged.passed,
    )
    passed, crashed = np.empty((2, N), np.bool_)
    rewards = np.empty(N, np.float32)
    lowest, highest = numbers.height_range or (-np.inf, np.inf)
    judge_steps(
        state,
        rotation,
        gates,
        gate,
        collided,
        newest,
        before,
        to_force,
        np.array(astuple(weights)),
        task.pass_radius,
        task.clock.policy_dt,
        numbers.ends_on_crash,
        lowest,
        highest,
        passed,
        crashed,
        rewards,
    )
    np.testing.assert_array_equal(passed, judged.passed)
    np.testing.assert_array_equal(crashed, judged.crashed)
    np.testing.assert_allclose(rewards, total_reward(outcome, weights, task.clock.policy_dt), rtol=1e-6, atol=1e-7)
    assert 0 < passed.sum() < N
    assert 0 < crashed.sum() < N
    assert 0 < judged.flipped.sum() < N
