"""The TorchScript file as data: a zip archive whose code is parsed, never executed, and held to a list.

What passes is written again as an archive of the very parts that were read, so that torch cannot read anything else.
"""

import ast
import io
import pickletools
import re
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deploy_kit.text import printable
from deploy_kit.verify.structure.graph import Array, Graph, Node, StructureError

MAX_ENTRIES = 1000
_MAX_CODE_BYTES = 1 << 22
"""torch compresses code and tables, and nothing else of size."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_PARTS = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/(?:serialization_id|version)"
    r"|(?:data|constants)/\d+|code/__torch__(?:/[A-Za-z_]\w*)*\.py(?:\.debug_pkl)?"
)
_TEXT = re.compile(r"[A-Za-z0-9_ \n()\[\],.:=>-]*")
"""Characters of code on the list: no quotes, comments, escapes or other statements' punctuation."""

_GLOBALS = {
    "data.pkl": re.compile(r"__torch__(\.[A-Za-z_]\w*)* [A-Za-z_]\w*"),
    "constants.pkl": re.compile(r"torch\._utils _rebuild_tensor_v2|torch FloatStorage|collections OrderedDict"),
}
_OPCODES = frozenset(
    (
        *("PROTO", "GLOBAL", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "NEWOBJ", "EMPTY_DICT"),
        *("MARK", "SETITEM", "SETITEMS", "BUILD", "STOP", "BINUNICODE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPERSID", "REDUCE", "EMPTY_LIST", "APPENDS", "APPEND", "LONG1"),
    )
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
    """Read a frozen module.

    Raises:
        StructureError: it is no TorchScript archive, or holds something that is not on the list.
    """
    parts = _read_archive(data)
    for name, pattern in _GLOBALS.items():
        _check_pickle(name, parts.get(name, b""), pattern)
    sources = [name for name in parts if name.endswith(".py")]
    if len(sources) != 1:
        raise StructureError(f"{len(sources)} files of code, expected one")
    constants = _constants(parts)
    graph = _graph(parts[sources[0]], constants)
    return TorchScriptFile(graph, _archive(parts))


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
                if not rest.endswith(".debug_pkl"):
                    parts[rest] = archive.read(entry)
    except (zipfile.BadZipFile, OSError, *_ERRORS) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(f"it is not a readable TorchScript archive: {printable(error)[:200]}") from error
    for name in ("data.pkl", "constants.pkl"):
        if name not in parts:
            raise StructureError(f"the archive has no {name}")
    if parts.get("byteorder", b"little") != b"little":
        raise StructureError("its numbers are not little-endian")
    if any(name.startswith("data/") for name in parts):
        raise StructureError("it holds parameters beside its constants: it was not frozen")
    return parts


def _check_pickle(name: str, data: bytes, allowed: re.Pattern[str]) -> None:
    try:
        opcodes = list(pickletools.genops(data))
    except _ERRORS as error:
        raise StructureError(f"{name} cannot be read") from error
    for opcode, argument, _ in opcodes:
        if opcode.name not in _OPCODES:
            raise StructureError(f"{name} has the pickle instruction {opcode.name}, which is not on the list")
        if opcode.name == "GLOBAL" and not allowed.fullmatch(str(argument)):
            raise StructureError(f"{name} refers to {printable(argument)}, which is not on the list")
    if opcodes[-1][2] != len(data) - 1:
        raise StructureError(f"{name} goes on after its end")


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


def _graph(source: bytes, constants: dict[str, Array]) -> Graph:
    try:
        text = source.decode("ascii")
        if not _TEXT.fullmatch(text):
            raise StructureError("its code has characters that are not on the list")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise StructureError(f"its code cannot be parsed: {printable(error)[:100]}") from error
    return _Code(constants).module(tree)


class _Code:
    """Turns the one method of a frozen module into nodes."""

    def __init__(self, constants: dict[str, Array]) -> None:
        self.constants = constants
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.inner = 0

    def module(self, tree: ast.Module) -> Graph:
        match tree.body:
            case [ast.ClassDef(body=body, bases=[ast.Name(id="Module")], keywords=[], decorator_list=[])]:
                pass
            case _:
                raise StructureError("its code is more than one class")
        methods = [item for item in body if isinstance(item, ast.FunctionDef)]
        for item in body:
            match item:
                case ast.Assign(targets=[ast.Name(id="__parameters__" | "__buffers__")], value=ast.List(elts=[])):
                    continue
                case ast.AnnAssign(target=ast.Name(id="training"), annotation=ast.Name(id="bool"), value=None):
                    continue
                case ast.FunctionDef(name="forward", decorator_list=[]):
                    continue
            raise StructureError(f"its class holds {ast.unparse(item)[:60]!r}, which is not on the list")
        if len(methods) != 1:
            raise StructureError(f"its class has {len(methods)} methods, expected forward alone")
        return self.method(methods[0])

    def method(self, method: ast.FunctionDef) -> Graph:
        arguments = method.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults or arguments.posonlyargs:
            raise StructureError("forward has arguments beside its inputs")
        inputs = [argument.arg for argument in arguments.args[1:]]
        for argument in arguments.args[1:]:
            if not isinstance(argument.annotation, ast.Name) or argument.annotation.id != "Tensor":
                raise StructureError(f"the input {argument.arg} is no Tensor")
        self.names.update(inputs)
        *statements, last = method.body
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call) if name not in self.names:
                    self.names.add(name)
                    self.call(call, name)
                case _:
                    raise StructureError(f"forward has {ast.unparse(statement)[:60]!r}, which is not on the list")
        match last:
            case ast.Return(value=ast.Tuple(elts=values)):
                outputs = [self.tensor(value) for value in values]
            case ast.Return(value=ast.expr() as value):
                outputs = [self.tensor(value)]
            case _:
                raise StructureError("forward does not end by returning its outputs")
        return Graph(tuple(inputs), tuple(outputs), tuple(self.nodes), self.constants)

    def tensor(self, value: ast.expr) -> str:
        """Return the name of a tensor: a variable, a constant, or what a call gives."""
        match value:
            case ast.Name(id=name) if name in self.names:
                return name
            case ast.Attribute(value=ast.Name(id="CONSTANTS"), attr=name) if f"CONSTANTS.{name}" in self.constants:
                return f"CONSTANTS.{name}"
            case ast.Call():
                self.inner += 1
                return self.call(value, f"inner:{self.inner}")
            case ast.Constant(value=None):
                return ""
            case ast.Constant(value=float() | int() as number) if not isinstance(number, bool):
                return self.constant(np.array(number, np.float32))
        raise StructureError(f"forward uses {ast.unparse(value)[:60]!r}, which is not on the list")

    def constant(self, value: Array) -> str:
        name = f"{len(self.constants)}:"
        self.constants[name] = value
        return name

    def call(self, call: ast.Call, name: str) -> str:
        """Add the nodes of a call and return the name of what it gives."""
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=function), keywords=[], args=arguments):
                pass
            case _:
                raise StructureError(f"forward calls {ast.unparse(call)[:60]!r}, which is not on the list")
        if function not in FUNCTIONS:
            raise StructureError(f"forward calls torch.{function}, which is not on the list")
        tensors, rule = FUNCTIONS[function]
        try:
            settings = [ast.literal_eval(argument) for argument in arguments[tensors:]]
            op, attributes, extra = rule(*settings)
        except (*_ERRORS, AssertionError) as error:
            text = ast.unparse(call)[:100]
            raise StructureError(f"forward calls {text!r} with arguments that are not on the list") from error
        if len(arguments) < tensors:
            raise StructureError(f"forward calls torch.{function} with {len(arguments)} arguments")
        inputs = [self.tensor(argument) for argument in arguments[:tensors]]
        inputs += [self.constant(np.array(value, np.int64)) for value in extra]
        self.nodes.append(Node(op, tuple(inputs), (name,), attributes))
        return name


