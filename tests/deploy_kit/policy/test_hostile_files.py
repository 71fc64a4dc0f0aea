"""Files that are damaged, foreign or made to do harm: each is refused with one line, and nothing in them runs."""

import contextlib
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_kit import yaml_file
from deploy_kit.errors import CheckpointError, DeployKitError
from deploy_kit.policy import archive, safetensors_file
from deploy_kit.policy.checkpoint import load_checkpoint, save_safetensors
from helpers.checkpoints import joint_entries, rewrite_zip, write_run
from helpers.networks import tiny_network


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def good(tmp_path):
    network = tiny_network()
    return write_run(tmp_path, joint_entries(network), network)


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_payload_is_named_and_not_run(tmp_path, protocol):
    marker = tmp_path / "executed"
    network = tiny_network()
    path = tmp_path / "model.pt"
    torch.save(joint_entries(network) | {"infos": Payload(marker)}, path, pickle_protocol=protocol)
    refused(path, r"posix\.mkdir; nothing was executed" if protocol == 2 else "STACK_GLOBAL")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the payload works, so that its absence above means something"


def test_torch_too_is_told_to_load_weights_only(good, monkeypatch):
    """The table of contents is checked first; torch's own refusal stands behind it."""
    seen = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: seen.append(options) or load(*args, **options))
    load_checkpoint(good)
    assert seen == [{"map_location": "cpu", "weights_only": True}]


def test_a_bare_pickle_is_not_opened(tmp_path):
    marker = tmp_path / "executed"
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    refused(path, "bare pickle.*not opened for safety")
    assert not marker.exists()
    torch.save({"model_state_dict": {}}, path, _use_new_zipfile_serialization=False)
    refused(path, "bare pickle")


@pytest.mark.parametrize(
    "table",
    [
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02(S'echo'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x8c\x02os\x8c\x06system\x93.",
    ],
)
def test_a_table_that_asks_for_more_than_containers_is_refused(good, tmp_path, table):
    path = rewrite_zip(good, tmp_path / "bad.pt", {"/data.pkl": table})
    refused(path, "nothing was executed|pickle instruction")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model_state_dict": {"stem.0.weight": torch.zeros(1).expand(10**6, 10**6)}}, path)
    assert path.stat().st_size < 10_000
    refused(path, r"shape \(1000000, 1000000\) that stores only 4 bytes")


def test_a_storage_larger_than_its_record_is_refused(tmp_path):
    torch.save({"model_state_dict": {"stem.0.weight": torch.arange(4.0)}}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old:
        table = old.read("a/data.pkl")
    forged = table.replace(b"cpuq\x08K\x04t", b"cpuq\x08M\x00\x80t")
    assert forged != table
    path = rewrite_zip(tmp_path / "a.pt", tmp_path / "b.pt", {"/data.pkl": forged})
    refused(path, "is damaged")


def test_torchs_advice_to_read_without_a_safeguard_is_not_passed_on(good, tmp_path):
    path = rewrite_zip(good, tmp_path / "a.pt", {"/data.pkl": b"\x80\x02)" + b"2\x86" * 60 + b"."})
    with pytest.raises(CheckpointError, match="torch cannot read it") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)


def test_zip_bombs_are_refused(good, tmp_path):
    refused(rewrite_zip(good, tmp_path / "deflated.pt", {}, zipfile.ZIP_DEFLATED), "compressed records")
    with zipfile.ZipFile(good) as old:
        records = [(r.filename, old.read(r)) for r in old.infolist()]
    overlapping = tmp_path / "overlap.pt"
    with zipfile.ZipFile(overlapping, "w") as new:
        for name, data in records:
            new.writestr(name, data)
        big = max(new.infolist(), key=lambda record: record.file_size)
        for index in range(2000):
            twin = zipfile.ZipInfo(f"model/data/{1000 + index}")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                big.header_offset,
                big.file_size,
                big.file_size,
                big.CRC,
            )
            new.filelist.append(twin)
        new._didModify = True
    refused(overlapping, "claims more bytes inside than the file has")


def test_too_many_records_and_too_long_tables_are_refused(good, monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    refused(good, "archives up to 3 are read")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 100)
    long = rewrite_zip(good, tmp_path / "long.pt", {"/data.pkl": b"\x80\x02" + b")0" * 600 + b"}."})
    refused(long, "a table of contents too long")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1_000_000)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100)
    refused(good, "checkpoints up to 100 bytes are read")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cut_or_flipped_checkpoint_never_ends_in_a_crash(data):
    network = tiny_network()
    with tempfile.TemporaryDirectory() as folder:
        path = write_run(Path(folder), joint_entries(network), network)
        if data.draw(st.booleans()):
            path = Path(folder) / "model.safetensors"
            save_safetensors(path, network)
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            for _ in range(data.draw(st.integers(1, 8))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        # Whatever still loads is fine; any other exception than ours fails the test.
        with contextlib.suppress(DeployKitError):
            load_checkpoint(path)


def test_one_flipped_bit_of_a_weight_is_noticed(good):
    content = bytearray(good.read_bytes())
    weights = torch.load(good, weights_only=True)["model_state_dict"]["state_enc.weight"].numpy().tobytes()
    content[content.index(weights) + 2] ^= 1
    good.write_bytes(content)
    refused(good, "fails its checksum")


def test_every_truncation_is_refused(good):
    content = good.read_bytes()
    for length in range(0, len(content), 97):
        good.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(good)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 100, "HDF5 file"),
        (b"hello, this is text", "begins with"),
        (b"PK\x05\x06" + b"\0" * 18, "zip file without records"),
    ],
)
def test_foreign_files_are_named(tmp_path, content, match):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(path, match)


