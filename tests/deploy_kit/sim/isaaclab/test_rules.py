"""Rules of MasterRacing's task in the Isaac Lab back end: each test states one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("isaaclab")

from deploy_kit.sim.isaaclab.racing.containment import Solids
from deploy_kit.sim.isaaclab.racing.race import ctbr_of, race_of
from deploy_kit.sim.levels import TrackGrid
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.rotations import matrix_from_euler, quaternion_from_euler
from deploy_kit.sim.rules.containment import SolidArrays, points_inside
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.racing import RACING_TASK
from helpers.isaaclab.states import CALM, HOVER, LEVEL, actions, place, state

HALF_THRUST = np.array([1.5 * 0.5 * 9.81, 0.0, 0.0, 0.0])
TO_FORCE = np.array([1.5 * 0.5 * 9.81, 6.0, 6.0, 6.0])
"""From tanh(action) to thrust, N, and body rates, rad/s."""


def test_one_factor_on_z_serves_both_drag_coefficients(build):
    env = build(EnvOptions(num_envs=16, seed=1, stage=0, obstacles=False))
    ctbr = ctbr_of(env.unwrapped)
    no_offsets = replace(RACING_TASK.randomisation, drag_linear=0.0, drag_quadratic=0.0)
    ctbr.task = replace(RACING_TASK, randomisation=no_offsets)
    ctbr.randomise_flight(slice(None), torch.Generator().manual_seed(0))
    factors = ctbr.drag_linear[:, 2] / ctbr.drag_linear[:, 0]
    torch.testing.assert_close(ctbr.drag_quadratic[:, 2] / ctbr.drag_quadratic[:, 0], factors)
    assert 4.0 <= factors.min() < 4.1
    assert 4.3 < factors.max() <= 4.4


def test_curriculum_scales_the_noise_of_the_next_episode(build):
    """×1.01 from 4 gates, ×0.98 below 3, not counting the last step's; the reset that begins everything counts 0."""
    env = build(replace(CALM, num_envs=4, stage=1))
    race = race_of(env.unwrapped)
    np.testing.assert_allclose(race.gate_noise.numpy(), 0.098, rtol=1e-5)
    race.gates_passed[:] = torch.tensor([4, 3, 2, 3], dtype=torch.int32)
    env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
    # The last drone passes its fourth gate in the episode's last step.
    position = state(env)[0]
    position[3] = env.tracks()[3].gate_positions[0]
    place(env, position, [LEVEL] * 4, np.zeros((4, 3)), np.zeros((4, 3)))
    observations, *_, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert observations["auxiliary"][:, 0].tolist() == [0, 0, 0, 1]
    assert extras["gates_passed"].tolist() == [4, 3, 2, 4]
    np.testing.assert_allclose(race.gate_noise.numpy() / 0.098, [1.01, 1.0, 0.98, 1.0], rtol=1e-5)


