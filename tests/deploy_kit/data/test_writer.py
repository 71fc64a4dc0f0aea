import errno
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from deploy_kit.collection.run import recover
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.schema import KeepReason
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from helpers.feature_files import add_episode, feed, keep, make_info, make_step, write_numbered_file


@pytest.fixture
def start(tmp_path: Path):
    def build(name: str = "features.h5", positive: int = 40, negative: int = 40, **changes) -> FeatureFileWriter:
        return FeatureFileWriter(tmp_path / name, make_info(), positive, negative, seed=1, **changes)

    return build


def test_what_is_written_is_read_back(tmp_path: Path, start) -> None:
    with start() as writer:
        add_episode(writer, 1000, 100, is_test=False)
        add_episode(writer, 1001, 101, is_test=True, length=30)
        observation = keep(writer)
        feed(writer, 400)
        assert (writer.num_positive, writer.num_negative, writer.full) == (40, 40, True)
        assert (writer.num_heldout_episodes, writer.num_observations) == (2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5"]
    with open_feature_file(tmp_path / "features.h5") as file:
        rows, label = file.train, file.train.label
        assert len(rows) == 80
        assert label.sum() == 40
        features = rows.features
        assert features.dtype == np.float32
        assert (features[:, 0] == label).all()
        assert (features[:, 1] % 50 == rows.step).all()
        assert (features[:, 2] == rows.env_id).all()
        assert (rows.track_id == rows.env_id).all()
        assert (rows.episode_id == features[:, 1] // 50 * 4 + rows.env_id).all()
        assert len(np.unique(features[:, 3])) == 80
        validation, test = file.heldout("validation"), file.heldout("test")
        assert validation.step.tolist() == list(range(20))
        assert test.step.tolist() == list(range(30))
        assert set(test.track_id.tolist()) == {101}
        assert test.label.tolist() == [False] * 29 + [True]
        np.testing.assert_array_equal(
            test.features[:, 1:], np.random.default_rng(1001).standard_normal((30, 8)).astype(np.float32)[:, 1:]
        )
        assert len(file.heldout()) == 50
        kept = file.observations
        np.testing.assert_array_equal(kept.observation, observation)
        assert kept.reason.tolist() == [KeepReason.GATE_PASS | KeepReason.STALE_IMAGE, KeepReason.FIRST_STEP, 0]
        assert (kept.features == 0.5).all()


def test_attributes_are_kept_exactly(feature_file: Path) -> None:
    with open_feature_file(feature_file) as file:
        found = file.attrs
    assert found.label_threshold_m == 0.1 + 0.2
    assert found.env_config == {"num_envs": 4, "difficulty": 0.1 + 0.7, "tracks": ["circular"]}
    assert np.isnan(found.clip_actions)
    assert found.provenance == {
        "dropped_episodes": 0,
        "segments": [
            {
                "ranks": 1,
                "job": "",
                "created_utc": found.created_utc,
                "tool_version": found.tool_version,
                "env_steps": 0,
            }
        ],
    }
    filled = ("rows_seen", "prevalence", "positive_rate", "negative_rate", "clip_actions", "provenance")
    assert found == replace(
        make_info(),
        complete=True,
        requested_positive=40,
        requested_negative=40,
        **{name: getattr(found, name) for name in filled},
    )


def test_counts_and_rates_are_recorded(tmp_path: Path, start) -> None:
    labels = []
    rng = np.random.default_rng(0)
    with start(positive=10_000, negative=10_000) as writer:
        for step in range(2000):
            rows = make_step(rng, step, 16, 0.05)
            labels.append(rows["label"])
            writer.add_training(**rows)
    every = np.concatenate(labels)
    with open_feature_file(tmp_path / "features.h5") as file:
        info, label = file.attrs, file.train.label
        assert info.rows_seen == every.size
        assert info.prevalence == every.mean()
        assert info.positive_rate == 1.0
        assert label.sum() == every.sum()
        assert info.negative_rate == (~label).sum() / (every == 0).sum()
        assert info.complete is False
        negative = file.train.select(~label)
        assert np.bincount(negative.env_id, minlength=16).min() > 0.6 * len(negative) / 16


def test_a_class_that_is_full_first_stays_a_uniform_sample(tmp_path: Path, start) -> None:
    with start(positive=50, negative=2000) as writer:
        feed(writer, 300, envs=16, prevalence=0.1, seed=1)
        feed(writer, 2500, envs=16, prevalence=0.1, seed=2, start=300)
        assert writer.full
    with open_feature_file(tmp_path / "features.h5") as file:
        positive = file.train.select(file.train.label)
        assert len(positive) == 50
        assert (positive.features[:, 0] == 1).all()
        assert len(np.unique(positive.features[:, 3])) == 50
        # Uniform over 2800 steps: the chance that none of 50 rows is from the last third is 1e-9.
        assert (positive.features[:, 1] > 1900).sum() > 5
        assert (positive.features[:, 1] % 50 == positive.step).all()
        assert file.attrs.positive_rate == pytest.approx(50 / (0.1 * 2800 * 16), rel=0.1)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    paths = [write_numbered_file(tmp_path / name) for name in ("a.h5", "b.h5")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_chunks_are_row_wise_and_not_compressed(feature_file: Path) -> None:
    with h5py.File(feature_file) as file:
        for name in ("features", "heldout/features", "observations/observation"):
            assert file[name].chunks == (256, file[name].shape[1])
            assert file[name].compression is None
        assert file.libver[0] == "earliest"


@pytest.mark.parametrize("name", ["features.hdf5", "features", "features.h5.gz"])
def test_another_suffix_is_refused(start, tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"must end in \.h5"):
        start(name)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_without_overwrite(feature_file: Path, start) -> None:
    before = feature_file.read_bytes()
    with pytest.raises(DatasetError, match="exists and is kept; pass --overwrite"):
        start()
    assert feature_file.read_bytes() == before


def test_overwrite_replaces_only_at_the_end(feature_file: Path, start) -> None:
    before = feature_file.read_bytes()
    with start(overwrite=True, positive=7, negative=7) as writer:
        feed(writer, 200)
        assert feature_file.read_bytes() == before
    with open_feature_file(feature_file) as file:
        assert len(file.train) == 14


def interrupt(writer: FeatureFileWriter, error: BaseException) -> None:
    with writer:
        feed(writer, 100)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the simulator died")])
def test_an_interruption_leaves_a_valid_trimmed_file(tmp_path: Path, start, error: BaseException) -> None:
    with pytest.raises(type(error)):
        interrupt(start(positive=5000, negative=5000), error)
    # The shards stay, so that the collection can be gone on with.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "features.h5.partial"]
    with open_feature_file(tmp_path / "features.h5") as file:
        assert file.attrs.complete is False
        assert file.train.label.sum() == file.attrs.prevalence * 400 > 0
        assert np.abs(file.train.features).sum(axis=1).min() > 0


def test_an_interruption_keeps_the_older_file_and_the_new_rows(feature_file: Path, start) -> None:
    before = feature_file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupt(start(overwrite=True), KeyboardInterrupt())
    assert feature_file.read_bytes() == before
    assert recover(feature_file, overwrite=True).num_positive > 0
    with open_feature_file(feature_file) as file:
        assert file.attrs.requested_positive == 40
        assert file.attrs.complete is False


@pytest.mark.parametrize("keep_shards", [False, True])
def test_an_interruption_while_the_whole_file_is_made_leaves_it_marked_as_whole(
    feature_file: Path, start, monkeypatch, keep_shards: bool
) -> None:
    def strike(*args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        start(overwrite=True, positive=7, negative=7, keep_shards=keep_shards) as new,
    ):
        feed(new, 200)
        new.shards.heldout_complete = True
        monkeypatch.setattr("deploy_kit.data.writer.fuse", strike)
        new.finish(complete=True)
    with open_feature_file(feature_file) as file:
        assert (file.attrs.requested_positive, len(file.train), file.attrs.complete) == (7, 14, True)


def test_finishing_on_purpose_replaces_the_older_file(feature_file: Path, start) -> None:
    with start(overwrite=True, positive=5000, negative=5000) as writer:
        feed(writer, 10)
        assert writer.finish(complete=False) == feature_file
    with open_feature_file(feature_file) as file:
        assert file.attrs.requested_positive == 5000


def test_an_interruption_before_any_row_leaves_nothing(tmp_path: Path, start) -> None:
    with pytest.raises(KeyboardInterrupt), start():
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_finishing_without_rows_is_an_error(tmp_path: Path, start) -> None:
    with pytest.raises(DatasetError, match="no rows were collected"), start():
        pass
    assert not list(tmp_path.iterdir())


def test_a_partial_file_of_an_earlier_version_is_not_dropped(tmp_path: Path, start) -> None:
    (tmp_path / "features.h5.partial").write_bytes(b"rows")
    with pytest.raises(DatasetError, match=r"rename it to features\.h5"):
        start()
    assert (tmp_path / "features.h5.partial").read_bytes() == b"rows"


def test_heldout_tracks_and_training_tracks_stay_apart(start) -> None:
    with start() as writer:
        feed(writer, 3)
        with pytest.raises(DatasetError, match="track 2 gave training rows"):
            add_episode(writer, 1000, 2)
        add_episode(writer, 1000, 200)
        rows = make_step(np.random.default_rng(0), 4, 4, 0.1)
        rows["track_id"][1] = 200
        with pytest.raises(DatasetError, match="track 200 is held out"):
            writer.add_training(**rows)


def test_a_heldout_track_is_on_one_side_only(start) -> None:
    with start() as writer:
        add_episode(writer, 1000, 200, is_test=True)
        with pytest.raises(DatasetError, match="both validation and test"):
            add_episode(writer, 1001, 200, is_test=False)
        with pytest.raises(DatasetError, match="episode 1000 was added before"):
            add_episode(writer, 1000, 200, is_test=True)


def test_the_writer_splits_tracks_half_and_half_itself(tmp_path: Path, start) -> None:
    with start() as writer:
        for number in range(10):
            add_episode(writer, number, 100 + number)
    with open_feature_file(tmp_path / "features.h5") as file:
        assert len(file.heldout("test")) == len(file.heldout("validation")) == 100


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", np.full((4, 8), np.nan), "features to be written is not finite in row 0 of 4"),
        ("features", np.zeros((4, 7)), r"shape \(4, 7\), expected \(4, 8\)"),
        ("label", np.array([0, 1, 2, 0]), "label 2 to be written is neither 0 nor 1"),
        ("step", np.zeros(3), r"step to be written has shape \(3,\), expected \(4,\)"),
    ],
)
def test_malformed_rows_are_refused(start, name: str, value: np.ndarray, message: str) -> None:
    with start() as writer:
        feed(writer, 1)
        with pytest.raises(DatasetError, match=message):
            writer.add_training(**{**make_step(np.random.default_rng(0), 4, 4, 0.1), name: value})


def test_the_callers_buffer_may_be_reused(tmp_path: Path, start) -> None:
    rows = make_step(np.random.default_rng(0), 0, 4, 0.5)
    episode, observation = np.ones((6, 8), np.float32), np.ones((4, 10), np.float32)
    with start() as writer:
        writer.add_heldout_episode(episode, np.zeros(6), 9, env_id=0, track_id=9, is_test=True)
        writer.keep_observations(observation, **rows, reason=np.zeros(4))
        writer.add_training(**rows)
        for values in (episode, observation, *rows.values()):
            values[...] = 0
    with open_feature_file(tmp_path / "features.h5") as file:
        assert np.abs(file.train.features[:, 3:]).min() > 0
        assert (file.heldout("test").features == 1).all()
        assert (file.observations.observation == 1).all()


SETUP = """
    import sys, time
    sys.path.insert(0, {folder!r})
    from pathlib import Path
    from helpers import feature_files
    from deploy_kit.data import writer
    from deploy_kit.data.cadence import CheckpointEvery
    from deploy_kit.errors import DatasetError
"""


@contextmanager
def running_script(body: str) -> Iterator[subprocess.Popen]:
    setup = textwrap.dedent(SETUP.format(folder=str(Path(__file__).parents[2])))
    with subprocess.Popen(
        [sys.executable, "-c", setup + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_full_disk_is_one_clear_error_and_keeps_the_older_file(feature_file: Path) -> None:
    before = feature_file.read_bytes()
    script = f"""
    import resource
    path = Path({str(feature_file)!r})
    every = CheckpointEvery(rows=5000)
    try:
        with writer.FeatureFileWriter(
            path, feature_files.make_info(), 10**5, 10**5, 0, overwrite=True, every=every
        ) as w:
            feature_files.feed(w, 200, envs=64, prevalence=0.3)
            stored = w.shards.stored_rows
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            feature_files.feed(w, 1000, envs=64, prevalence=0.3)
    except DatasetError as error:
        print(error)
    print("stored", stored)
    """
    with running_script(script) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    lines = output.splitlines()
    assert len([line for line in lines if line.startswith(str(feature_file.parent))]) >= 1, output
    assert ".h5: cannot be written (" in output
    assert "check space and permissions" in output
    assert feature_file.read_bytes() == before
    stored = int(lines[-1].removeprefix("stored "))
    assert stored >= 5000
    recover(feature_file, overwrite=True)
    with open_feature_file(feature_file) as file:
        assert file.attrs.rows_seen >= stored
        assert 0.25 * stored < len(file.train) <= file.attrs.rows_seen


def test_a_disk_that_is_nearly_full_ends_collecting_with_what_is_there(
    tmp_path: Path, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect() -> None:
        with start(positive=10**5, negative=10**5, every=CheckpointEvery(rows=500)) as writer:
            feed(writer, 40, envs=64, prevalence=0.3)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * 2**20))
            feed(writer, 40, envs=64, prevalence=0.3, start=40)

    with pytest.raises(DatasetError, match="only 50 MB are free on its disk"):
        collect()
    with open_feature_file(tmp_path / "features.h5") as file:
        assert len(file.train) > 1500
        assert (file.train.features[:, 0] == file.train.label).all()
        assert file.attrs.complete is False


def test_a_failure_at_the_very_end_keeps_the_older_file(
    feature_file: Path, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = feature_file.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "x")

    writer = start(overwrite=True)
    feed(writer, 100)
    writer.shards.checkpoint()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DatasetError, match=r"cannot be written \(No space left on device\)"):
        writer.finish(complete=True)
    assert feature_file.read_bytes() == before
    monkeypatch.undo()
    assert recover(feature_file, overwrite=True).num_positive > 30


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Be nobody where the tests run as root, who may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_cannot_be_written_is_named(mode: int) -> None:
    # Not in tmp_path, whose parents nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(mode)
        with (
            ordinary_user(),
            pytest.raises(DatasetError, match=r"features\.h5: cannot be written \(Permission denied\)"),
        ):
            FeatureFileWriter(Path(folder) / "features.h5", make_info(), 1, 1, seed=0)
        Path(folder).chmod(0o700)
        assert list(Path(folder).iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, start) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        start("folder/features.h5")


def test_rows_reach_the_disk_in_time(tmp_path: Path, start) -> None:
    for seconds, stored in ((1000.0, 0), (1e-9, 1)):
        name = f"after-{stored}.h5"
        with start(name, every=CheckpointEvery(seconds=seconds)) as writer:
            add_episode(writer, 1000, 100)
            assert len(list((tmp_path / f"{name}.partial").glob("shard-*.h5"))) == stored
