"""Levels of difficulty and neighbouring tiles in the embedded simulator."""

import dataclasses

import numpy as np
import pytest
import torch

from deploy_kit.sim.levels import TrackGrid
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.randomisation import Start
from deploy_kit.task.racing import RACING_TASK
from helpers.tracks import quiet


def options(**changes):
    small = {"num_envs": 20, "stage": 1, "levels": True, "track_pool": 40, "obstacles": False, "num_threads": 1}
    return EnvOptions(**{**small, "randomisation": False, **changes})


def fly(env):
    """Fly an episode of five steps; every environment's ends."""
    for _ in range(5):
        *_, dones, extras = env.step(torch.zeros(env.num_envs, 4))
    assert dones.all()
    return extras


@pytest.mark.parametrize(("radius", "step"), [(1e3, 1), (1e-6, -1)])
def test_levels_rise_and_fall_with_the_gates_passed(radius, step):
    """Up from 3 gates, down below 2, not below 0; drones keep their column and fly its track of their level."""
    task = dataclasses.replace(quiet(episode_length_s=0.15), pass_radius=radius)
    with MujocoRacingEnv(options(), task) as env:
        grid = TrackGrid(env.options, task.levels)
        before = env.level.copy()
        assert set(before.tolist()) <= set(range(5)), "0 to 5, and the reset that begins everything counts no gates"
        assert len(set(before.tolist())) > 2
        for _ in range(2):
            expected = [grid.own(level, index * 4 // 20).track_id for index, level in enumerate(env.level.tolist())]
            assert [track.track_id for track in env.tracks()] == expected
            assert fly(env)["track_id"].tolist() == expected
        np.testing.assert_array_equal(env.level, np.maximum(before + 2 * step, 0))


def test_past_the_last_level_a_drone_goes_to_any():
    task = dataclasses.replace(quiet(episode_length_s=0.15), pass_radius=1e3)
    with MujocoRacingEnv(options(), task) as env:
        env.level[:] = 9
        fly(env)
        assert len(set(env.level.tolist())) > 3


def test_neighbouring_tracks_are_seen_and_solid():
    with MujocoRacingEnv(options(num_envs=1, neighbours=True, track_pool=10), quiet()) as env:
        level, (track,) = int(env.level[0]), env.tracks()
        following = TrackGrid(env.options, RACING_TASK.levels).own(level + 1, 0).primitives[0]
        x, y, z = following.position
        physics = env._fleet.physics
        # Half a metre before a beam of the track of the next level, 40 m further along x; then in it.
        for offset, touching in ((-0.5, False), (0.0, True)):
            there = np.array([x + 40 + offset, y, z])
            physics.reset(0, Start(there, np.array([1.0, 0, 0, 0]), np.zeros(3), np.zeros(3)))
            physics.control[:] = [0, 0, 0.5 * 9.81, 0, 0, 0]
            physics.step()
            assert physics.exceeded.tolist() == [touching]
        assert any(solid.position == (x + 40, y, z) for solid in track.primitives)