def test_missing_files_and_folders_are_named(tmp_path):
    refused(tmp_path / "absent.pt", "does not exist")
    refused(tmp_path, "is a folder")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_foreign_archives_are_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    refused(tmp_path / "script.pt", "TorchScript module")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as new:
        new.writestr("readme.txt", "hello")
    refused(tmp_path / "other.pt", "no single data.pkl")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list")
    torch.save({"policy": {}, "value": 1}, tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt", "none of rsl_rl's entries.*found: policy, value")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (struct.pack("<Q", 2**62) + b"{}", "claims a safetensors header of"),
        (struct.pack("<Q", 40 * 2**20) + b"{" + b" " * 100, "claims a safetensors header of"),
        (struct.pack("<Q", 10) + b"{not json}", "damaged safetensors"),
        (
            struct.pack("<Q", 57)
            + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()[:57]
            + b"0" * 8,
            "damaged safetensors",
        ),
    ],
)
def test_safetensors_bombs_are_refused(tmp_path, header, match):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    refused(path, match)


def test_safetensors_header_limit(tmp_path, monkeypatch):
    save_safetensors(tmp_path / "a.safetensors", tiny_network())
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 64)
    refused(tmp_path / "a.safetensors", "at most 64 are read")


def yaml_refused(folder: Path, text: str | bytes, match: str) -> None:
    path = folder / "agent.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=match) as caught:
        yaml_file.read_yaml(path, CheckpointError)
    assert "\n" not in str(caught.value)


def test_hostile_yaml(tmp_path):
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    yaml_refused(tmp_path, "l0: &l0 [1]\n" + levels, "aliases expand to more than")
    merges = "".join(f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 12))
    yaml_refused(tmp_path, "m0: &m0 {a: 1}\n" + merges, "aliases expand to more than")
    yaml_refused(tmp_path, "a: &a\n  b: *a\n", "contains itself")
    yaml_refused(tmp_path, "a: " + "[" * 5000 + "]" * 5000, "nested too deeply")
    yaml_refused(tmp_path, "- 1\n", "top level")
    yaml_refused(tmp_path, "", "top level")
    yaml_refused(tmp_path, "!!python/object/apply:os.mkdir {a: 1}\n", "top level carries the tag")
    yaml_refused(tmp_path, "a: [", "not a usable YAML")
    yaml_refused(tmp_path, b"a: \xff\xfe", "not UTF-8")
    yaml_refused(tmp_path, "a: " + "9" * 6000, "not a usable YAML")
    yaml_refused(tmp_path, "? !!python/object/apply:f [1]\n: 2\n", "not a usable YAML")
    yaml_refused(tmp_path, "a: !other 1\n", "not a usable YAML")
    yaml_refused(tmp_path, "a: 0x" + "f" * 5000, "line 1: an integer has more than 64 bits")
    yaml_refused(tmp_path, "a: 1\nb: 2\n'a': 3\n", "line 3: the key 'a' stands there twice")
    yaml_refused(tmp_path, "a: !!python/object:x.Y {b: {c: 1, c: 2}}\n", "the key 'c' stands there twice")
    yaml_refused(tmp_path, "1: 2\ntrue: 3\n", "the key 'true' stands there twice")
    yaml_refused(tmp_path, "a: &a {b: 1}\nc: {<<: *a, <<: *a}\n", "the key '<<' stands there twice")
    (tmp_path / "agent.yaml").write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")
    read = yaml_file.read_yaml(tmp_path / "agent.yaml", CheckpointError)
    assert read["d"] == {"b": 3, "c": 2}, "what is merged may be given anew"


def test_yaml_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_file, "MAX_YAML_BYTES", 10)
    yaml_refused(tmp_path, "a: 12345678901", "larger than")


def test_yaml_tags_are_inert(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "agent.yaml").write_text(
        f"a: !!python/tuple [72, 96]\nb: !!python/object/apply:os.mkdir ['{marker}']\n"
        "c: !!python/name:os.system ''\nd: !!python/object:x.Y {k: !!python/tuple [1]}\n"
        "e: &e [1, 2]\nf: *e\n"
    )
    data = yaml_file.read_yaml(tmp_path / "agent.yaml", CheckpointError)
    assert data == {
        "a": (72, 96),
        "b": yaml_file.TaggedValue("object/apply:os.mkdir", [str(marker)]),
        "c": yaml_file.TaggedValue("name:os.system", ""),
        "d": yaml_file.TaggedValue("object:x.Y", {"k": (1,)}),
        "e": [1, 2],
        "f": [1, 2],
    }
    assert not marker.exists()
