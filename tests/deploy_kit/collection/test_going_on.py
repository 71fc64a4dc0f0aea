"""A collection that is stopped and gone on with is the uninterrupted one, row for row."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from deploy_kit.collection import flight, flight_state
from deploy_kit.collection.flight import settling_steps
from deploy_kit.collection.rows import RowMaker
from deploy_kit.collection.run import CollectOptions, collect, recover
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.sampling import KeyedSampler
from deploy_kit.data.shard_folder import folder_of
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.errors import DatasetError
from deploy_kit.flight.policy_driver import PolicyDriver
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.options import EnvOptions
from helpers.rsl_rl_files import make_policy, shape_hints
from helpers.snapshot_env import SnapshotEnv


class Killed(BaseException):
    """Stands for SIGKILL: the disk is put back to what it was at that moment."""


def racing(folder: Path) -> CollectOptions:
    return CollectOptions(
        checkpoint=DEMO_POLICY,
        feature_file=folder / "features.h5",
        env=EnvOptions(num_envs=4, seed=3, num_threads=1, tracks=("circular",), difficulty=0.0),
        num_positive=30,
        num_negative=40,
        heldout_episodes=2,
        keep_observations=8,
        checkpoint_every=CheckpointEvery(rows=25),
    )


def recurrent(folder: Path) -> CollectOptions:
    made = make_policy(folder / "run", "gru")
    return CollectOptions(
        checkpoint=made.path,
        feature_file=folder / "features.h5",
        env=EnvOptions(num_envs=5, seed=3),
        task="helpers.snapshot_env:gru",
        label="helpers.group_env:high",
        num_positive=400,
        num_negative=200,
        heldout_episodes=10,
        keep_observations=8,
        checkpoint_every=CheckpointEvery(rows=150),
        hints=NetworkHints(observation_shapes=shape_hints("gru")),
    )


MAKERS = {"embedded": (racing, MujocoRacingEnv), "user's, GRU": (recurrent, SnapshotEnv)}


def stopped(options: CollectOptions, env: type, steps: int, how: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Collect, stopped within the step of that number of this process; return whether it came so far."""
    folder, copy = folder_of(options.feature_file), options.feature_file.with_suffix(".copy")
    left, original, begin = steps, env.step, ShardWriter.__init__
    writers = []

    def remember(self, *args, **kwargs):
        writers.append(self)
        begin(self, *args, **kwargs)

    def step(self, actions):
        nonlocal left
        left -= 1
        if left == 0:
            # Whatever is half done may not be gone on with.
            original(self, actions)
            if how == "kill":
                with writers[-1]._mutex:
                    shutil.copytree(folder, copy)
                raise Killed
            raise KeyboardInterrupt
        return original(self, actions)

    with monkeypatch.context() as patch:
        patch.setattr(env, "step", step)
        patch.setattr(ShardWriter, "__init__", remember)
        try:
            return collect(options).stopped_by == "interrupt"
        except Killed:
            shutil.rmtree(folder, ignore_errors=True)
            options.feature_file.unlink(missing_ok=True)
            shutil.move(copy, folder)
            return True


def contents(path: Path) -> dict[str, np.ndarray]:
    """Return all that is in a feature file but when it was made, and in how many flights."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
        for name, value in file.attrs.items():
            if name not in ("created_utc", "provenance", "layout_sha256"):
                found[f"attribute {name}"] = np.asarray(value)
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Return whether two files hold the same, in the same order."""
    assert one.keys() == other.keys()
    # `equal_nan` asks for numbers.
    return all(
        np.array_equal(value, other[name], equal_nan=value.dtype.kind == "f") for name, value in one.items()
    )


@pytest.fixture(scope="module", params=MAKERS)
def whole(request, tmp_path_factory):
    """Options, the simulator's class, what the uninterrupted file holds, and how many steps it takes."""
    make, env = MAKERS[request.param]
    options = make(tmp_path_factory.mktemp("whole"))
    steps, original = 0, env.step

    def step(self, actions):
        nonlocal steps
        steps += 1
        return original(self, actions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "step", step)
        assert collect(options).complete
    return options, env, contents(options.feature_file), steps


def go_on(whole, folder: Path, stops, monkeypatch) -> dict[str, np.ndarray]:
    """Collect with stops, each a share of all steps and how it is stopped; return what the file holds at last."""
    options, env, _, steps = whole
    options = replace(options, feature_file=folder / "features.h5")
    for share, how in stops:
        assert stopped(options, env, int(share * steps), how, monkeypatch)
        options = replace(options, resume=True)
    assert collect(options).complete
    return contents(options.feature_file)


STOPS = [(0.02, "kill"), (0.6, "kill"), (0.2, "kill"), (0.1, "Ctrl-C"), (0.03, "Ctrl-C"), (0.15, "kill")]
"""The first one comes among the held-out episodes, the others while the rate of the negatives is unknown and after."""


def test_a_stopped_collection_ends_as_the_uninterrupted_one(whole, tmp_path, monkeypatch):
    assert same(whole[2], go_on(whole, tmp_path, STOPS, monkeypatch))
    assert not folder_of(tmp_path / "features.h5").exists()


def lacking(monkeypatch, name: str) -> None:
    """Let snapshots be restored without one of their parts."""
    if name == "sampler":
        monkeypatch.setattr(KeyedSampler, "restore", lambda self, arrays, alone: setattr(self, "fixed", True))
    elif name == "memory":
        monkeypatch.setattr(PolicyDriver, "remember", lambda self, memory: None)
    elif name == "numbers":
        monkeypatch.setattr(RowMaker, "restore", lambda self, arrays: None)
    else:
        restore = SnapshotEnv.restore
        monkeypatch.setattr(
            SnapshotEnv,
            "restore",
            lambda self, arrays: restore(self, {**arrays, name: self.snapshot()[name]}),
        )


@pytest.mark.parametrize("name", ["sampler", "memory", "numbers", "rng", "values.policy"])
@pytest.mark.parametrize("whole", ["user's, GRU"], indirect=True)
def test_a_part_that_a_snapshot_lacked_would_be_noticed(whole, tmp_path, monkeypatch, name):
    lacking(monkeypatch, name)
    assert not same(whole[2], go_on(whole, tmp_path, [(0.6, "kill")], monkeypatch))
