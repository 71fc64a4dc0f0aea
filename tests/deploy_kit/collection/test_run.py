import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from deploy_kit.collection import flight
from deploy_kit.collection import run as collect_module
from deploy_kit.collection.flight import FLIGHT_IDS
from deploy_kit.collection.run import CollectOptions, collect, feature_file_path, recover
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.schema import KeepReason
from deploy_kit.data.shard_writer import ShardWriter
from deploy_kit.errors import CheckpointError, DatasetError, TaskError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.sim.options import EnvOptions
from helpers import scripted_racing
from helpers.feature_files import write_numbered_file

SCRIPTED = "helpers.scripted_racing:make"


@pytest.fixture
def options(tmp_path, checkpoint) -> CollectOptions:
    return CollectOptions(
        checkpoint=checkpoint,
        feature_file=tmp_path / "features.h5",
        env=EnvOptions(num_envs=3, seed=4),
        task=SCRIPTED,
        num_positive=30,
        num_negative=40,
        heldout_episodes=8,
        keep_observations=16,
    )


def changed(options: CollectOptions, **changes) -> CollectOptions:
    from dataclasses import replace

    return replace(options, **changes)


def replay_script(seed, env, episode, network):
    """Return features and labels that the script gives for one episode."""
    steps = range(scripted_racing.length_of(env, episode))
    observations = torch.stack([scripted_racing.observation_of(seed, env, episode, step) for step in steps])
    labels = [scripted_racing.label_of(env, episode, step) for step in steps]
    return network(observations).features.numpy(), np.array(labels)


def env_seed(options: CollectOptions, purpose: int) -> int:
    return int(np.random.SeedSequence([options.env.seed, purpose]).generate_state(1)[0])


def test_heldout_episodes_are_whole_and_hold_the_label_of_the_step_that_followed(options, network):
    result = collect(options)
    assert (result.num_positive, result.num_negative, result.heldout_episodes) == (30, 40, 8)
    assert result.complete
    seed = env_seed(options, 0)
    with open_feature_file(result.path) as file:
        rows = file.heldout()
        found = {}
        for episode in np.unique(rows.episode_id):
            where = np.flatnonzero(rows.episode_id == episode)
            assert rows.step[where].tolist() == list(range(where.size))
            env = int(rows.env_id[where[0]])
            nth = found.setdefault(env, 0)
            found[env] += 1
            features, labels = replay_script(seed, env, nth, network)
            np.testing.assert_allclose(np.asarray(rows.features)[where], features, atol=1e-6)
            assert np.asarray(rows.supervision)[where].reshape(-1).astype(bool).tolist() == labels.tolist()
        # Each environment gives its first episodes, not whichever end first.
        assert found == {0: 3, 1: 3, 2: 2}
        assert file.attrs.feature_sha256 == feature_sha256(network)
        assert file.attrs.label_offset_steps == 1
        assert file.attrs.complete


def test_training_rows_pair_features_with_their_own_labels(options, network):
    result = collect(options)
    seed = env_seed(options, 1)
    with open_feature_file(result.path) as file:
        rows = file.train
        features = np.asarray(rows.features)
        labels = np.asarray(rows.supervision).reshape(-1)
        assert rows.episode_id.min() >= collect_module.FIRST_TRAINING_ID
        played = {(env, nth): replay_script(seed, env, nth, network) for env in range(3) for nth in range(40)}
        for row in range(len(rows)):
            env, step = int(rows.env_id[row]), int(rows.step[row])
            matches = [
                nth
                for nth in range(40)
                if step < len(played[env, nth][0]) and np.allclose(features[row], played[env, nth][0][step], atol=1e-6)
            ]
            assert len(matches) == 1, row
            assert labels[row] == scripted_racing.label_of(env, matches[0], step)


def test_kept_observations_recompute_to_their_features(options, network):
    result = collect(options)
    with open_feature_file(result.path) as file:
        kept = file.observations
        assert 0 < len(kept.reason) <= 16
        recomputed = network(torch.from_numpy(np.asarray(kept.observation))).features.numpy()
        np.testing.assert_allclose(np.asarray(kept.features), recomputed, atol=1e-6)
        reasons = np.asarray(kept.reason)
        assert (reasons & KeepReason.GATE_PASS).any()
        assert (reasons & KeepReason.FIRST_STEP).any()
        np.testing.assert_array_equal((reasons & KeepReason.FIRST_STEP) != 0, kept.rows.step == 0)
        np.testing.assert_array_equal((reasons & KeepReason.GATE_PASS) != 0, kept.rows.supervision.reshape(-1) == 1)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(options, tmp_path):
    def rows(name, seed):
        path = tmp_path / name
        collect(changed(options, feature_file=path, env=EnvOptions(num_envs=3, seed=seed)))
        with open_feature_file(path) as file:
            return np.asarray(file.train.features), np.asarray(file.heldout().features)

    first, again, other = rows("a.h5", 1), rows("b.h5", 1), rows("c.h5", 2)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_max_steps_leaves_a_valid_trimmed_file(options):
    result = collect(changed(options, num_positive=10_000, num_negative=10_000, max_steps=5))
    assert result.stopped_by == "max_steps"
    assert not result.complete
    with open_feature_file(result.path) as file:
        assert len(file.train) == result.num_positive + result.num_negative > 0
        assert not file.attrs.complete
        assert file.attrs.rows_seen == 15


