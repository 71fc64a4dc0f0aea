"""Labels and interface of a task of Isaac Lab's, for any policy."""

import pytest
import torch

pytest.importorskip("isaaclab")

from deploy_kit.policy.run.interface_file import read_interface
from deploy_kit.sim.labels import find_label
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env

OPTIONS = EnvOptions(num_envs=3, extensions=("helpers.isaaclab.user_tasks",))


def test_a_label_is_judged_before_isaac_lab_resets():
    label = find_label("helpers.isaaclab.labels:over")
    env = make_env(OPTIONS, "Cube-Plain-v0", "isaaclab", label=label)
    try:
        env.unwrapped.episode_length_buf[:] = torch.tensor([0, 1, 2])
        found = []
        for _ in range(int(env.max_episode_length)):
            observations, _, dones, _ = env.step(torch.zeros(3, env.num_actions))
            assert observations["auxiliary"][:, 0].bool().tolist() == dones.bool().tolist()
            found.append(bool(dones.any()))
        assert any(found)
        told = read_interface(env.interface())
        (term,) = told.groups["policy"]
        assert (term.name, term.size, term.history) == ("pose", 7, 1)
        assert told.timing.policy_period_s.value == env.unwrapped.step_dt
    finally:
        env.close()
