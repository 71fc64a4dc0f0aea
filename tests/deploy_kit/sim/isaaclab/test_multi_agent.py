"""Multi-agent tasks are flown as one agent, if their observations hold the label."""

import pytest
import torch

pytest.importorskip("isaaclab")

from deploy_kit.errors import TaskError
from deploy_kit.sim.options import EnvOptions
from helpers.isaaclab.user_tasks import high, image, pose

OPTIONS = EnvOptions(num_envs=2, extensions=("helpers.isaaclab.multi_agent_tasks",))


def test_agents_are_flown_as_one_and_the_label_comes_along(build):
    env = build(OPTIONS, task="Cube-TwoLabelledAgents-v0")
    assert env.num_actions == 4
    agents = env.unwrapped.env
    actions = torch.tensor([[0.01, 0.02, 0.03, 0.04], [1.0, -1.0, 0.0, -0.04]])
    for _ in range(9):
        observations, rewards, dones, _ = env.step(actions)
        assert torch.equal(observations["policy"], torch.cat([pose(agents), image(agents)], dim=1))
        assert torch.equal(observations["auxiliary"], high(agents))
        assert rewards.tolist() == [2.0, 2.0]
        assert dones.tolist() == [0, 0]
    assert agents.given["pilot"].tolist() == torch.tensor([[0.01, 0.02, 0.03], [0.05, -0.05, 0.0]]).tolist()
    assert agents.given["camera"].tolist() == torch.tensor([[0.04], [-0.04]]).tolist()
    *_, dones, extras = env.step(actions)
    assert dones.tolist() == [1, 1]
    assert extras["time_outs"].all()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "Cube-TwoAgents-v0",
            "has several agents and no observation 'auxiliary'; what its _get_observations returns",
        ),
        (
            "Cube-TwoMislabelledAgents-v0",
            r"observation 'auxiliary' beside those of the agents has shape \(1, 1\), not \(num_envs, 1\) \(2 envs\)",
        ),
    ],
)
def test_a_multi_agent_task_without_a_label_for_each_environment_is_refused(build, task, words):
    with pytest.raises(TaskError, match=f"'{task}'.* {words}"):
        build(OPTIONS, task=task)
    build(OPTIONS, task="Cube-TwoLabelledAgents-v0")
