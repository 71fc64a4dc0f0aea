"""A vector environment with any observation groups, which remembers all that it showed; its label follows from them."""

import numpy as np
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

EPISODE_STEPS = 12
LABEL_RULE = "first number of the first group above its mean"


class GroupEnv(VecEnv):
    """Numbers that wander; an episode ends after a drawn number of steps.

    Args:
        shapes: shape of each group.
        num_envs: environments.
        seed: seed of the numbers.
        num_actions: numbers of an action, which moves the first group's first number a little.
    """

    step_dt = 0.02

    def __init__(self, shapes, num_envs, seed, num_actions=3):
        self.shapes, self.num_envs, self.num_actions = shapes, num_envs, num_actions
        self.max_episode_length, self.device, self.cfg = EPISODE_STEPS, "cpu", {}
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.values = {name: np.zeros((num_envs, *shape), np.float32) for name, shape in shapes.items()}
        self.track = np.zeros(num_envs, np.int64)
        self.shown, self.ended = [], []
        self._reset_idx(np.arange(num_envs))

    def _reset_idx(self, env_ids):
        for name, shape in self.shapes.items():
            self.values[name][env_ids] = 1.5 + 3.0 * self.rng.standard_normal((len(env_ids), *shape))
        self.length = getattr(self, "length", np.zeros(self.num_envs, int))
        self.length[env_ids] = self.rng.integers(3, EPISODE_STEPS, len(env_ids))
        self.track[env_ids] = self.rng.integers(1 << 40, size=len(env_ids))
        self.episode_length_buf[torch.from_numpy(env_ids)] = 0

    def get_observations(self):
        groups = {name: torch.from_numpy(value.copy()) for name, value in self.values.items()}
        return TensorDict(groups, batch_size=[self.num_envs])

    def step(self, actions):
        self.shown.append({name: value.copy() for name, value in self.values.items()})
        for value in self.values.values():
            value += 0.8 * self.rng.standard_normal(value.shape) + 0.3 * (1.5 - value)
        first = next(iter(self.values.values())).reshape(self.num_envs, -1)
        first[:, 0] += 0.05 * np.tanh(actions.numpy()[:, 0])
        self.episode_length_buf += 1
        done = self.episode_length_buf.numpy() >= self.length
        self.ended.append(done.copy())
        track = torch.from_numpy(self.track.copy())
        if done.any():
            self._reset_idx(np.flatnonzero(done))
        extras = {"time_outs": torch.from_numpy(done), "track_id": track}
        return self.get_observations(), torch.zeros(self.num_envs), torch.from_numpy(done), extras


def high(env):
    """Return whether the first number of the first group is above its mean."""
    first = next(iter(env.values.values())).reshape(env.num_envs, -1)
    return first[:, 0] > 1.5


MADE = []
"""Environments that were made, in order; a test clears it."""


def factory(kind):
    """Return what builds the environment of a kind of `helpers.rsl_rl_files`."""
    from helpers.rsl_rl_files import KINDS

    def make(options):
        MADE.append(GroupEnv(KINDS[kind][2], options.num_envs, options.seed))
        return MADE[-1]

    return make


mlp, cnn, lstm, gru = (factory(kind) for kind in ("mlp", "cnn", "lstm", "gru"))


def swapped(options):
    """Build the environment of "cnn" with two groups' shapes exchanged."""
    env = cnn(options)
    env.values = {
        {"proprio": "command", "command": "proprio"}.get(name, name): value for name, value in env.values.items()
    }
    return env
