"""A collection that is stopped and gone on with is the uninterrupted one, row for row."""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from deploy_kit.collection import flight, processes
from deploy_kit.collection.flight import FIRST_TRAINING_ID, FLIGHT_IDS, settling_steps
from deploy_kit.collection.flight_state import FlightState
from deploy_kit.collection.rows import RowMaker
from deploy_kit.collection.run import CollectOptions, collect, file_info, recover
from deploy_kit.data import earlier_flights
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.fusing import fuse
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.sampling import KeyedSampler
from deploy_kit.data.seal import seal
from deploy_kit.data.shard_folder import ShardFolder, folder_of
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.errors import DatasetError, TaskError
from deploy_kit.flight.policy_driver import PolicyDriver
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.ranks import Rank
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
        num_positive=20,
        num_negative=25,
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
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
        for name, value in file.attrs.items():
            if name not in ("created_utc", "provenance", "layout_sha256"):
                found[f"attribute {name}"] = np.asarray(value)
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Return whether two files hold the same, in the same order."""
    assert one.keys() == other.keys()
    # `equal_nan` asks for numbers.
    return all(np.array_equal(value, other[name], equal_nan=value.dtype.kind == "f") for name, value in one.items())


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


STOPS = [(0.02, "kill"), (0.6, "kill"), (0.2, "kill"), (0.1, "Ctrl-C"), (0.03, "Ctrl-C")]
"""The first one comes among the held-out episodes, the others while the rate of the negatives is unknown and after."""


def test_a_stopped_collection_ends_as_the_uninterrupted_one(whole, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert same(whole[2], go_on(whole, tmp_path, STOPS, monkeypatch))
    assert not folder_of(tmp_path / "features.h5").exists()
    assert "the interrupted flight itself goes on, from its step" in caplog.text


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


@pytest.mark.parametrize("name", ["sampler", "memory", "numbers", "rng"])
@pytest.mark.parametrize("whole", ["user's, GRU"], indirect=True)
def test_a_part_that_a_snapshot_lacked_would_be_noticed(whole, tmp_path, monkeypatch, name):
    lacking(monkeypatch, name)
    assert not same(whole[2], go_on(whole, tmp_path, [(0.6, "kill")], monkeypatch))


@pytest.fixture
def interrupted(whole, tmp_path, monkeypatch):
    """Options of a collection that was killed in training, and goes on."""
    options, env, _, steps = whole
    options = replace(options, feature_file=tmp_path / "features.h5")
    assert stopped(options, env, int(0.6 * steps), "kill", monkeypatch)
    return replace(options, resume=True)


def snapshots(options: CollectOptions) -> list[Path]:
    return sorted(folder_of(options.feature_file).glob("snapshot-*"))


def stored(options: CollectOptions) -> list[Path]:
    return sorted(folder_of(options.feature_file).glob("shard-*"))


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


GRU = pytest.mark.parametrize("whole", ["user's, GRU"], indirect=True)
FALLBACKS = {
    "missing": (lambda path: path.unlink(), {}, "is missing: collecting goes on with new episodes"),
    "changed": (change, {}, "was changed after it was written: collecting goes on with new episodes"),
    "another number": (lambda path: None, {"num_envs": 6}, "had 5 environments, not 6: collecting goes on with new"),
}


@GRU
@pytest.mark.parametrize("case", FALLBACKS)
def test_without_a_snapshot_that_fits_new_episodes_begin_and_settle(interrupted, monkeypatch, caplog, case):
    damage, env, message = FALLBACKS[case]
    assert len(snapshots(interrupted)) == 1, "older ones go"
    damage(snapshots(interrupted)[0])
    told = []

    def settling(flown, longest):
        told.append(flown)
        assert longest == 12
        return settling_steps(flown, longest)

    monkeypatch.setattr(flight, "settling_steps", settling)
    assert collect(replace(interrupted, env=replace(interrupted.env, **env))).complete
    assert message in caplog.text
    with open_feature_file(interrupted.feature_file) as file:
        rows, seen = file.train, file.attrs.rows_seen
        second = rows.episode_id // FLIGHT_IDS == 1
        assert second.any()
        assert not second.all()
        # Twelve steps at least were not stored, so that no row is of an environment's first steps.
        first = second & (rows.episode_id % FLIGHT_IDS < FIRST_TRAINING_ID + 6)
        assert not first.any()
        assert seen < sum(segment["env_steps"] for segment in file.attrs.provenance["segments"])
    assert told[0] > 24


def test_settling_steps():
    # As long as the interrupted flight; later on, at the same step of an episode that only its time ends.
    assert [settling_steps(flown, 10) for flown in (0, 1, 19, 20, 25, 1234)] == [0, 1, 19, 10, 15, 14]
    # Where episodes have hardly an end, it is not flown for ever.
    assert [settling_steps(flown, 10**9) for flown in (3999, 10**6 + 7)] == [3999, 2007]


@GRU
def test_rows_since_the_snapshot_stay_until_there_are_more(interrupted, whole, monkeypatch):
    env = whole[1]
    interrupted = replace(interrupted, checkpoint_every=CheckpointEvery(rows=10**6))
    before = len(stored(interrupted))
    assert stopped(interrupted, env, 60, "Ctrl-C", monkeypatch)
    assert len(stored(interrupted)) == before + 1
    one = contents(interrupted.feature_file)["supervision"].size
    # It has not come as far again.
    for how in ("Ctrl-C", "kill"):
        assert stopped(interrupted, env, 20, how, monkeypatch)
        assert len(stored(interrupted)) == before + 1
        recover(interrupted.feature_file, overwrite=True)
        assert contents(interrupted.feature_file)["supervision"].size == one
    assert collect(interrupted).complete
    assert same(whole[2], contents(interrupted.feature_file))


@GRU
def test_a_state_that_the_simulator_does_not_take_is_said(interrupted, monkeypatch):
    monkeypatch.setattr(SnapshotEnv, "restore", lambda self, arrays: arrays["other"])
    message = r"snapshot-.*: the flight's state does not fit the task \(KeyError: 'other'\); remove the file to go on"
    with pytest.raises(DatasetError, match=message):
        collect(interrupted)
    for path in snapshots(interrupted):
        path.unlink()
    assert collect(interrupted).complete


@GRU
def test_of_several_processes_each_goes_on_with_its_own_flight(whole, tmp_path, monkeypatch):
    """Which rows are stored depends on the other one; what each sees does not."""
    rows = []
    for name, stops in (("one", [10**9]), ("two", [90, 40, 10**9])):
        options = replace(whole[0], feature_file=tmp_path / f"{name}.h5", num_positive=10**6, max_steps=120)
        for number, stop in enumerate(stops):
            fly_as_two_ranks(replace(options, resume=number > 0), stop, monkeypatch)
        with open_feature_file(options.feature_file) as file:
            label = file.train.label
            keys = [tuple(key) for key in np.stack([file.train.episode_id, file.train.step], axis=1)[label].tolist()]
            rows.append(dict(zip(keys, file.train.features[label], strict=True)))
    # All positives are stored while the target is far.
    assert rows[0].keys() == rows[1].keys()
    assert {key[0] // FLIGHT_IDS for key in rows[0]} == {0, 1}
    for key, features in rows[0].items():
        np.testing.assert_array_equal(features, rows[1][key])


def fly_as_two_ranks(options: CollectOptions, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fly both ranks one after the other, each until its step of that number."""
    original = SnapshotEnv.step
    checkpoint = load_policy(options.checkpoint, options.hints)
    folder, info = ShardFolder(options.feature_file), file_info(options, checkpoint)
    plan = processes.begin(options, info, folder, Rank(0, 2, 0, 2))
    for index in range(2):
        left = stop

        def step(self, actions):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return original(self, actions)

        monkeypatch.setattr(SnapshotEnv, "step", step)
        processes.fly_share(options, checkpoint, folder, plan, Rank(index, 2, index, 2))
    monkeypatch.setattr(SnapshotEnv, "step", original)
    fuse(folder, plan, None)
    folder.unlock()


