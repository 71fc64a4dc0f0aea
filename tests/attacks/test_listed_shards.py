"""Feature files over shards that point to what they do not list."""

import hashlib
import json

import h5py
import numpy as np
import pytest

from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.layout import LAYOUT_ATTRIBUTE, layout_sha256
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.shard_listing import LISTING, LISTING_SHA256, ShardListing
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError
from helpers.feature_files import add_episode, feed, make_info


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.h5"
    with FeatureFileWriter(path, make_info(), 40, 40, 1, every=CheckpointEvery(rows=60), keep_shards=True) as writer:
        add_episode(writer, 1000, 100)
        feed(writer, 400)
    return path


def listing(file: h5py.File) -> ShardListing:
    return ShardListing.from_json(json.loads(file[LISTING][...].tobytes()))


def relist(file: h5py.File, text: str) -> None:
    """Replace the list, with the right hash."""
    del file[LISTING]
    file[LISTING] = np.frombuffer(text.encode(), np.uint8)
    file.attrs[LISTING_SHA256] = hashlib.sha256(text.encode()).hexdigest()


def outside(file: h5py.File) -> str:
    """Write a file that a hostile one may want to reach; return its path."""
    name = file.filename.replace("x.h5", "secret.h5")
    with h5py.File(name, "w") as other:
        other["features"] = np.zeros((200, 8), np.float32)
    return name


def point(file: h5py.File, change) -> None:
    """Let one mapping of `features` be another one; change: given (file name, dataset, start, stop)."""
    found = listing(file)
    del file["features"]
    layout = h5py.VirtualLayout((found.total(""), 8), np.float32)
    for number, (shard, start, stop) in enumerate(found.spans("")):
        name, dataset, first, last = found.source(shard), "features", 0, stop - start
        if number == 1:
            name, dataset, first, last = change(name, dataset, first, last)
        source = h5py.VirtualSource(name, dataset, (max(last, stop - start), 8), np.float32)
        layout[start : start + last - first] = source[first:last]
    file.create_virtual_dataset("features", layout)


def a_secret(file):
    point(file, lambda name, dataset, first, last: (outside(file), dataset, first, last))


def a_path_upwards(file):
    point(file, lambda name, dataset, first, last: (f"../{name}", dataset, first, last))


def another_dataset(file):
    point(file, lambda name, dataset, first, last: (name, "heldout/features", first, last))


def fewer_rows(file):
    point(file, lambda name, dataset, first, last: (name, dataset, first, last - 1))


def later_rows(file):
    point(file, lambda name, dataset, first, last: (name, dataset, first + 1, last + 1))


def itself(file):
    point(file, lambda name, dataset, first, last: (".", dataset, first, last))


def rows_of_its_own(file):
    shape = file["features"].shape
    del file["features"]
    file["features"] = np.zeros(shape, np.float32)


def outside_the_folder(file):
    name = outside(file)
    data = json.loads(listing(file).text)
    data["shards"][0]["name"] = name
    relist(file, json.dumps(data))


def another_folder(file):
    data = json.loads(listing(file).text)
    data["stem"] = "../x.h5"
    relist(file, json.dumps(data))


def more_rows_than_there_are(file):
    data = json.loads(listing(file).text)
    data["shards"][0]["training"] = 2**59
    relist(file, json.dumps(data))


def twice(file):
    data = json.loads(listing(file).text)
    data["shards"].append(data["shards"][0])
    relist(file, json.dumps(data))


def a_wrong_hash(file):
    file.attrs[LISTING_SHA256] = "0" * 64


def a_virtual_list(file):
    text = file[LISTING][...]
    del file[LISTING]
    layout = h5py.VirtualLayout(text.shape, np.uint8)
    layout[...] = h5py.VirtualSource(outside(file), "features", text.shape, np.uint8)
    file.create_virtual_dataset(LISTING, layout)


def kept_observations_elsewhere(file):
    name = outside(file)
    group = file.create_group("observations")
    layout = h5py.VirtualLayout((20, 8), np.float32)
    layout[...] = h5py.VirtualSource(name, "features", (20, 8), np.float32)
    group.create_virtual_dataset("features", layout)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (a_secret, "which is not the shard that is listed"),
        (a_path_upwards, "which is not the shard that is listed"),
        (another_dataset, "which is not the shard that is listed"),
        (itself, "which is not the shard that is listed"),
        (fewer_rows, "takes other rows"),
        (later_rows, "takes other rows"),
        (rows_of_its_own, "holds rows of its own"),
        (outside_the_folder, "a name is not a shard's"),
        (another_folder, "its folder is not a name"),
        (more_rows_than_there_are, "rows where the features have|is missing"),
        (twice, "a shard stands there twice"),
        (a_wrong_hash, "its list of shards is not the one that was written"),
        (a_virtual_list, "keeps its rows in another file"),
        (kept_observations_elsewhere, "keeps its rows in another file"),
    ],
)
def test_only_listed_shards_are_read(path, attack, words):
    with h5py.File(path, "r+") as file:
        attack(file)
        file.attrs[LAYOUT_ATTRIBUTE] = layout_sha256(file)
    with pytest.raises(DatasetError, match=words):
        open_feature_file(path)


def test_without_the_list_virtual_rows_are_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs[LISTING_SHA256]
        file.attrs[LAYOUT_ATTRIBUTE] = layout_sha256(file)
    with pytest.raises(DatasetError, match="keeps its rows in another file"):
        open_feature_file(path)


def test_a_listed_shard_that_points_on_is_refused(path):
    """Its hash is right: the attacker wrote list and shard."""
    with h5py.File(path, "r+") as file:
        found = listing(file)
        shard = path.parent / found.folder / found.shards[0].name
        with h5py.File(shard, "r+") as inner:
            shape = inner["features"].shape
            del inner["features"]
            layout = h5py.VirtualLayout(shape, np.float32)
            layout[...] = h5py.VirtualSource(outside(file), "features", (200, 8), np.float32)[: shape[0]]
            inner.create_virtual_dataset("features", layout)
        data = json.loads(found.text)
        data["shards"][0] |= {"size": shard.stat().st_size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
        renamed = ShardListing.from_json(data)
        shard.parent.rename(path.parent / renamed.folder)
        relist(file, renamed.text)
        for group, name in (("", "features"), ("", "supervision"), ("", "episode_id"), ("", "env_id")):
            rebuild(file, renamed, group, name)
        for name in ("track_id", "step"):
            rebuild(file, renamed, "", name)
        for name in ("features", "supervision", "episode_id", "env_id", "track_id", "step", "is_test"):
            rebuild(file, renamed, "heldout", name)
        file.attrs[LAYOUT_ATTRIBUTE] = layout_sha256(file)
    with pytest.raises(DatasetError, match=r"shard-.*/features keeps its rows in another file"):
        open_feature_file(path)


def rebuild(file: h5py.File, found: ShardListing, group: str, name: str) -> None:
    """Write a virtual dataset anew, over the shards of another list."""
    parent = file[group] if group else file
    old = parent[name]
    shape, dtype = old.shape, old.dtype
    del parent[name]
    layout = h5py.VirtualLayout(shape, dtype)
    for shard, start, stop in found.spans(group):
        layout[start:stop] = h5py.VirtualSource(
            found.source(shard), f"{group}/{name}".lstrip("/"), (stop - start, *shape[1:]), dtype
        )
    parent.create_virtual_dataset(name, layout)
