"""The TorchScript file as data: a zip archive whose code is parsed, never executed, and held to a list.

What passes is written again as an archive of the very parts that were read, so that torch cannot read anything else.
"""

import io
import re
import zipfile
import zlib
from dataclasses import dataclass

import torch

from deploy_kit.text import printable
from deploy_kit.verify.structure.graph import Array, Graph, StructureError
from deploy_kit.verify.structure.torchscript_code import read_code
from deploy_kit.verify.structure.torchscript_objects import check_table, is_tensor_part, read_objects
from deploy_kit.verify.structure.zip_layout import require_one_reading

MAX_ENTRIES = 1000
_MAX_CODE_BYTES = 1 << 22
"""torch compresses code and tables, and nothing else of size."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_PARTS = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/(?:serialization_id|version)"
    r"|(?:data|constants|traced_inputs)/\d+|traced_inputs\.pkl|code/__torch__(?:/[A-Za-z_]\w*)*\.py(?:\.debug_pkl)?"
)
_ERRORS = (ValueError, KeyError, IndexError, RuntimeError, EOFError, TypeError, SyntaxError, NotImplementedError)


@dataclass(frozen=True)
class TorchScriptFile:
    """A TorchScript module that was read as data.

    Attributes:
        graph: what it computes.
        archive: an archive of the parts that were read, for torch to load.
    """

    graph: Graph
    archive: bytes


def read_torchscript(data: bytes) -> TorchScriptFile:
    """Read a module, frozen or not.

    Raises:
        StructureError: it is no TorchScript archive, or holds something that is not on the list.
    """
    parts = _read_archive(data)
    check_table("constants.pkl", parts["constants.pkl"], is_tensor_part)
    storages = {name.partition("/")[2]: content for name, content in parts.items() if name.startswith("data/")}
    table = read_objects(parts["data.pkl"], storages)
    sources = {name: content for name, content in parts.items() if name.endswith(".py")}
    graph = read_code(sources, table, _constants(parts))
    return TorchScriptFile(graph, _archive(parts))


def code_text(data: bytes) -> str:
    """Return the code of an archive as text, empty where it cannot be read."""
    try:
        parts = _read_archive(data)
    except StructureError:
        return ""
    return "\n".join(content.decode("ascii", "replace") for name, content in parts.items() if name.endswith(".py"))


def _read_archive(data: bytes) -> dict[str, bytes]:
    """Return the parts by name, without the archive's top folder and the debug records."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(entries) > MAX_ENTRIES or len({name.casefold() for name in names}) != len(names):
                raise StructureError("the archive has an entry twice, or too many")
            if any(entry.compress_type not in _COMPRESSIONS or entry.flag_bits & 1 for entry in entries):
                raise StructureError("the archive is compressed or encrypted as torch never does")
            if sum(entry.file_size for entry in entries) > len(data) + _MAX_CODE_BYTES:
                raise StructureError("the archive claims many more bytes inside than the file has")
            parts = {}
            for entry in entries:
                top, _, rest = entry.filename.partition("/")
                if top != names[0].partition("/")[0] or not _PARTS.fullmatch(rest):
                    raise StructureError(f"the archive's entry {printable(entry.filename)!r} is not on the list")
                if not rest.endswith(".debug_pkl") and not rest.startswith("traced_inputs"):
                    parts[rest] = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, OSError, *_ERRORS) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(f"it is not a readable TorchScript archive: {printable(error)[:200]}") from error
    # Only now, so that what is no archive at all is called that.
    require_one_reading(data)
    for name in ("data.pkl", "constants.pkl"):
        if name not in parts:
            raise StructureError(f"the archive has no {name}")
    if parts.get("byteorder", b"little") != b"little":
        raise StructureError("its numbers are not little-endian")
    return parts


def _constants(parts: dict[str, bytes]) -> dict[str, Array]:
    """Return the module's constants as ``CONSTANTS.c0`` and so on, read by torch as plain tensors."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("c/data.pkl", parts["constants.pkl"])
        archive.writestr("c/byteorder", b"little")
        archive.writestr("c/version", b"3\n")
        for name, data in parts.items():
            if name.startswith("constants/"):
                archive.writestr(f"c/data/{name.partition('/')[2]}", data)
    try:
        tensors = torch.load(io.BytesIO(buffer.getvalue()), map_location="cpu", weights_only=True)
    except (*_ERRORS, OSError) as error:
        raise StructureError(f"its constants cannot be read: {printable(error)[:200]}") from error
    if not isinstance(tensors, tuple) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise StructureError("its constants are not a tuple of tensors")
    for tensor in tensors:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise StructureError("a constant claims more numbers than it stores")
    return {f"CONSTANTS.c{index}": tensor.numpy() for index, tensor in enumerate(tensors)}


def _archive(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(f"policy/{name}", data)
    return buffer.getvalue()