def forge(options: CollectOptions, changes: dict[str, object]) -> None:
    """Change arrays of the snapshot, with right hashes in it and in its shard."""
    path = snapshots(options)[0]
    content = save({**load(path.read_bytes()), **changes})
    path.write_bytes(content)
    shard = path.with_name(path.name.replace("snapshot", "shard")).with_suffix(".h5")
    with h5py.File(shard, "r+") as file:
        state = json.loads(file.attrs["state"])
        file.attrs["state"] = json.dumps({**state, "snapshot": hashlib.sha256(content).hexdigest()})
    with shard.open("r+b", buffering=0) as file:
        seal(file)


FORGED = {
    "no flight": ({"flight.origin": np.zeros(0, np.int64)}, "flight.origin is missing or no count"),
    "infinite flight": ({"flight.origin": np.array([np.inf])}, "flight.origin is missing or no count"),
    "infinite environments": ({"flight.num_envs": np.array([np.inf])}, "flight.num_envs is missing or no count"),
    "infinite rows": ({"sampler.dropped": np.array([np.inf, 0.0])}, "lacks the sampler's state"),
    "negative rows": ({"sampler.dropped": np.array([-9, -9])}, "sampler.dropped is no count"),
    "no randomness": ({"sampler.generator": np.zeros(6, np.uint64)}, "no generator's state"),
}
UNFIT = {
    "infinite steps": ({"flight.steps": np.array([np.inf])}, "flight.steps is missing or no count"),
    "negative episodes": ({"rows.episode": np.full(5, -5)}, "rows.episode is int64"),
    "fractions": ({"rows.step": np.full(5, np.nan)}, "rows.step is float64"),
    "doubled episodes": ({"rows.next_episode": np.array([0])}, "episode 0 comes next and is there already"),
}


