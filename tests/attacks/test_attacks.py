"""Files that are made to deceive, beside those that tests of each reader build."""

import json
import struct

import h5py
import numpy as np
import pytest
import torch

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import check_files
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.seal import seal
from deploy_kit.data.shard import Shard, ShardState, write_shard
from deploy_kit.data.table import new_hdf5_file
from deploy_kit.errors import BundleError, CheckpointError, DatasetError, InputError
from deploy_kit.files import read_json_object
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.strict_json import strict_json
from helpers.checkpoints import joint_entries
from helpers.feature_files import write_numbered_file
from helpers.networks import tiny_network


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"threshold": 0.5, "threshold": 99.0}', "'threshold' stands there twice"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "'b' stands there twice"),
        ('{"a": Infinity}', "Infinity is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "expected a finite number"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\uDC00": 1}', "half of a surrogate pair"),
    ],
)
def test_json_that_readers_could_read_differently_is_refused(tmp_path, text, message):
    json.loads(text)
    with pytest.raises(ValueError, match=message):
        strict_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_json_object(tmp_path / "x.json")


def test_json_of_a_bundle_with_a_key_twice_is_refused(shared_bundle, bundle_copy):
    text = (bundle_copy / "contract.json").read_text()
    with pytest.raises(BundleError, match="'schema_version' stands there twice"):
        Contract.from_json(text.replace("{", '{"schema_version": 2,', 1), "contract")
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"files"', '"files": {}, "files"', 1))
    with pytest.raises(BundleError, match="'files' stands there twice"):
        check_files(bundle_copy)


def test_one_flipped_bit_of_a_weight_in_safetensors_is_noticed(run, tmp_path):
    data = bytearray(run.checkpoint.read_bytes())
    copy = tmp_path / "copy.safetensors"
    for at in (len(data) - 1, len(data) // 2, len(data) - 5000):
        changed = bytearray(data)
        changed[at] ^= 1
        copy.write_bytes(changed)
        with pytest.raises(CheckpointError, match="its tensors are not those that deploy-kit wrote"):
            load_checkpoint(copy)
    copy.write_bytes(data)
    load_checkpoint(copy)


def test_weights_whose_record_says_that_it_is_a_folder_are_read_all_the_same(tmp_path):
    """torch's own zip reader takes such a record for empty, and gives what happens to be in memory."""
    torch.save(joint_entries(tiny_network(seed=3)), tmp_path / "model.pt")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "agent.yaml").write_text("policy: {activation: elu, image_shape: [9, 12]}")
    expected = load_checkpoint(tmp_path / "model.pt").network.state_dict()
    data = bytearray((tmp_path / "model.pt").read_bytes())
    found = 0
    while (at := data.find(b"PK\x01\x02", found + 1)) > 0:
        found = at
        data[at + 38] |= 0x10
    (tmp_path / "model.pt").write_bytes(data)
    read = load_checkpoint(tmp_path / "model.pt").network.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def test_a_record_without_the_hash_of_its_tensors_is_refused(run, tmp_path):
    data = run.checkpoint.read_bytes()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(data.replace(b"deploy_kit_tensors_sha256", b"deploy_kit_tensors_sha25x"))
    with pytest.raises(CheckpointError, match="its tensors are not those that deploy-kit wrote"):
        load_checkpoint(copy)


def outside(tmp_path):
    """Write rows that a hostile file may want to reach."""
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros((80, 8), np.float32)
    return path


def virtual(file, path):
    layout = h5py.VirtualLayout((80, 8), np.float32)
    layout[:] = h5py.VirtualSource(path, "features", (80, 8))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def stored_outside(file, path):
    del file["features"]
    file.create_dataset("features", (80, 8), np.float32, external=[(str(path), 0, h5py.h5f.UNLIMITED)])


def linked(file, path):
    del file["features"]
    file["features"] = h5py.ExternalLink(str(path), "/features")


@pytest.mark.parametrize("reach", [virtual, stored_outside, linked])
def test_feature_files_reach_nothing_outside(tmp_path, reach):
    path, other = write_numbered_file(tmp_path / "x.h5"), outside(tmp_path)
    with h5py.File(path, "r+") as file:
        assert file["features"].shape == (80, 8)
        reach(file, other)
    with pytest.raises(DatasetError, match=r"in another file|is a link"):
        open_feature_file(path)


