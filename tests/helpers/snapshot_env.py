"""A task of a user's own whose simulator offers its state, so that an interrupted flight goes on."""

import torch

from deploy_kit.generators import generator_state, set_generator_state
from helpers.group_env import GroupEnv
from helpers.rsl_rl_files import KINDS


class SnapshotEnv(GroupEnv):
    """Everything that the next step depends on is in its snapshot."""

    def snapshot(self):
        arrays = {f"values.{name}": value.copy() for name, value in self.values.items()}
        arrays |= {"length": self.length.copy(), "track": self.track.copy(), "rng": generator_state(self.rng)}
        return arrays | {"episode_length": self.episode_length_buf.numpy().copy()}

    def restore(self, arrays):
        for name in self.values:
            self.values[name] = arrays[f"values.{name}"].copy()
        self.length, self.track = arrays["length"].copy(), arrays["track"].copy()
        set_generator_state(self.rng, arrays["rng"])
        self.episode_length_buf = torch.from_numpy(arrays["episode_length"].copy())


def gru(options):
    return SnapshotEnv(KINDS["gru"][2], options.num_envs, options.seed)
