"""Labels by a function of the user's own: judged before resets, named and hashed."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from deploy_kit.errors import TaskError
from deploy_kit.sim.labels import find_label
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env

MODULE = '''
"""Labels."""
import numpy as np
import torch


def high(env):
    """Return whether each counter is at its top.

    More.
    """
    return env.count >= env.top


def undocumented(env):
    return torch.as_tensor(env.count >= env.top)


def numbers(env):
    return env.count


def broken(env):
    raise ValueError("no such sensor")


def view(env):
    env.mask[:] = env.count >= env.top
    return env.mask
'''


class Counters(VecEnv):
    """Counts up from its number and begins anew at the top."""

    top = 3

    def __init__(self, num_envs):
        self.num_envs, self.num_actions, self.max_episode_length, self.device, self.cfg = num_envs, 1, 9, "cpu", {}
        self.count = np.arange(num_envs) % 3
        self.mask = np.zeros(num_envs, bool)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)

    def get_observations(self):
        observation = torch.from_numpy(self.count[:, None].astype(np.float32))
        return TensorDict({"policy": observation}, batch_size=[self.num_envs])

    def step(self, actions):
        self.count = self.count + 1
        done = self.count >= self.top
        if done.any():
            self._reset_idx(np.flatnonzero(done))
        return self.get_observations(), torch.zeros(self.num_envs), torch.from_numpy(done), {}

    def _reset_idx(self, env_ids):
        self.count[env_ids] = 0
        self.mask[env_ids] = False


class Silent(Counters):
    """Resets without anybody noticing."""

    _reset_idx = None

    def step(self, actions):
        self.count = (self.count + 1) % self.top
        return self.get_observations(), torch.zeros(self.num_envs), self.count == 0, {}


def make(options):
    return Counters(options.num_envs)


def make_silent(options):
    return Silent(options.num_envs)


@pytest.fixture
def labels(tmp_path, monkeypatch):
    (tmp_path / "own_labels.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "own_labels.py"
    sys.modules.pop("own_labels", None)


def env_with(function, num_envs=3, factory="make"):
    return make_env(EnvOptions(num_envs=num_envs), f"{__name__}:{factory}", label=find_label(f"own_labels:{function}"))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[make.__module__])


@pytest.mark.parametrize("function", ["high", "undocumented", "view"])
def test_a_label_is_judged_before_the_reset(labels, function):
    env = env_with(function)
    assert env.get_observations()["auxiliary"].tolist() == [[0.0]] * 3
    found = []
    for _ in range(4):
        observations, _, dones, _ = env.step(torch.zeros(3, 1))
        assert observations["auxiliary"].dtype == torch.float32
        assert env.get_observations()["auxiliary"].equal(observations["auxiliary"])
        assert observations["auxiliary"][:, 0].bool().tolist() == dones.tolist()
        found.append(observations["auxiliary"][:, 0].tolist())
    # Counters 0, 1, 2 reach the top after three steps, two, and one; judged after the reset none ever would.
    assert found == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_an_environment_that_hides_its_resets_is_refused_unless_it_says_what_labels_see(labels, monkeypatch):
    with pytest.raises(TaskError, match=r"nothing tells when a Silent resets, .*_reset_idx"):
        env_with("high", factory="make_silent")
    monkeypatch.setattr(Silent, "labels_before_resets", True, raising=False)
    assert env_with("high", factory="make_silent").num_actions == 1


def test_an_environment_that_resets_in_the_next_step_is_refused(labels, monkeypatch):
    def step(self, actions):
        over = self.count >= self.top
        if over.any():
            self._reset_idx(np.flatnonzero(over))
        self.count = self.count + 1
        done = torch.from_numpy(self.count >= self.top)
        return self.get_observations(), torch.zeros(self.num_envs), done, {}

    monkeypatch.setattr(Counters, "step", step)
    env = env_with("high")
    with pytest.raises(TaskError, match="an episode ends, and nothing resets"):
        env.step(torch.zeros(3, 1))


def test_a_label_is_named_by_its_source(labels):
    label = find_label("own_labels:high")
    sha256 = hashlib.sha256(labels.read_bytes()).hexdigest()
    assert (label.name, label.source_sha256) == ("own_labels:high", sha256)
    assert label.rule == (
        f"own_labels:high (source sha256 {sha256}), of the state after the step, before any reset: "
        "Return whether each counter is at its top."
    )
    assert find_label("own_labels:undocumented").rule.endswith("before any reset")
    labels.write_text(MODULE + "\n")
    assert find_label("own_labels:high").rule != label.rule
    with pytest.raises(TaskError, match="has changed meanwhile"):
        label.load()


def test_naming_a_label_does_not_import_its_module(labels):
    labels.write_text("import no_such_simulator\n\n\ndef high(env):\n    return env.count > 0\n")
    assert find_label("own_labels:high").name == "own_labels:high"
    assert "own_labels" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_labels", "names no function: give module:function"),
        ("own_labels:hihg", "defines no function 'hihg'"),
        ("no_such_module:high", "module 'no_such_module' is not found"),
        ("no_such.module:high", "is it on PYTHONPATH"),
    ],
)
def test_a_label_that_is_not_there_is_refused(labels, name, message):
    with pytest.raises(TaskError, match=message):
        find_label(name)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("numbers", r"gave torch.int64 of shape \(3,\), not bool of shape \(3,\)"),
        ("broken", "raised ValueError: no such sensor"),
    ],
)
def test_a_function_that_gives_no_label_is_named(labels, function, message):
    with pytest.raises(TaskError, match=message):
        env_with(function).step(torch.zeros(3, 1))


def test_without_a_label_the_task_needs_its_own(labels):
    with pytest.raises(TaskError, match=r"lacks observation group 'auxiliary' .*--label MODULE:FUNCTION"):
        make_env(EnvOptions(num_envs=3), f"{__name__}:make")
    assert make_env(EnvOptions(num_envs=3), f"{__name__}:make", groups=("policy",)).num_envs == 3
