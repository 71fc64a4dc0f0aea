"""Tasks of the user's own: found through --extension, flown as they are, refused with a reason."""

import pytest
import torch

pytest.importorskip("isaaclab")

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env

EXTENSION = "helpers.isaaclab.user_tasks"
OPTIONS = EnvOptions(num_envs=2, extensions=(EXTENSION,))


@pytest.mark.parametrize("task", ["Cube-Labelled-v0", "Cube-Finite-v0"])
def test_a_registered_task_is_built_with_our_number_of_environments(build, task):
    env = build(OPTIONS, task=task)
    observations, *_ = env.step(torch.zeros(2, 4))
    assert {name: tuple(value.shape) for name, value in observations.items()} == {
        "policy": (2, 7),
        "auxiliary": (2, 1),
    }
    assert observations["auxiliary"].flatten().tolist() == [1.0, 1.0]
    torch.testing.assert_close(
        observations["policy"][:, 2], torch.full((2,), 1 - 9.81 * 0.01**2 * 3), rtol=0, atol=1e-4
    )
    for _ in range(9):
        *_, dones, extras = env.step(torch.zeros(2, 4))
    assert dones.tolist() == [1, 1]
    assert extras["time_outs"].all()


def test_a_task_without_labels_is_told_the_group(build):
    with pytest.raises(TaskError, match=r"lacks observation group 'auxiliary'.*it offers policy \(2, 7\)"):
        build(OPTIONS, task="Cube-Plain-v0")
    build(OPTIONS, task="Cube-Labelled-v0")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Cube-Labeled-v0", "did you mean 'Cube-Labelled-v0'"),
        ("Cube-Bare-v0", "registers no 'env_cfg_entry_point'"),
        ("Cube-Mapping-v0", "env_cfg_entry_point gives a dict; it must be the class of Isaac Lab's configuration"),
        ("Cube-File-v0", "env_cfg_entry_point gives a dict; it must be the class of Isaac Lab's configuration"),
        ("Cube-Broken-v0", "env_cfg_entry_point .*NoSuchCfg' cannot be loaded"),
    ],
)
def test_tasks_that_cannot_be_found_or_loaded(task, words):
    with pytest.raises(TaskError, match=words):
        make_env(OPTIONS, task=task, backend="isaaclab")


def test_a_missing_extension_is_named():
    with pytest.raises(TaskError, match="--extension no_such_module"):
        make_env(EnvOptions(extensions=("no_such_module",)), backend="isaaclab")


def test_two_environments_at_once_are_refused(build):
    build(OPTIONS, task="Cube-Labelled-v0")
    with pytest.raises(TaskError, match="one environment at a time"):
        make_env(OPTIONS, task="Cube-Labelled-v0", backend="isaaclab")


def test_the_racing_task_keeps_its_contacts_when_newton_is_named(build):
    env = build(EnvOptions(num_envs=2, seed=3, obstacles=False, launcher=("--physics", "newton_mjwarp")))
    for _ in range(4):
        *_, extras = env.step(torch.zeros(2, 4))
        assert not extras["crashed"].any()
    assert env.cfg.sim.physics.solver_cfg.use_mujoco_contacts is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--livestrem", "1"), "no argument '--livestrem'"),
        (("--physics", "bullet"), "--physics"),
        (("--device", "cuda:0"), "give --device alone"),
    ],
)
def test_launcher_arguments_are_checked(arguments, words):
    with pytest.raises(OptionError, match=words):
        make_env(EnvOptions(launcher=arguments), backend="isaaclab")


def test_the_launchers_physics_argument_takes_newtons_place(build):
    build(OPTIONS, task="Cube-Labelled-v0")
    with pytest.raises(TaskError, match="without Isaac Sim, which the task now needs"):
        make_env(EnvOptions(num_envs=1, launcher=("--physics", "isaacsim_physx")), backend="isaaclab")
