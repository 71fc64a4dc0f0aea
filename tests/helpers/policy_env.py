"""A vector environment for policies of one flat observation group: numbers that actions push."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class PolicyEnv(VecEnv):
    """Eleven numbers drift and are pushed by three actions; episodes end at times of their own."""

    def __init__(self, num_envs: int, seed: int, num_actions: int = 3) -> None:
        self.num_envs, self.num_actions, self.device, self.cfg = num_envs, num_actions, "cpu", {}
        self.max_episode_length = 30
        self.generator = torch.Generator().manual_seed(seed)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.numbers = torch.randn(num_envs, 11, generator=self.generator)

    def reset(self):
        return self.get_observations(), {}

    def get_observations(self):
        return TensorDict({"policy": self.numbers}, batch_size=[self.num_envs])

    def step(self, actions):
        self.numbers = 0.9 * self.numbers + 0.3 * torch.randn(self.numbers.shape, generator=self.generator)
        self.numbers[:, : self.num_actions] += 0.2 * torch.tanh(actions)
        self.episode_length_buf += 1
        lengths = 8 + 3 * (torch.arange(self.num_envs) % 4)
        done = self.episode_length_buf >= lengths
        self.episode_length_buf[done] = 0
        return self.get_observations(), torch.zeros(self.num_envs), done, {}


def make(options):
    return PolicyEnv(options.num_envs, options.seed)


def make_other(options):
    return PolicyEnv(options.num_envs, options.seed, num_actions=5)
