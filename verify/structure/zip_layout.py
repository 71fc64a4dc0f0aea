"""The layout of a zip archive: whether every reader finds the same parts in it.

Readers differ in what they do with bytes before the archive, with a directory that does not stand where the end record
says, and with sizes or names that stand in two places. Python moves all offsets by the difference; torch does not. So
one file can hold two archives, of which each reader sees another one.
"""

import struct

from deploy_kit.verify.structure.graph import StructureError

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ELSEWHERE = (0xFFFF, 0xFFFFFFFF)
"""Values that say that the number stands in another record."""

_FOLDER = 0x10
"""Attribute of a folder; torch reads the content of such an entry as whatever is in memory."""

_OVERRIDING = (0x0001, 0x7075)
"""Kinds of extra fields that replace sizes and names."""


def require_one_reading(data: bytes) -> None:
    """Check that directory and end records stand where they say, and that nothing in them stands twice.

    Args:
        data: the archive's bytes.

    Raises:
        StructureError: readers may disagree on what the archive holds.
    """
    try:
        start, size, count = _directory(data)
        offsets = [_entry(data, position) for position in _positions(data, start, size)]
    except struct.error as error:
        raise StructureError("it is not a readable TorchScript archive: its directory is cut off") from error
    if len(offsets) != count or min(offsets, default=0) != 0:
        raise _ambiguous("its directory does not list what the file holds from its first byte on")


def _ambiguous(why: str) -> StructureError:
    return StructureError(f"readers may find different parts in the archive: {why}")


def _directory(data: bytes) -> tuple[int, int, int]:
    """Return offset, size and number of entries of the directory, which must end where the end records begin."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\5\6":
        raise _ambiguous("it does not end with its end record")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, end)
    locator = end - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        last = locator - _END64.size
        _, _, place, _ = _LOCATOR.unpack_from(data, locator)
        if last < 0 or place != last or data[last : last + 4] != b"PK\6\6":
            raise _ambiguous("its 64-bit end record is not where it says")
        short = (here, count, size, start)
        _, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack_from(data, last)
        pairs = zip(short, (here, count, size, start), strict=True)
        if length != _END64.size - 12 or any(found not in (wanted, *_ELSEWHERE) for found, wanted in pairs):
            raise _ambiguous("its two end records differ")
        end = last
    if disk or first_disk or comment or here != count or start + size != end:
        raise _ambiguous("its directory is not where its end record says")
    return start, size, count


def _positions(data: bytes, start: int, size: int) -> list[int]:
    """Return where the directory's entries begin; together they must fill it."""
    found, position = [], start
    while position < start + size:
        found.append(position)
        name, extra, comment = struct.unpack_from("<3H", data, position + 28)
        position += _ENTRY.size + name + extra + comment
    if position != start + size:
        raise _ambiguous("its directory has another size than its end record says")
    return found


def _entry(data: bytes, position: int) -> int:
    """Return the offset of an entry's data."""
    fields = _ENTRY.unpack_from(data, position)
    packed, unpacked, name, extra, offset = fields[8], fields[9], fields[10], fields[11], fields[16]
    if fields[0] != b"PK\1\2" or _ELSEWHERE[1] in (packed, unpacked, offset):
        raise _ambiguous("an entry's sizes stand in another place")
    if fields[15] & _FOLDER:
        raise _ambiguous("an entry says that it is a folder, which some readers take for empty")
    names = position + _ENTRY.size
    if b"\0" in data[names : names + name]:
        raise _ambiguous("the name of an entry holds a zero byte")
    place, end = names + name, names + name + extra
    while place < end:
        kind, length = struct.unpack_from("<2H", data, place)
        if kind in _OVERRIDING:
            raise _ambiguous("an entry's sizes or name stand in another place")
        place += 4 + length
    if place != end:
        raise _ambiguous("an entry's extra fields have another length than it says")
    return int(offset)
