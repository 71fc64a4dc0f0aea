"""Logs of other stacks that make the libraries which read them spend time or memory without end."""

import struct
import zlib

import lz4.frame
import pytest
import zstandard

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.sources import bounded_ulog, mcap_bounds
from deploy_kit.flightlog.sources.opening import open_source

_MAGIC = b"\x89MCAP0\r\n"


def ulog(*messages):
    """Return a ULog file of (kind, payload)."""
    head = b"ULog\x01\x12\x35\x01" + struct.pack("<Q", 0)
    return head + b"".join(struct.pack("<HB", len(payload), ord(kind)) + payload for kind, payload in messages)


def subscribed(name, count=1):
    return [("A", struct.pack("<BH", 0, number) + name) for number in range(count)]


LEVELS = [("F", f"t{n}:t{n - 1}[1000] x;".encode()) for n in range(1, 9)]
EMPTY = [("F", b"t0:"), *LEVELS]

ULOGS = {
    "types within types": ulog(("F", b"t0:float x;"), *LEVELS, *subscribed(b"t8")),
    "types of nothing": ulog(*EMPTY, *subscribed(b"t8")),
    "a type in itself": ulog(("F", b"t0:t0 x;"), *subscribed(b"t0")),
    "many topics of one large type": ulog(("F", b"t0:float[3000] x;"), *subscribed(b"t0", 2)),
    # The last message claims more than the file has, of a kind that pyulog looks past: it goes back by what is claimed.
    "sent back for ever": ulog(*[("I", b"\x0buint8_t[0] a")] * 8000) + struct.pack("<HB", 48001, 255),
}


@pytest.mark.parametrize("name", ULOGS)
def test_ulog_files_that_stand_for_more_than_they_hold(tmp_path, name, monkeypatch):
    monkeypatch.setattr(bounded_ulog, "MAX_FIELDS", 5000)
    (tmp_path / "flight.ulg").write_bytes(ULOGS[name])
    words = "again and again" if name == "sent back for ever" else r"more than \d+ fields|RecursionError|is damaged"
    with pytest.raises(FlightLogError, match=words):
        open_source(tmp_path / "flight.ulg").topics()


def test_sizes_of_ulog_files_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "flight.ulg"
    path.write_bytes(ulog(*[("I", b"\x0buint8_t[0] a")] * 20))
    assert open_source(path).topics() == []
    monkeypatch.setattr(bounded_ulog, "MAX_NOTES", 19)
    with pytest.raises(FlightLogError, match="more than 19 texts"):
        open_source(path).topics()
    monkeypatch.setattr(bounded_ulog, "MAX_FILE_BYTES", 10)
    with pytest.raises(FlightLogError, match="up to 10 bytes are read"):
        open_source(path).topics()


def record(kind, content):
    return struct.pack("<BQ", kind, len(content)) + content


def text(content):
    return struct.pack("<I", len(content)) + content


def chunk(name, packed, claimed):
    head = struct.pack("<QQQI", 0, 0, claimed, 0) + text(name)
    return record(6, head + struct.pack("<Q", len(packed)) + packed)


def mcap(*chunks, index=()):
    """Return an MCAP file of chunks, with an index of the chunks at these places if any are given."""
    body = _MAGIC + record(1, text(b"") + text(b"")) + b"".join(chunks) + record(15, bytes(4))
    indexes = b"".join(
        record(8, struct.pack("<4QI", 0, 0, place, 9, 0) + bytes(8) + text(b"") + bytes(16)) for place in index
    )
    start = len(body) if index else 0
    footer = struct.pack("<QQ", start, 0)
    crc = zlib.crc32(indexes + struct.pack("<BQ", 2, 20) + footer) if index else 0
    return body + indexes + record(2, footer + struct.pack("<I", crc)) + _MAGIC


ZEROS = bytes(1 << 20)
FIRST = len(_MAGIC) + 9 + 8

MCAPS = {
    "a claim of terabytes": (mcap(chunk(b"", b"", 1 << 42)), "unpacks to"),
    "zstd beyond its claim": (mcap(chunk(b"zstd", zstandard.compress(ZEROS), 10)), "unpacks to"),
    "lz4 beyond its claim": (mcap(chunk(b"lz4", lz4.frame.compress(ZEROS), 1 << 17)), "unpacks to"),
    "many small bombs": (
        mcap(*[chunk(b"zstd", zstandard.compress(ZEROS[: 1 << 17]), 1 << 17)] * 80),
        "unpacks to more",
    ),
    "one chunk twice": (mcap(chunk(b"", b"", 0), index=(FIRST, FIRST)), "a chunk twice"),
    "a chunk inside another record": (mcap(record(9, chunk(b"", b"", 1 << 42)), index=(FIRST + 9,)), "unpacks to"),
    "a chunk beyond the end": (mcap(index=(1 << 62,)), "no whole chunk"),
}


@pytest.mark.parametrize("name", MCAPS)
def test_mcap_files_that_stand_for_more_than_they_hold(tmp_path, name, monkeypatch):
    content, words = MCAPS[name]
    monkeypatch.setattr(mcap_bounds, "MAX_RECORD_BYTES", 1 << 17)
    (tmp_path / "flight.mcap").write_bytes(content)
    with pytest.raises(FlightLogError, match=words):
        list(open_source(tmp_path / "flight.mcap").messages({"/a"}))
