"""One zip file that holds two archives, of which torch reads one and Python the other."""

import io
import struct
import zipfile
from collections.abc import Callable

END, ENTRY = 22, 46


def rezipped(data: bytes, change: Callable[[str, bytes], bytes] = lambda name, content: content) -> bytes:
    """Return the archive stored anew, each part as `change` gives it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), change(name, old.read(name)))
    return buffer.getvalue()


def without_weights(name: str, content: bytes) -> bytes:
    """Return a part's content, tensors with zeros alone."""
    is_tensor = name.rpartition("/")[2].isdigit() and len(content) > 16
    return bytes(len(content)) if is_tensor else content


def two_archives(for_torch: bytes, for_python: bytes) -> bytes:
    """Join two archives of the same names, as `rezipped` writes them.

    The end record names the first directory's offset. torch goes there; Python takes the directory that stands right
    before the end record, and moves all offsets by the difference.
    """
    (size, start), (also, second) = (
        struct.unpack_from("<2L", data, len(data) - 10) for data in (for_torch, for_python)
    )
    assert size == also
    directory, moved = bytearray(for_python[second : second + size]), start + size + second - start
    position = 0
    while position < size:
        (offset,) = struct.unpack_from("<L", directory, position + 42)
        struct.pack_into("<l", directory, position + 42, start + size + offset - moved)
        position += ENTRY + sum(struct.unpack_from("<3H", directory, position + 28))
    end = bytearray(for_python[-END:])
    struct.pack_into("<L", end, 16, start)
    return for_torch[: start + size] + for_python[:second] + bytes(directory) + bytes(end)