Rule = tuple[str, dict[str, Any], list[list[int]]]
"""(operator, attributes, further inputs)."""


def _plain(op: str, *fixed: tuple[Any, ...]) -> Any:
    """Return a rule without attributes; further arguments must be one of the given tuples."""

    def rule(*settings: Any) -> Rule:
        assert settings in ((), *fixed)
        return op, {}, []

    return rule


def _with_alpha(op: str, default: float) -> Any:
    def rule(alpha: float = default, scale: float = 1.0, input_scale: float = 1.0) -> Rule:
        assert scale == input_scale == 1
        return op, {"alpha": float(alpha)}, []

    return rule


def _convolution(
    stride: list[int], padding: list[int], dilation: list[int], transposed: bool, output: list[int], groups: int,
    *flags: bool,
) -> Rule:  # fmt: skip
    assert transposed is False
    assert output == [0, 0]
    assert all(isinstance(flag, bool) for flag in flags)
    return _conv2d(stride, padding, dilation, groups)


def _conv2d(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Rule:
    attributes = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    return "Conv", attributes, []


def _batch_norm(training: bool, momentum: float, eps: float, cudnn: bool) -> Rule:
    assert training is False
    return "BatchNormalization", {"epsilon": eps, "momentum": momentum}, []


def _flatten(start: int, end: int = -1) -> Rule:
    assert (start, end) == (1, -1)
    return "Flatten", {"axis": 1}, []


def _slice(axis: int, start: int, end: int, step: int = 1) -> Rule:
    if axis == 0 and start == 0 and end == 2**63 - 1 and step == 1:
        return "Identity", {}, []
    return "Slice", {}, [[start], [end], [axis], [step]]


def _reshape(target: list[int]) -> Rule:
    assert all(type(size) is int for size in target)
    return "Reshape", {"allowzero": 1}, [target]


FUNCTIONS: dict[str, tuple[int, Any]] = {
    "_convolution": (3, _convolution),
    "conv2d": (3, _conv2d),
    "batch_norm": (5, _batch_norm),
    "linear": (3, lambda: ("Gemm", {"transB": 1}, [])),
    "flatten": (1, _flatten),
    "reshape": (1, _reshape),
    "view": (1, _reshape),
    "slice": (1, _slice),
    "add": (2, _plain("Add", (1,))),
    "sub": (2, _plain("Sub", (1,))),
    "mul": (2, _plain("Mul")),
    "div": (2, _plain("Div")),
    "celu": (1, _with_alpha("Celu", 1.0)),
    "elu": (1, _with_alpha("Elu", 1.0)),
    "leaky_relu": (1, _with_alpha("LeakyRelu", 0.01)),
    "gelu": (1, _plain("Gelu")),
    "mish": (1, _plain("Mish")),
    "relu": (1, _plain("Relu")),
    "selu": (1, _plain("Selu")),
    "sigmoid": (1, _plain("Sigmoid")),
    "silu": (1, _plain("Swish")),
    "softplus": (1, _plain("Softplus", (1, 20))),
    "tanh": (1, _plain("Tanh")),
}
"""Functions of torch on the list: how many tensors each takes first, and what it is among ONNX's operators."""
