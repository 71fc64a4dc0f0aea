"""A task of a user's own: everything that happens is a formula of environment, episode and step."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

OBSERVATION_SIZE = 6928


def label_of(env: int, episode: int, step: int) -> bool:
    return (3 * env + 5 * episode + step) % 4 == 1


def length_of(env: int, episode: int) -> int:
    return 4 + (env + 2 * episode) % 3


def ends_by_time(env: int, episode: int) -> bool:
    return (env + episode) % 2 == 0


def observation_of(seed: int, env: int, episode: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1_000_000 * (seed % 1000) + 10_000 * env + 100 * episode + step)
    return torch.rand(OBSERVATION_SIZE, generator=generator)


class ScriptedEnv(VecEnv):
    """Reports no tracks, positions or speeds; `log` keeps the actions it was given."""

    def __init__(self, num_envs: int, seed: int, device: str) -> None:
        self.num_envs, self.num_actions, self.device, self.seed = num_envs, 4, device, seed
        self.max_episode_length, self.cfg = 8, {}
        self.episode = [0] * num_envs
        self.step_in_episode = [0] * num_envs
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.log: list[torch.Tensor] = []
        # One buffer for ever, as a careless environment might have it.
        self._policy = torch.zeros(num_envs, OBSERVATION_SIZE)

    def get_observations(self) -> TensorDict:
        return self._observe(torch.zeros(self.num_envs, 1))

    def _observe(self, label: torch.Tensor) -> TensorDict:
        for env in range(self.num_envs):
            self._policy[env] = observation_of(self.seed, env, self.episode[env], self.step_in_episode[env])
        return TensorDict({"policy": self._policy, "critic": self._policy, "auxiliary": label}, [self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        self.log.append(actions.clone())
        label = torch.zeros(self.num_envs, 1)
        done = torch.zeros(self.num_envs, dtype=torch.long)
        time_out = torch.zeros(self.num_envs, dtype=torch.bool)
        for env in range(self.num_envs):
            episode, step = self.episode[env], self.step_in_episode[env]
            label[env] = label_of(env, episode, step)
            self.step_in_episode[env] += 1
            if self.step_in_episode[env] == length_of(env, episode):
                done[env], time_out[env] = 1, ends_by_time(env, episode)
                self.episode[env], self.step_in_episode[env] = episode + 1, 0
        return self._observe(label), torch.zeros(self.num_envs), done, {"time_outs": time_out}


def make(options) -> ScriptedEnv:
    return ScriptedEnv(options.num_envs, options.seed, options.device)


class _OtherGroups(ScriptedEnv):
    def _observe(self, label: torch.Tensor) -> TensorDict:
        observed = super()._observe(label)
        return TensorDict({"policy": observed["policy"][:, :10], "auxiliary": observed["auxiliary"]}, [self.num_envs])


def make_small(options) -> ScriptedEnv:
    return _OtherGroups(options.num_envs, options.seed, options.device)
