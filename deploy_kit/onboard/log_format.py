"""The flight log's layout, for the recorder here and the reader on the host; docs/flight-log.md describes it.

A file is `MAGIC`, then frames: `FRAME` (marker, kind, CRC-32, length of the payload), then the payload. The CRC covers
kind, length and payload. The first frame is the header, a JSON object; a log that was closed ends with an END frame.
All numbers are little-endian.
"""

import struct
import zlib
from enum import IntEnum

MAGIC = b"DKFLIGHT\x01\x00\x00\x00"
"""Eight letters and the format's version, 1."""

MARKER = 0xD10F
FRAME = struct.Struct("<HBxII")
"""Marker, kind, CRC-32, length of the payload."""

TIMES = struct.Struct("<Qq")
"""Sequence number and clock (ns), with which the payloads of STEP, HOLD and RESET begin."""

ELEMENT_TYPES = ("", "f2", "f4", "f8", "u1", "u2", "u4", "u8")
"""Element types of recorded inputs by their code; code 0 for an input that was not recorded."""


class Kind(IntEnum):
    """What a frame holds."""

    HEADER = 1
    STEP = 2
    HOLD = 3
    RESET = 4
    END = 5


def step_struct(num_actions: int) -> struct.Struct:
    """Return the numbers with which a STEP payload begins, without padding.

    Sequence number; clock when the step began, ns; its duration, ns; `now`, time of state and of depth, s (NaN where
    not given); command acting (n); command given (n); the graph's first output (n) float32; its gate output, float32;
    gate_passed and gate_event (−1 none, 0, 1); element type of state and of depth; numbers of the state; whether the
    network's input follows; bytes of the fault's text.

    What follows: the state as given, the depth as given, the network's state and image (float32), the fault's text.
    """
    n = num_actions
    return struct.Struct(f"<QqQ3d{n}d{n}d{n}ffbbBBHBH")


def hold_struct(num_actions: int) -> struct.Struct:
    """Return a HOLD payload: sequence number, clock, `now`, whether a command was told, the command that flew (n)."""
    return struct.Struct(f"<QqdB{num_actions}d")


def frame_head(kind: int, payload: bytes | memoryview) -> bytes:
    """Return the bytes before a payload."""
    size = len(payload)
    return FRAME.pack(MARKER, kind, checksum(kind, size, payload), size)


def checksum(kind: int, size: int, payload: bytes | memoryview) -> int:
    """Return the CRC-32 of kind, length and payload."""
    return zlib.crc32(payload, zlib.crc32(struct.pack("<BI", kind, size)))
