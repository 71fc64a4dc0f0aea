"""A vector environment as quick as a test may be: four integrators that a policy's actions push through "gates"."""

import multiprocessing
import os
import signal
import threading

import numpy as np
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from deploy_kit.errors import TaskError


class ToyEnv(VecEnv):
    """Position moves by tanh(action); a gate is passed wherever the first coordinate crosses a quarter."""

    def __init__(self, num_envs: int, seed: int, size: int = 784, repeats: bool = True, speed: bool = True) -> None:
        self.num_envs, self.num_actions, self.size, self.speed = num_envs, 4, size, speed
        self.max_episode_length, self.device, self.cfg = 20, "cpu", {}
        self.rng = np.random.default_rng(seed if repeats else None)
        self.closed = False
        self.reset()

    def reset(self):
        self.position = self.rng.uniform(-1, 1, (self.num_envs, 4)).astype(np.float32)
        self.background = self.rng.uniform(0, 1, (self.num_envs, self.size)).astype(np.float32)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)

    def get_observations(self):
        observation = self.background.copy()
        observation[:, :4] = self.position
        self.label = getattr(self, "label", np.zeros(self.num_envs, bool))
        return TensorDict(
            {"policy": torch.from_numpy(observation), "auxiliary": torch.from_numpy(self.label[:, None]).float()},
            batch_size=[self.num_envs],
        )

    def step(self, actions):
        before = np.floor(4 * self.position[:, 0])
        move = 0.5 * np.tanh(actions.numpy())
        self.position = self.position + move
        self.label = np.floor(4 * self.position[:, 0]) != before
        self.episode_length_buf += 1
        crashed = np.abs(self.position[:, 1]) > 4.0
        time_out = self.episode_length_buf.numpy() >= self.max_episode_length
        extras = {"time_outs": torch.from_numpy(time_out & ~crashed), "log": {}}
        if self.speed:
            extras["speed"] = torch.from_numpy(np.linalg.norm(move, axis=1))
        done = torch.from_numpy(crashed | time_out)
        return self.get_observations(), torch.zeros(self.num_envs), done, extras

    def close(self):
        self.closed = True


class FlownEnv(ToyEnv):
    """The toy with the racing task's observation: quantities in their places, and the command that acts."""

    FARTHEST = 8.0
    """Farthest a target is along an axis, m."""

    def reset(self):
        super().reset()
        self.scale, self.offset = np.array([14.715, 6.0, 6.0, 6.0]), np.array([14.715, 0.0, 0.0, 0.0])
        self.acting = [np.tile(self.offset, (self.num_envs, 1))] * 2
        self.background[:, 3:6] = (0.0, 0.6, 0.8)
        self.background[:, 6:12] = self.rng.uniform(-self.FARTHEST, self.FARTHEST, (self.num_envs, 6))

    def get_observations(self):
        observations = super().get_observations()
        observations["policy"][:, 3] = 0.0
        observations["policy"][:, 12:16] = torch.from_numpy(self.acting[0]).float()
        return observations

    def step(self, actions):
        self.acting = [self.acting[1], np.tanh(actions.double().numpy()) * self.scale + self.offset]
        # Other targets, so that the head says now this, now that.
        self.background[:, 6:12] = self.rng.uniform(-self.FARTHEST, self.FARTHEST, (self.num_envs, 6))
        return super().step(actions)


def make(options):
    return ToyEnv(options.num_envs, options.seed)


def make_unrepeatable(options):
    return ToyEnv(options.num_envs, options.seed, repeats=False, speed=False)


def make_endless(options):
    env = ToyEnv(options.num_envs, options.seed)
    env.max_episode_length = 20

    class Endless(ToyEnv):
        def step(self, actions):
            observation, reward, done, extras = super().step(actions)
            return observation, reward, torch.zeros_like(done), extras

    return Endless(options.num_envs, options.seed)


def _elsewhere():
    """Return whether this is a process that another one started, or a thread that stands for one."""
    return multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread()


def make_dying_elsewhere(options):
    """Every process besides the first is killed by the system at its fifth step."""

    class Dying(ToyEnv):
        def step(self, actions):
            if _elsewhere() and int(self.episode_length_buf[0]) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(actions)

    return Dying(options.num_envs, options.seed)


def make_refused_elsewhere(options):
    """Every process besides the first finds that it cannot fly the task."""
    if _elsewhere():
        raise TaskError("the toy is broken here")
    return make(options)
