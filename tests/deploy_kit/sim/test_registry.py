import importlib
import sys
import textwrap
from dataclasses import replace

import gymnasium
import pytest

from deploy_kit.errors import MissingDependencyError, OptionError, TaskError
from deploy_kit.sim.registry import EnvOptions, make_env

SMALL = EnvOptions(num_envs=2, num_threads=1, obstacles=False, seed=3)

MODULE = """
    import gymnasium
    import torch
    from rsl_rl.env import VecEnv
    from tensordict import TensorDict


    class OwnEnv(VecEnv):
        def __init__(self, num_envs, seed, shapes):
            self.num_envs, self.num_actions, self.seed, self.shapes = num_envs, 4, seed, shapes

        def get_observations(self):
            return TensorDict({k: torch.zeros(v) for k, v in self.shapes.items()}, batch_size=[])

        def step(self, actions):
            raise NotImplementedError


    GOOD = {"policy": (2, 20), "auxiliary": (2, 1)}

    def factory(options):
        return OwnEnv(options.num_envs, options.seed, GOOD)

    def without_label(options):
        return OwnEnv(options.num_envs, options.seed, {"policy": (2, 20)})

    def wide_label(options):
        return OwnEnv(options.num_envs, options.seed, {"policy": (2, 20), "auxiliary": (2, 3)})

    def wrong_thing(options):
        return "an environment"

    def entry_point(num_envs, seed, scale):
        env = OwnEnv(num_envs, seed, GOOD)
        env.scale = scale
        return env

    class Wrapper:
        def __init__(self, env):
            self.unwrapped = env

    def wrapped(options):
        return Wrapper(factory(options))

    def only_count(num_envs):
        return OwnEnv(num_envs, 0, GOOD)

    gymnasium.register(id="OwnCount-v0", entry_point=f"{__name__}:only_count")
    gymnasium.register(id="OwnRacing-v0", entry_point=f"{__name__}:entry_point", kwargs={"scale": 2.5})
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_tasks_of_a_user.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_tasks_of_a_user"
    sys.modules.pop("own_tasks_of_a_user", None)
    gymnasium.registry.pop("OwnRacing-v0", None)
    gymnasium.registry.pop("OwnCount-v0", None)


def test_the_racing_task_is_the_default():
    env = make_env(SMALL)
    assert type(env).__name__ == "MujocoRacingEnv"
    assert env.num_envs == 2
    assert env.options == SMALL
    env.close()


@pytest.mark.parametrize("name", ["factory", "wrapped"])
def test_a_factory_gets_the_options(own_module, name):
    env = make_env(SMALL, task=f"{own_module}:{name}")
    assert (type(env).__name__, env.num_envs, env.seed) == ("OwnEnv", 2, 3)


def test_a_gymnasium_id_with_its_module(own_module):
    env = make_env(SMALL, task=f"{own_module}:OwnRacing-v0")
    assert (env.num_envs, env.seed, env.scale) == (2, 3, 2.5)
    # Registered now, the id alone will do.
    assert make_env(SMALL, task="OwnRacing-v0").scale == 2.5
    assert make_env(SMALL, task="OwnCount-v0").num_envs == 2


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("DiffLab-Quadcopter-CTBR-Racing-v1", "did you mean 'DiffLab-Quadcopter-CTBR-Racing-v0'"),
        ("OwnRacng-v0", "did you mean 'OwnRacing-v0'"),
        ("no_such_module_anywhere:factory", "module 'no_such_module_anywhere' is not found"),
        ("{module}:factry", "holds no factory"),
        ("{module}:wrong_thing", "builds a str, not an rsl_rl VecEnv"),
        ("{module}:without_label", r"lacks observation group 'auxiliary' of shape \(num_envs, 1\).*policy \(2, 20\)"),
        ("{module}:wide_label", r"'auxiliary' has shape \(2, 3\)"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(own_module, task, message):
    importlib.import_module(own_module)
    with pytest.raises(TaskError, match=message):
        make_env(SMALL, task=task.format(module=own_module))


def test_back_ends(monkeypatch):
    monkeypatch.setitem(sys.modules, "isaaclab", None)
    with pytest.raises(MissingDependencyError, match=r'needs isaaclab.*pip install "deploy-kit\[isaaclab\]"'):
        make_env(SMALL, backend="isaaclab")
    with pytest.raises(OptionError, match="no launcher that could take '--livestream'"):
        make_env(replace(SMALL, launcher=("--livestream", "1")))
    with pytest.raises(TaskError, match="--extension no_such_module: module 'no_such_module' is not found"):
        make_env(replace(SMALL, extensions=("no_such_module",)), task="Tiny-v0")
    with pytest.raises(TaskError, match="did you mean 'mujoco'"):
        make_env(SMALL, backend="mujcoo")


def test_environments_share_a_pool_of_tracks():
    with make_env(replace(SMALL, num_envs=5, track_pool=2)) as env:
        seeds = [track.seed for track in env.tracks()]
    with make_env(replace(SMALL, num_envs=2)) as env:
        assert seeds == [*(track.seed for track in env.tracks())] * 2 + seeds[:1]
    assert seeds[0] != seeds[1]


def test_options_are_checked_before_anything_is_built():
    with pytest.raises(OptionError, match="num_envs is 0"):
        make_env(EnvOptions(num_envs=0), task="no_such_module:factory")


@pytest.mark.parametrize("package", ["mujoco", "rsl_rl", "tensordict", "gymnasium"])
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf'needs {package}.*pip install "deploy-kit\[sim\]"'):
        make_env(SMALL)
