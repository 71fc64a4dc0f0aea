"""Vector environments of no task in particular, for policies of any observation groups: numbers that actions push."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from helpers.rsl_rl_files import GROUPS


class PolicyEnv(VecEnv):
    """Numbers drift and are pushed by the actions; episodes end at times of their own."""

    labels_before_resets = True
    """An episode's end changes none of the numbers, so that a label reads what it was."""

    step_dt = 0.02

    def __init__(self, num_envs: int, seed: int, num_actions: int = 3, shapes=None) -> None:
        self.num_envs, self.num_actions, self.device, self.cfg = num_envs, num_actions, "cpu", {}
        self.max_episode_length = 30
        self.generator = torch.Generator().manual_seed(seed)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        shapes = shapes or {"policy": (11,)}
        self.groups = {name: torch.randn(num_envs, *shape, generator=self.generator) for name, shape in shapes.items()}

    def reset(self):
        return self.get_observations(), {}

    def get_observations(self):
        return TensorDict(self.groups, batch_size=[self.num_envs])

    def step(self, actions):
        for name, numbers in self.groups.items():
            self.groups[name] = 0.9 * numbers + 0.3 * torch.randn(numbers.shape, generator=self.generator)
        next(iter(self.groups.values()))[:, : self.num_actions] += 0.2 * torch.tanh(actions)
        self.episode_length_buf += 1
        lengths = 8 + 3 * (torch.arange(self.num_envs) % 4)
        done = self.episode_length_buf >= lengths
        self.episode_length_buf[done] = 0
        return self.get_observations(), torch.zeros(self.num_envs), done, {}


def make(options):
    return PolicyEnv(options.num_envs, options.seed)


def make_other(options):
    return PolicyEnv(options.num_envs, options.seed, num_actions=5)


def make_seeing(options):
    return PolicyEnv(options.num_envs, options.seed, shapes=GROUPS)


def high(env):
    """Label: the first number is large."""
    return next(iter(env.groups.values()))[:, 0] > 0.3
