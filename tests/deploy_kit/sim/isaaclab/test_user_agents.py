"""A task is flown as the agent that it registers flies it; another agent than the run's is refused."""

import shutil

import pytest
import torch

pytest.importorskip("isaaclab")

from isaaclab.utils.io import dump_yaml
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg
from rsl_rl.runners import OnPolicyRunner

from deploy_kit.errors import CheckpointError, TaskError
from deploy_kit.flight.rollout import require_checkpoint
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.sim.options import EnvOptions
from helpers.isaaclab import user_tasks

OPTIONS = EnvOptions(num_envs=2, extensions=(user_tasks.__name__,))
SEEING = NetworkHints(activation="lrelu", image_shape=(18, 36))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as Isaac Lab's training leaves it: a checkpoint, and the agent's configuration in params/agent.yaml."""
    from deploy_kit.sim.registry import make_env

    folder = tmp_path_factory.mktemp("run")
    env = make_env(OPTIONS, backend="isaaclab", task="Cube-Seeing-v0")
    agent = handle_deprecated_rsl_rl_cfg(user_tasks.agent(), "5.5.1")
    torch.manual_seed(0)
    runner = OnPolicyRunner(RslRlVecEnvWrapper(env.env, agent.clip_actions), agent.to_dict(), device="cpu")
    runner.learn(2)
    runner.save(str(folder / "model_1.pt"))
    env.close()
    dump_yaml(str(folder / "params" / "agent.yaml"), agent)
    return folder


@pytest.fixture
def alone(trained, tmp_path):
    """The checkpoint without what the run recorded beside it."""
    return shutil.copy(trained / "model_1.pt", tmp_path / "model_1.pt")


def test_the_actors_groups_are_the_policys_observation_in_its_order(build):
    env = build(OPTIONS, task="Cube-Seeing-v0")
    observations, *_ = env.step(torch.zeros(2, 4))
    for seen in (observations, env.get_observations()):
        assert seen["policy"].shape == (2, 7 + 18 * 36)
        assert torch.equal(seen["policy"][:, :7], user_tasks.pose(env.unwrapped))
        assert torch.equal(seen["policy"][:, 7:], user_tasks.image(env.unwrapped))
    swapped = build(OPTIONS, task="Cube-Seeing-Swapped-v0")
    assert torch.equal(swapped.get_observations()["policy"][:, -7:], user_tasks.pose(swapped.unwrapped))


@pytest.mark.parametrize(("task", "limit"), [("Cube-Seeing-v0", 0.05), ("Cube-Seeing-Unclipped-v0", 2.0)])
def test_actions_are_clipped_as_the_agent_says(build, task, limit):
    env = build(OPTIONS, task=task)
    env.step(torch.full((2, 4), -2.0))
    assert env.unwrapped.action_manager.action.tolist() == torch.full((2, 4), -limit).tolist()


@pytest.mark.parametrize(
    "task", ["Cube-Seeing-v0", "Cube-Seeing-Wide-v0", "Cube-Seeing-Headless-v0", "Cube-Seeing-File-v0"]
)
def test_the_run_flies_with_the_agent_it_was_trained_with(build, trained, task):
    require_checkpoint(build(OPTIONS, task=task), load_checkpoint(trained / "model_1.pt"), task)


def test_the_check_leaves_the_flights_random_numbers_alone(build, trained):
    env = build(OPTIONS, task="Cube-Seeing-v0")
    before = torch.random.get_rng_state()
    env.require_policy(load_checkpoint(trained / "model_1.pt"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "Cube-Seeing-Swapped-v0",
            r"flies with obs_groups \['image', 'policy'\], but .*was trained with \['policy', 'im",
        ),
        (
            "Cube-Seeing-Unclipped-v0",
            r"flies with clip_actions None, but .* was trained with 0.05 \(params/agent.yaml\)",
        ),
    ],
)
def test_what_the_run_recorded_must_agree(build, trained, task, words):
    with pytest.raises(TaskError, match=words):
        require_checkpoint(build(OPTIONS, task=task), load_checkpoint(trained / "model_1.pt"), task)


def test_an_agent_that_acts_otherwise_is_refused(build, alone):
    task = "Cube-Seeing-Elu-v0"
    with pytest.raises(TaskError, match=f"'{task}': the agent that it registers acts otherwise"):
        require_checkpoint(build(OPTIONS, task=task), load_checkpoint(alone, SEEING), task)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Cube-Seeing-Plain-v0", r"state_dict for MLPModel: Unexpected key\(s\) in state_dict: \"stem"),
        ("Cube-Seeing-Unnormalised-v0", r"Unexpected key\(s\) in state_dict: \"obs_normalizer"),
    ],
)
def test_an_agent_that_cannot_hold_the_checkpoint_is_refused(build, alone, task, words):
    with pytest.raises(
        CheckpointError, match=f"model_1.pt does not fit the agent that task '{task}' registers: .*{words}"
    ):
        require_checkpoint(build(OPTIONS, task=task), load_checkpoint(alone, SEEING), task)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Cube-Seeing-Distilled-v0", "an agent of 'DistillationRunner'; policies of OnPolicyRunner can be flown"),
        ("Cube-Seeing-Short-v0", "the actor that it registers fails on the task's observations: The size of tensor a"),
        ("Cube-Seeing-Unknown-v0", "rsl_rl cannot build its agent: No module named 'no_such_module'"),
    ],
)
def test_agents_that_cannot_be_built_or_cannot_act(build, alone, task, words):
    with pytest.raises(TaskError, match=words):
        require_checkpoint(build(OPTIONS, task=task), load_checkpoint(alone, SEEING), task)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Cube-Seeing-Blind-v0", r"reads observation group 'depth', .* the task offers policy \(2, 7\), auxiliary"),
        ("Cube-Seeing-Old-Name-v0", r"no set 'actor', so rsl_rl 5 gives .* \['policy'\]; rename its set 'policy'"),
        ("Cube-Seeing-No-File-v0", r"no_such_agent.yaml cannot be read"),
        ("Cube-Seeing-Nothing-v0", "rsl_rl_cfg_entry_point is no agent of rsl_rl"),
    ],
)
def test_agents_that_do_not_fit_the_task(build, task, words):
    with pytest.raises(TaskError, match=words):
        build(OPTIONS, task=task)
    build(OPTIONS, task="Cube-Seeing-v0")


def test_a_head_that_an_actor_of_the_users_own_has_no_place_for_is_left_out(build, alone):
    task, checkpoint = "Cube-Seeing-Headless-Own-v0", load_checkpoint(alone, SEEING)
    assert "aux_decoder.weight" in checkpoint.entries["actor_state_dict"]
    require_checkpoint(build(OPTIONS, task=task), checkpoint, task)


def test_a_policy_of_other_sizes_is_told_them(build, trained):
    task = "Cube-Labelled-v0"
    with pytest.raises(TaskError, match=r"'policy' has 7 numbers, the policy takes 655 \(7 state, 18x36 image\)"):
        require_checkpoint(build(OPTIONS, task=task), load_checkpoint(trained / "model_1.pt"), task)
