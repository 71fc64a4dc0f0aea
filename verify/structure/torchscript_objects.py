"""The object table of a TorchScript module, as inert data: modules with their attributes, tensors as arrays.

The table is a pickle. Its instructions and names are held to a list first; what it may call then is a function here
that returns an array. Nothing of torch is called, and nothing that the table names is imported.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy_kit.text import printable
from deploy_kit.verify.structure.graph import Array, StructureError

OPCODES = frozenset(
    (
        *("PROTO", "GLOBAL", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "NEWOBJ", "EMPTY_DICT"),
        *("MARK", "SETITEM", "SETITEMS", "BUILD", "STOP", "BINUNICODE", "NEWFALSE", "NEWTRUE", "NONE", "BININT"),
        *("BININT1", "BININT2", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPERSID", "REDUCE", "EMPTY_LIST", "APPENDS"),
        *("APPEND", "LONG1", "BINFLOAT"),
    )
)
_CLASS = re.compile(r"__torch__(\.[A-Za-z_]\w*)*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_PLAIN = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "FloatStorage"),
    ("torch", "LongStorage"),
    ("collections", "OrderedDict"),
}
_TYPES: dict[str, Any] = {"FloatStorage": np.dtype(np.float32), "LongStorage": np.dtype(np.int64)}
_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    RecursionError,
)


@dataclass
class Module:
    """One module.

    Attributes:
        kind: its class, as ``__torch__.package.Class``.
        attributes: by name: modules, arrays, numbers.
    """

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


def check_table(name: str, data: bytes, allowed: Callable[[str, str], bool]) -> None:
    """Hold a pickle's instructions and the names it refers to to a list.

    Raises:
        StructureError: it cannot be read, or holds something else.
    """
    try:
        opcodes = list(pickletools.genops(data))
    except _ERRORS as error:
        raise StructureError(f"{name} cannot be read") from error
    for opcode, argument, _ in opcodes:
        if opcode.name not in OPCODES:
            raise StructureError(f"{name} has the pickle instruction {opcode.name}, which is not on the list")
        if opcode.name == "GLOBAL" and not allowed(*str(argument).split(" ", 1)):
            raise StructureError(f"{name} refers to {printable(argument)}, which is not on the list")
    if opcodes[-1][2] != len(data) - 1:
        raise StructureError(f"{name} goes on after its end")


def is_class(module: str, name: str) -> bool:
    """Return whether a pickle's name is that of a TorchScript class."""
    return _CLASS.fullmatch(module) is not None and _NAME.fullmatch(name) is not None


def is_tensor_part(module: str, name: str) -> bool:
    """Return whether a pickle's name is one that tensors are stored with."""
    return (module, name) in _PLAIN


def read_objects(data: bytes, storages: Mapping[str, bytes]) -> Module:
    """Return a module's table.

    Args:
        data: the pickle, which is checked here.
        storages: bytes of the tensors, by key.

    Raises:
        StructureError: it holds anything else than modules, tensors and plain values.
    """
    check_table("data.pkl", data, lambda module, name: is_class(module, name) or is_tensor_part(module, name))
    reader = _Reader(io.BytesIO(data), storages)
    try:
        table = reader.load()
    except _ERRORS as error:
        raise StructureError(f"data.pkl cannot be read: {printable(error)[:100]}") from error
    if not isinstance(table, Module):
        raise StructureError("data.pkl holds no module")
    if unused := sorted(storages.keys() - reader.used):
        raise StructureError(f"it holds the tensor data/{unused[0]}, which nothing refers to")
    return table


class _Reader(pickle.Unpickler):
    """Makes modules and arrays of a pickle that `check_table` has passed; every other name is refused here too."""

    def __init__(self, file: io.BytesIO, storages: Mapping[str, bytes]) -> None:
        super().__init__(file)
        self._storages = storages
        self.used: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if is_class(module, name):
            kind = f"{module}.{name}"
            return type("Stub", (_Stub,), {"kind": kind})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if name in _TYPES and module == "torch":
            return name
        raise ValueError(f"{module}.{name} is not on the list")

    def persistent_load(self, key: Any) -> Array:
        kind, storage_type, name, device, count = key
        if kind != "storage" or storage_type not in _TYPES or device != "cpu" or name not in self._storages:
            raise ValueError(f"the storage {key!r} is not on the list")
        values = np.frombuffer(self._storages[name], _TYPES[storage_type])
        if len(values) != count:
            raise ValueError(f"the storage {name!r} has {len(values)} numbers, expected {count}")
        self.used.add(name)
        return np.asarray(values)


class _Stub(Module):
    kind: str = ""

    def __new__(cls, *arguments: Any) -> Any:
        if arguments:
            raise ValueError("a module is made with arguments")
        made = object.__new__(_Made)
        made.kind, made.attributes = cls.kind, {}
        return made


class _Made(Module):
    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError("a module's attributes have no names")
        self.attributes = dict(state)


def _tensor(storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Array:
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise ValueError("a tensor has no storage")
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's sizes are no numbers")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 in size or last >= len(storage) or np.prod([float(n) for n in size]) > len(storage):
        raise ValueError("a constant claims more numbers than it stores")
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
