"""The scripted task with faults: numbers that are not finite, a process that dies."""

import os
import signal

import torch

from helpers.scripted_racing import ScriptedEnv


class _NotFinite(ScriptedEnv):
    """Environment 1 gives NaN at the second step of its third episode."""

    def _observe(self, label):
        observed = super()._observe(label)
        if self.episode[1] == 2 and self.step_in_episode[1] == 1:
            observed["policy"][1, 5] = torch.nan
        return observed


def make_not_finite(options):
    return _NotFinite(options.num_envs, options.seed, options.device)


class _Dying(ScriptedEnv):
    """Process 1 of several is killed by the system at its 200th training step."""

    def step(self, actions):
        if os.environ.get("HELPERS_DYING_RANK") == str(self.rank) and len(self.log) == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)


def make_dying(options):
    env = _Dying(options.num_envs, options.seed, options.device)
    # Processes know themselves by the seeds that they are given.
    from deploy_kit.collection.flight import TRAINING_PURPOSE, env_seed

    env.rank = next((rank for rank in range(2) if env_seed(4, TRAINING_PURPOSE, 0, rank) == options.seed), None)
    return env