def test_an_interrupt_leaves_a_valid_trimmed_file(options, monkeypatch, caplog):
    steps = 0
    original = scripted_racing.ScriptedEnv.step

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps == 40:
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    result = collect(changed(options, num_positive=10_000, num_negative=10_000))
    assert result.stopped_by == "interrupt"
    with open_feature_file(result.path) as file:
        assert not file.attrs.complete
        assert len(file.train) > 0
        before = {(e, s) for e, s in zip(file.train.episode_id.tolist(), file.train.step.tolist(), strict=True)}
        heldout = file.heldout().episode_id
        assert set(heldout.tolist()) == set(range(8)), "all held-out episodes are there"

    # It goes on: to the same target, with the same held-out episodes, on other episodes.
    wanted = changed(options, num_positive=10_000, num_negative=10_000, resume=True, max_steps=300, heldout_episodes=12)
    again = collect(wanted)
    assert "keeps the 8 held-out episodes that were flown before; --heldout-episodes 12 has no effect" in caplog.text
    assert again.num_positive > result.num_positive
    with open_feature_file(result.path) as file:
        found = {(e, s) for e, s in zip(file.train.episode_id.tolist(), file.train.step.tolist(), strict=True)}
        assert before & found
        assert any(episode >= FLIGHT_IDS for episode, _ in found)
        np.testing.assert_array_equal(file.heldout().episode_id, heldout)
        assert len(file.attrs.provenance["segments"]) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_request_to_terminate_that_python_drops_is_heard_at_the_next_step(options, monkeypatch):
    """What a signal's handler raises within a destructor is reported and dropped."""
    steps, original = 0, scripted_racing.ScriptedEnv.step

    class Dropped:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
            sum(range(1000))

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps == 40:
            Dropped()
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    result = collect(changed(options, num_positive=10_000, num_negative=10_000, max_steps=200))
    assert (result.stopped_by, steps) == ("interrupt", 40)
    assert result.num_positive > 0


def test_an_interrupt_keeps_an_older_file_until_the_new_one_is_whole(options, monkeypatch):
    collect(options)
    before = options.feature_file.read_bytes()
    steps, original = 0, scripted_racing.ScriptedEnv.step

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps in (40, 80):
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    wanted = changed(options, num_positive=100, num_negative=100)
    for how in ("overwrite", "resume"):
        stopped = collect(changed(wanted, **{how: True}))
        assert stopped.stopped_by == "interrupt"
        assert stopped.kept_rows == options.feature_file.with_name("features.h5.partial")
        assert 0 < stopped.num_positive < 100
        assert stopped.heldout_episodes == 8
        assert options.feature_file.read_bytes() == before
    result = collect(changed(wanted, resume=True))
    assert (result.complete, result.num_positive, result.kept_rows) == (True, 100, None)
    with open_feature_file(options.feature_file) as file:
        assert len(file.train) == 200
        assert len(file.attrs.provenance["segments"]) == 3


def test_a_part_is_replaced_by_more_of_the_same_collection(options, monkeypatch):
    steps, original = 0, scripted_racing.ScriptedEnv.step

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps in (40, 80):
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    wanted = changed(options, num_positive=100, num_negative=100)
    first = collect(wanted)
    second = collect(changed(wanted, resume=True))
    assert (second.stopped_by, second.kept_rows) == ("interrupt", None)
    with open_feature_file(options.feature_file) as file:
        assert file.train.label.sum() == second.num_positive > first.num_positive
    # A file that somebody put there meanwhile is not of this collection.
    write_numbered_file(options.feature_file.with_name("other.h5")).replace(options.feature_file)
    with pytest.raises(DatasetError, match=r"was not made of the rows in .* move it to another name first"):
        collect(changed(wanted, resume=True))
    with open_feature_file(options.feature_file) as file:
        assert len(file.train) == 80


def test_an_interrupt_among_the_heldout_episodes_flies_them_anew(options, monkeypatch):
    steps, original = 0, scripted_racing.ScriptedEnv.step

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    stopped = collect(options)
    assert (stopped.stopped_by, stopped.heldout_episodes) == ("interrupt", 3)
    result = collect(changed(options, resume=True))
    assert (result.complete, result.heldout_episodes) == (True, 8)
    with open_feature_file(result.path) as file:
        rows = file.heldout()
        # Each environment gives its first episodes, as without an interruption: the short ones have no advantage.
        assert np.bincount(rows.env_id[rows.step == 0]).tolist() == [3, 3, 2]


def test_an_interrupt_before_any_row_is_an_interrupt(options, monkeypatch, caplog):
    def step(self, actions):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    with pytest.raises(KeyboardInterrupt):
        collect(options)
    assert "interrupted before any row was stored" in caplog.text
    assert not list(options.feature_file.parent.glob(f"{options.feature_file.name}*"))


