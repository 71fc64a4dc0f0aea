"""A TorchScript archive in which another reader could find other parts than those that were proven is refused."""

import io
import struct
import zipfile

import pytest
import torch

from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from deploy_kit.verify.structure.zip_layout import require_one_reading
from helpers.two_archives import rezipped, two_archives, without_weights


@pytest.fixture(scope="module")
def archive(run):
    return (run.bundle / "policy.pt").read_bytes()


def small(compression=zipfile.ZIP_STORED, **entry):
    """Return an archive of two parts, the first with other fields of its entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        first = zipfile.ZipInfo("policy/version")
        for name, value in entry.items():
            setattr(first, name, value)
        archive.writestr(first, b"3\n")
        archive.writestr("policy/byteorder", b"little" * 50)
    return buffer.getvalue()


def test_archives_of_torch_and_of_python_have_one_reading(archive):
    require_one_reading(archive)
    require_one_reading(rezipped(archive))
    require_one_reading(small(zipfile.ZIP_DEFLATED))
    # A time stamp, as zip programs add it.
    require_one_reading(small(extra=struct.pack("<2HBL", 0x5455, 5, 1, 0)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torch_and_python_read_another_policy_from_one_file(archive, tmp_path):
    joined = two_archives(rezipped(archive, without_weights), rezipped(archive))
    (tmp_path / "policy.pt").write_bytes(joined)
    with zipfile.ZipFile(io.BytesIO(joined)) as read, zipfile.ZipFile(io.BytesIO(archive)) as right:
        assert {name: read.read(name) for name in read.namelist()} == {n: right.read(n) for n in right.namelist()}
    state, depth = torch.ones(1, 16), torch.ones(1, 1, 24, 32)
    ours, theirs = (torch.jit.load(io.BytesIO(data))(state, depth)[0] for data in (archive, joined))
    assert not torch.allclose(ours, theirs)
    with pytest.raises(StructureError, match="readers may find different parts"):
        read_torchscript(joined)


def test_a_compressed_part_that_cannot_be_unpacked_is_refused(archive):
    damaged = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        part = next(entry for entry in read.infolist() if entry.compress_type == zipfile.ZIP_DEFLATED)
    names = struct.unpack_from("<2H", archive, part.header_offset + 26)
    # Its first block of a type that there is not.
    damaged[part.header_offset + 30 + sum(names)] |= 0b110
    with pytest.raises(StructureError, match="not a readable TorchScript archive"):
        read_torchscript(bytes(damaged))


def test_an_entry_that_says_that_it_is_a_folder_is_refused():
    with pytest.raises(StructureError, match="says that it is a folder"):
        require_one_reading(small(external_attr=0x10))


def shifted_locator(data):
    place = len(data) - 22 - 20
    assert data[place : place + 4] == b"PK\6\7"
    return data[: place + 8] + struct.pack("<Q", 0) + data[place + 16 :]


def other_count(data):
    return data[:-14] + struct.pack("<2H", 1, 1) + data[-10:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"#!/bin/sh\n" + data, "64-bit end record"),
        (lambda data: data + b"more", "does not end with its end record"),
        (lambda data: data[:-2] + b"\4\0more", "does not end with its end record"),
        (shifted_locator, "64-bit end record"),
        (other_count, "two end records differ"),
    ],
    ids=["prefix", "suffix", "comment", "locator", "count"],
)
def test_moved_directories_are_refused(archive, change, said):
    with pytest.raises(StructureError, match=said):
        require_one_reading(change(archive))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (small(extra=struct.pack("<2HQ", 0x0001, 8, 2)), "sizes or name stand in another place"),
        (small(extra=struct.pack("<2HBL", 0x7075, 5, 1, 0)), "sizes or name stand in another place"),
        (small(extra=struct.pack("<2H", 0x5455, 50)), "extra fields have another length"),
        (other_count(small()), "does not list what the file holds"),
        (small().replace(b"policy/version", b"policy/versio\0"), "zero byte"),
        (b"#!/bin/sh\n" + small(), "directory is not where"),
        (small()[:-22] + small()[-22:-6] + struct.pack("<LH", 0, 0), "directory is not where"),
    ],
    ids=["zip64", "unicode-name", "extra-length", "count", "zero-byte", "prefix", "start"],
)
def test_entries_that_say_it_elsewhere_are_refused(data, said):
    with pytest.raises(StructureError, match=said):
        require_one_reading(data)