@GRU
def test_forged_snapshots_with_right_hashes_are_refused(interrupted):
    folder, copy = folder_of(interrupted.feature_file), interrupted.feature_file.with_suffix(".copy")
    shutil.copytree(folder, copy)

    def again() -> ShardFolder:
        shutil.rmtree(folder)
        interrupted.feature_file.unlink(missing_ok=True)
        shutil.copytree(copy, folder)
        return ShardFolder(interrupted.feature_file)

    checkpoint = load_policy(interrupted.checkpoint, interrupted.hints)
    for changes, message in FORGED.values():
        found = again()
        forge(interrupted, changes)
        plan = processes.begin(interrupted, file_info(interrupted, checkpoint), found, Rank(0, 1, 0, 1))
        with pytest.MonkeyPatch.context() as patch:
            told = []
            patch.setattr(earlier_flights.logger, "warning", lambda text, *args, told=told: told.append(text % args))
            assert earlier_flights.earlier_flights(found, plan, Rank(0, 1, 0, 1), 5).going_on is None
        found.unlock()
        assert message in told[0]
        assert "collecting goes on with new episodes" in told[0]
    for changes, message in UNFIT.values():
        again()
        forge(interrupted, changes)
        with pytest.raises(DatasetError, match=message):
            collect(interrupted)
        assert len(stored(interrupted)) >= len(list(copy.glob("shard-*")))


@GRU
def test_a_snapshot_that_no_memory_holds_is_not_read_at_once(interrupted, monkeypatch, caplog):
    path, read = snapshots(interrupted)[0], Path.read_bytes
    path.write_bytes(b"0" * 100)
    monkeypatch.setattr(Path, "read_bytes", lambda self: 1 / 0 if self == path else read(self))
    assert collect(interrupted).complete
    assert "was changed after it was written" in caplog.text


def test_the_simulators_arrays_are_copied_as_they_are_and_others_refused():
    """The file is written while the simulator goes on."""
    own = {
        "number": np.array(5),
        "swapped": np.arange(3, dtype=">i4"),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "view": np.arange(4)[::2],
    }
    given = {**own}
    env = SimpleNamespace(snapshot=lambda: given)
    state = FlightState(env, SimpleNamespace(), RowMaker(1))
    taken = state.take(7)
    expected = {name: value.copy() for name, value in own.items()}
    for value in own.values():
        value[...] = 0
    found = load(save(taken))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[f"simulator.{name}"], value, strict=name != "swapped")
    for name, value in (("thing", np.array([{}], object)), ("tensor", torch.zeros(2)), (3, np.zeros(2))):
        given = {name: value}
        with pytest.raises(TaskError, match=r"the task's snapshot\(\) gave"):
            state.take(0)