def test_shards_reach_nothing_outside(tmp_path):
    other = outside(tmp_path)
    path = tmp_path / "shard.h5"
    with new_hdf5_file(path, sealed=True) as file:
        file.attrs["state"] = ShardState().to_json()
        file["training"] = h5py.ExternalLink(str(other), "/")
    with Shard(path, 8) as shard, pytest.raises(DatasetError, match="is a link"):
        shard.read("training")


def test_a_changed_attribute_is_noticed(tmp_path):
    path = write_numbered_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["prevalence"] = 0.5
    with pytest.raises(DatasetError, match="attributes or shapes are not those that were written"):
        open_feature_file(path)


def changed_bytes(path, at, content):
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


def test_texts_on_which_hdf5_loops_for_ever_are_refused(tmp_path):
    path = write_numbered_file(tmp_path / "x.h5")
    data = path.read_bytes()
    heap = data.index(b"GCOL\x01\0\0\0")
    (length,) = struct.unpack_from("<Q", data, heap + 24)
    second = heap + 32 + (length + 7) // 8 * 8
    # An object that is free space and has no size, or one so large that the place of the next one comes round.
    for at, entry in ((second, bytes(16)), (heap + 16, struct.pack("<HHIQ", 1, 1, 0, 2**64 - 16))):
        changed_bytes(path, at, entry)
        with pytest.raises(DatasetError, match=f"is damaged .its texts, at byte {heap}"):
            open_feature_file(path)
        path.write_bytes(data)
    open_feature_file(path).close()
    shard = tmp_path / "shard.h5"
    with new_hdf5_file(shard, sealed=True) as file:
        file.attrs["state"] = ShardState().to_json()
    changed_bytes(shard, shard.read_bytes().index(b"GCOL") + 16, bytes(16))
    with pytest.raises(DatasetError, match="its hash is another"):
        Shard(shard, 8)
    # By somebody who knows the hash.
    with shard.open("r+b", buffering=0) as file:
        seal(file)
    with pytest.raises(DatasetError, match="its texts"):
        Shard(shard, 8)


@pytest.mark.parametrize("at", [0, 100, 511, 512, 900, -1])
def test_a_shard_with_one_other_byte_is_refused_before_hdf5_opens_it(tmp_path, at):
    path = tmp_path / "shard.h5"
    write_shard(path, {}, ShardState(), 8)
    with Shard(path, 8) as shard:
        assert shard.state.seen == (0, 0)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="its hash is another"):
        Shard(path, 8)
    path.write_bytes(bytes(data[:300]))
    with pytest.raises(DatasetError, match="its hash is another"):
        Shard(path, 8)


@pytest.mark.parametrize("name", ["features", "heldout/supervision", "supervision", "observations/observation"])
def test_rows_that_hdf5_does_not_find_are_missed(tmp_path, name):
    """It gives zeros where the index names another place for a chunk."""
    path = write_numbered_file(tmp_path / "x.h5")
    with h5py.File(path) as file:
        place = file[name].id.get_chunk_info(0).byte_offset
    # An index node ends its first key, offsets in all dimensions and one more, before the chunk's address.
    node = path.read_bytes().index(struct.pack("<Q", 0) + struct.pack("<Q", place))
    changed_bytes(path, node + 6, b"\x40")
    with h5py.File(path) as file:
        assert not file[name][:].any()
    with pytest.raises(DatasetError, match=f"{name} has no rows from 0 on, which were written"):
        read_all(path)


def read_all(path):
    with open_feature_file(path) as file:
        return file.train.features, file.observations.observation


def test_a_changed_number_is_noticed(tmp_path):
    path = write_numbered_file(tmp_path / "x.h5")
    with h5py.File(path) as file:
        rows = file["features"][:]
    data = bytearray(path.read_bytes())
    at = data.index(rows[7].tobytes())
    data[at + 9] ^= 4
    path.write_bytes(data)
    with open_feature_file(path) as file, pytest.raises(DatasetError, match="is damaged"):
        _ = file.train.features
