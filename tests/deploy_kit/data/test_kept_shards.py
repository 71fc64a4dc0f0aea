"""Feature files whose rows stay in shards beside them."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from deploy_kit.collection.run import recover
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from helpers.feature_files import add_episode, feed, keep, make_info


def write(path: Path, keep_shards: bool, seed: int = 1, **changes) -> Path:
    """Write 60 + 60 training rows, four held-out episodes and three observations, in several shards."""
    every = CheckpointEvery(rows=100)
    with FeatureFileWriter(path, make_info(), 60, 60, seed, every=every, keep_shards=keep_shards, **changes) as writer:
        for number in range(4):
            add_episode(writer, 1000 + number, 100 + number)
        keep(writer)
        feed(writer, 600)
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("kept") / "a 100%b of it.h5", keep_shards=True)


@pytest.fixture
def moved(kept, tmp_path) -> Path:
    """Copy the file and its shards to another folder."""
    shutil.copytree(kept.parent, tmp_path / "elsewhere")
    return tmp_path / "elsewhere" / kept.name


def shards_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.shards-*/shard-*.h5"))


def columns(path: Path) -> dict[str, np.ndarray]:
    with open_feature_file(path) as file:
        found = {"is_test": file._is_test, "observation": file.observations.observation}
        for name, rows in (("train", file.train), ("heldout", file.heldout())):
            for column in ("features", "supervision", "episode_id", "env_id", "track_id", "step"):
                found[f"{name}/{column}"] = getattr(rows, column)
        return found


def test_the_rows_are_those_of_one_file(kept, tmp_path):
    one, several = columns(write(tmp_path / "one.h5", keep_shards=False)), columns(kept)
    assert len(shards_of(kept)) > 3
    assert not (kept.parent / f"{kept.name}.partial").exists()
    assert one.keys() == several.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(several[name], values, err_msg=name)
    assert one["train/supervision"].sum() == 60


def test_any_reader_of_hdf5_gets_the_same_rows_wherever_the_folder_lies(moved):
    expected = columns(moved)
    with h5py.File(moved) as file:
        assert file["features"].is_virtual
        for group, name in (("", "train"), ("heldout/", "heldout")):
            for column in ("features", "supervision", "episode_id", "step"):
                np.testing.assert_array_equal(file[group + column][...], expected[f"{name}/{column}"])
        np.testing.assert_array_equal(file["heldout/is_test"][...], expected["is_test"])


def test_the_file_itself_may_have_another_name(moved):
    renamed = moved.rename(moved.with_name("other.h5"))
    np.testing.assert_array_equal(columns(renamed)["train/step"].shape, (120,))


@pytest.mark.parametrize("rows", [slice(0, 7), slice(30, 95), slice(90, 120), slice(119, 500), slice(40, 40)])
def test_ranges_are_read_across_shards(kept, rows):
    with open_feature_file(kept) as file:
        features = file.train.features
        np.testing.assert_array_equal(file.train.matrix.dataset[rows], features[rows])


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (remove, "is missing"),
        (flip, "it was changed"),
        (cut, "it was changed"),
        (link, "is a link"),
        (make_folder, "is missing"),
    ],
)
def test_a_shard_that_is_missing_or_changed_is_named(moved, harm, words):
    chosen = shards_of(moved)[2]
    harm(chosen)
    with pytest.raises(DatasetError, match=rf"{chosen.name} .*{words}"):
        open_feature_file(moved)


def test_a_folder_that_is_a_link_is_refused(moved):
    folder = shards_of(moved)[0].parent
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")
    with pytest.raises(DatasetError, match="is a link"):
        open_feature_file(moved)


def test_an_older_file_and_its_shards_stay_until_the_new_one_is_there(moved, caplog):
    before, old = columns(moved), shards_of(moved)
    with pytest.raises(KeyboardInterrupt):
        write_then_interrupt(moved)
    np.testing.assert_array_equal(columns(moved)["train/features"], before["train/features"])
    write(moved, keep_shards=True, seed=2, overwrite=True)
    assert "stays; remove it if no copy of the older file needs it" in caplog.text
    assert all(path.exists() for path in old)
    assert not np.array_equal(columns(moved)["train/features"], before["train/features"])


def write_then_interrupt(path: Path) -> None:
    with FeatureFileWriter(path, make_info(), 60, 60, 3, overwrite=True, keep_shards=True) as writer:
        feed(writer, 50)
        raise KeyboardInterrupt


def content_of(path):
    """Return all that a file holds but HDF5's own times: attributes, and where each dataset takes its rows from."""
    found = {}

    def look(name, item):
        attributes = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            rows = item[()].tobytes()
            if item.is_virtual:
                rows = [
                    (source.vspace.get_select_bounds(), source.file_name, source.dset_name)
                    for source in item.virtual_sources()
                ]
            found[name] = (attributes, item.shape, item.dtype, rows)
        else:
            found[name] = attributes

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


def test_rows_of_a_killed_collection_are_made_into_kept_shards_twice_the_same(tmp_path):
    path = tmp_path / "x.h5"
    writer = FeatureFileWriter(path, make_info(), 500, 500, 1, every=CheckpointEvery(rows=100))
    add_episode(writer, 1000, 100)
    feed(writer, 200)
    writer.shards._lock.release()
    writer._folder.unlock()
    assert recover(path, keep_shards=True).num_positive > 50
    content, folder = content_of(path), shards_of(path)[0].parent
    # A kill between the move of the shards and that of the file leaves the shards alone.
    path.unlink()
    recover(path, keep_shards=True)
    assert content_of(path) == content
    assert [shard.parent for shard in shards_of(path)] == [folder] * len(shards_of(path))
    open_feature_file(path).close()
    assert not list(path.with_name("x.h5.partial").glob(".fused*"))


def test_a_file_without_heldout_rows(tmp_path):
    path = tmp_path / "x.h5"
    with FeatureFileWriter(path, make_info(), 60, 60, 1, every=CheckpointEvery(rows=50), keep_shards=True) as writer:
        feed(writer, 600)
    with open_feature_file(path) as file:
        assert (len(file.train), file.num_heldout) == (120, 0)
        assert len(file.train.features) == 120