def test_levels_move_drones_between_tracks_of_their_column(build):
    options = EnvOptions(num_envs=20, seed=4, stage=1, levels=True, track_pool=40, obstacles=False)
    env = build(options)
    race, grid = race_of(env.unwrapped), TrackGrid(options, RACING_TASK.levels)

    def flown():
        return [grid.own(level, env * 4 // 20).track_id for env, level in enumerate(race.level.tolist())]

    assert [track.track_id for track in env.tracks()] == flown()
    assert race.level.max() <= 4, "the first reset counts no gates"
    race.level[:] = torch.tensor([0, 3, 3, 3, 9] * 4)
    race.gates_passed[:] = torch.tensor([1, 1, 2, 3, 3] * 4, dtype=torch.int32)
    env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
    env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    assert race.level.reshape(4, 5)[:, :4].tolist() == [[0, 2, 3, 4]] * 4
    assert len(set(race.level.reshape(4, 5)[:, 4].tolist())) > 1, "from the last level to any"
    assert [track.track_id for track in env.tracks()] == flown()
    position = state(env)[0] - [track.start for track in env.tracks()]
    assert np.abs(position - [0, 0, 0.5]).max() < 0.6, "they stand at their new tracks' starts"


def test_neighbouring_tiles_lie_40_metres_apart(build):
    options = EnvOptions(num_envs=3, seed=4, levels=True, neighbours=True, track_pool=30, obstacles=False, stage=0)
    race = race_of(build(options).unwrapped)
    origins = race.pool.origins.reshape(10, 3, 3)
    np.testing.assert_array_equal(np.diff(origins, axis=0), np.tile([40.0, 0, 0], (9, 3, 1)))
    np.testing.assert_array_equal(np.diff(origins, axis=1), np.tile([0, 40.0, 0], (10, 2, 1)))
    # A drone without colliders is in a solid of a neighbouring tile too.
    row = race.pool.tracks.index(race.pool.tracks[13])
    bar = race.pool.tracks[14].primitives[2].position
    inside = race._solids.hold(
        torch.tensor([bar]) + torch.tensor([0, 40.0, 0]), torch.eye(3)[None], torch.tensor([row])
    )
    assert inside.tolist() == [True]


def test_the_action_on_its_way_outlives_the_episode(build):
    """The first step of an episode flies the last action of the one before, which last_action showed as acting too."""
    env = build(replace(CALM, num_envs=2))
    env.step(actions(env, 0.3, 0.2, -0.4, 0.5))
    env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
    observations, _, dones, _ = env.step(actions(env, -0.1, 1.0, 0.3, -0.2))
    assert dones.tolist() == [1, 1]
    for shown in ([0.3, 0.2, -0.4, 0.5], [-0.1, 1.0, 0.3, -0.2]):
        expected = np.tanh(shown) * [1.5 * 9.81, 6, 6, 6] + [1.5 * 9.81, 0, 0, 0]
        np.testing.assert_allclose(observations["policy"][0, 12:16], expected, rtol=1e-5)
        observations, *_ = env.step(actions(env, 0.0, 0.0, 0.0, 0.0))


def test_rewards_are_for_the_action_just_given(build):
    """Body rates and change of command are the newest action's; an episode's first change is from an action of 0."""
    env = build(replace(CALM, num_envs=1, stage=2))
    given = [[0.0] * 4, [0.4, 0.5, 0.0, -0.6], [0.1, 0.0, 0.2, 0.0]]
    commands = [TO_FORCE * np.tanh(a) + HALF_THRUST for a in given]
    manager = env.unwrapped.reward_manager

    def rewards(action):
        env.step(actions(env, *action))
        return dict(zip(manager.active_terms, manager._step_reward[0].tolist(), strict=True))

    def change(before, now):
        return pytest.approx(-0.05 * np.sum((commands[now] - commands[before]) ** 2), rel=1e-4)

    for before, now in ((0, 1), (1, 2)):
        terms = rewards(given[now])
        assert terms["body_rate"] == pytest.approx(-0.1 * np.linalg.norm(commands[now][1:]), rel=1e-4)
        assert terms["command_change"] == change(before, now)
    env.unwrapped.episode_length_buf[:] = env.max_episode_length - 1
    rewards(given[2])
    assert rewards(given[1])["command_change"] == change(0, 1)


def test_stage_0_flies_through_solids_and_pays_for_being_inside(build):
    """No colliders: -50 while 3 of 17 body points are inside; the root below 0 ends the episode."""
    env = build(replace(CALM, num_envs=3, tracks=("circular",), difficulty=0.0))
    bars = [track.primitives[2].position for track in env.tracks()]
    start = np.array(bars)
    start[1] += [0, 0, 5.0]
    start[2, 2] = 0.01
    velocity = np.array([[0.0] * 3, [0.0] * 3, [0.0, 0.0, -2.0]])
    # Its nose down, the flat drone lies in the plane of the frame, which is 3 cm deep.
    attitude = [quaternion_from_euler(0, np.pi / 2, env.tracks()[0].gate_yaws[0]), LEVEL, LEVEL]
    place(env, start, attitude, velocity, np.zeros((3, 3)))
    _, rewards, dones, extras = env.step(actions(env, HOVER, 0.0, 0.0, 0.0))
    outcome = race_of(env.unwrapped).outcome
    assert outcome.collided.tolist() == [True, False, True]
    assert dones.tolist() == [0, 0, 1]
    assert extras["crashed"].tolist() == [False, False, True]
    assert (rewards < -1).tolist() == [True, False, True]
    np.testing.assert_allclose(state(env)[0][:2], start[:2], atol=0.05)


def test_what_counts_as_inside_is_what_the_embedded_simulator_counts():
    tracks = [make_track(seed, (kind,)).primitives for seed, kind in enumerate(("circular", "zigzag", "ellipse"))]
    arrays, rng = SolidArrays.of(tracks), np.random.default_rng(1)
    rows = rng.integers(3, size=400)
    near = np.array([tracks[row][rng.integers(len(tracks[row]))].position for row in rows])
    position = near + rng.uniform(-0.3, 0.3, (400, 3))
    angles = rng.uniform(-3, 3, (400, 3))
    rotation = matrix_from_euler(angles)
    points = points_inside(position, rotation, np.array(RACING_TASK.body_points.offsets), arrays, rows)
    ours = Solids(arrays, RACING_TASK, "cpu").hold(
        *(torch.tensor(values, dtype=torch.float32) for values in (position, rotation)), torch.tensor(rows)
    )
    theirs = points.sum(axis=1) >= 3
    assert 50 < theirs.sum() < 350
    # A point on a surface may fall to either side in single precision.
    assert (ours.numpy() != theirs).sum() <= 1