def test_an_error_before_an_interrupt_is_told(options, monkeypatch):
    def fail(*_args, **_columns):
        raise DatasetError("the disk is gone")

    monkeypatch.setattr(ShardWriter, "add_training", fail)
    original, steps = scripted_racing.ScriptedEnv.step, 0

    def step(self, actions):
        nonlocal steps
        steps += 1
        if steps == 45:
            raise KeyboardInterrupt
        return original(self, actions)

    monkeypatch.setattr(scripted_racing.ScriptedEnv, "step", step)
    with pytest.raises(DatasetError, match="the disk is gone"):
        collect(changed(options, num_positive=10_000, num_negative=10_000))


def test_episodes_whose_numbers_are_not_finite_are_dropped_and_counted(options, caplog):
    wanted = changed(options, task="helpers.failing_racing:make_not_finite", num_positive=150, num_negative=150)
    result = collect(wanted)
    assert "not finite in environment 1 at step" in caplog.text
    # One of the held-out flight, one of the training flight.
    assert result.dropped_episodes == 2
    assert (result.num_positive, result.num_negative, result.heldout_episodes) == (150, 150, 8)
    with open_feature_file(result.path) as file:
        assert file.attrs.provenance["dropped_episodes"] == 2
        seed = env_seed(options, 1)
        broken = scripted_racing.observation_of(seed, 1, 2, 0)
        features = load_checkpoint(options.checkpoint).network(broken[None]).features.numpy()
        assert not (np.abs(file.train.features - features).max(axis=1) < 1e-6).any(), "its earlier steps are gone too"


def test_an_existing_dataset_is_kept_unless_asked(options):
    collect(options)
    before = options.feature_file.read_bytes()
    with pytest.raises(DatasetError, match="--overwrite"):
        collect(options)
    assert options.feature_file.read_bytes() == before
    collect(changed(options, overwrite=True, env=EnvOptions(num_envs=3, seed=9)))
    assert options.feature_file.read_bytes() != before


def test_bad_input_is_refused_before_anything_is_written(options, tmp_path):
    with pytest.raises(DatasetError, match=r"must end in \.h5; (call it|use) features\.h5"):
        collect(changed(options, feature_file=tmp_path / "features.hdf5"))
    with pytest.raises(CheckpointError):
        collect(changed(options, checkpoint=tmp_path / "missing.pt"))
    with pytest.raises(TaskError, match="unknown"):
        collect(changed(options, task="DiffLab-Quadcopter-CTBR-Racing-v9"))
    with pytest.raises(TaskError, match="policy"):
        collect(changed(options, task="helpers.scripted_racing:make_small"))
    assert not list(tmp_path.glob("*.h5*"))


def test_dataset_names():
    assert feature_file_path(Path("a.h5")) == Path("datasets/a.h5")
    assert feature_file_path(Path("here/a.h5")) == Path("here/a.h5")
    assert feature_file_path(Path("/tmp/a.h5")) == Path("/tmp/a.h5")


def test_video_alone_stops_after_its_length(options):
    result = collect(changed(options, video=True, video_length=6))
    assert result.stopped_by == "video"
    assert result.heldout_episodes == 0
    with av.open(str(result.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_video_with_keep_collecting_goes_on(options):
    result = collect(changed(options, video=True, video_length=6, keep_collecting=True))
    assert result.stopped_by == "full"
    assert result.heldout_episodes == 8
    with av.open(str(result.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True])
def test_ctrl_c_in_the_embedded_simulator_leaves_a_valid_file(checkpoint, tmp_path, older):
    target = tmp_path / "features.h5"
    if older:
        before = write_numbered_file(target).read_bytes()
    # Tests that were begun with `nohup … &` ignore Ctrl-C, and so would their children.
    script = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "runpy.run_module('deploy_kit', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, "collect", "--checkpoint", str(checkpoint), "--dataset", str(target)]
    with subprocess.Popen(
        [*command, "--num_envs", "2", "--heldout-episodes", "0", *["--overwrite"] * older],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            for line in process.stderr:
                if b"training rows" in line:
                    break
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors.decode()
    if older:
        assert b"is as it was" in output
        assert target.read_bytes() == before
        recover(target, overwrite=True)
    else:
        assert b"Interrupted; what was collected is kept" in output
    with open_feature_file(target) as file:
        assert not file.attrs.complete
        assert file.attrs.rows_seen > 0


@pytest.mark.parametrize(("levels", "per_track"), [(False, 1), (True, 0)])
def test_tracks_are_new_each_episode_unless_levels_choose_them(options, monkeypatch, levels, per_track):
    seen = []

    def refuse(env, *_):
        seen.append(env)
        raise TaskError("not built here")

    monkeypatch.setattr(flight, "make_env", refuse)
    with pytest.raises(TaskError, match="not built here"):
        collect(changed(options, env=EnvOptions(num_envs=3, levels=levels)))
    assert [env.episodes_per_track for env in seen] == [per_track]
