"""TorchScript's code as data: methods are parsed, never executed, and every call of torch becomes a node.

A frozen module has one method. In another one the calls of its sub-modules are put in place, as freezing does it.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy_kit.text import printable
from deploy_kit.verify.structure.graph import Array, Graph, Node, StructureError
from deploy_kit.verify.structure.torchscript_functions import FUNCTIONS
from deploy_kit.verify.structure.torchscript_objects import Module

MAX_DEPTH = 20
"""Modules within modules; a policy has three or four."""

MAX_CALLS = 2000
"""Calls in all; a policy has some eighty."""

_TEXT = re.compile(r'(?:[A-Za-z0-9_ \n()\[\],.:=>-]|"[A-Za-z0-9_]*")*')
"""Characters of code on the list: no comments, escapes or other statements' punctuation, and names alone in quotes."""

_ERRORS = (ValueError, KeyError, IndexError, TypeError, SyntaxError)


def _require_read(method: ast.FunctionDef) -> None:
    """Check that each variable is read: one that is not may compute nothing, so that no node shows it."""
    names = [node for node in ast.walk(method) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    for node in names:
        if isinstance(node.ctx, ast.Store) and node.id not in read:
            raise StructureError(f"forward makes {node.id}, which nothing reads")


@dataclass
class TensorList:
    """A list of tensors by their names; torch gives a long one a line of its own, for `cat` alone to read."""

    parts: tuple[str, ...]
    read: bool = False


Value = str | Module | TensorList | tuple[Any, ...]
"""What a variable stands for: a tensor by its name in the graph, a module, or several of them."""


def read_code(sources: Mapping[str, bytes], table: Module, constants: dict[str, Array]) -> Graph:
    """Return the graph of a module's forward.

    Args:
        sources: files of code, by path.
        table: the module.
        constants: tensors that the code calls ``CONSTANTS.c0`` and so on.

    Raises:
        StructureError: the code holds something that is not on the list.
    """
    classes: dict[str, ast.FunctionDef] = {}
    for path, source in sources.items():
        prefix = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for name, method in _classes(source).items():
            if method is not None:
                classes[f"{prefix}.{name}"] = method
    return _Code(classes, dict(constants)).graph(table)


def _classes(source: bytes) -> dict[str, ast.FunctionDef | None]:
    """Return the method of each class in a file."""
    try:
        text = source.decode("ascii")
        if not _TEXT.fullmatch(text):
            raise StructureError("its code has characters that are not on the list")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise StructureError(f"its code cannot be parsed: {printable(error)[:100]}") from error
    found: dict[str, ast.FunctionDef | None] = {}
    for item in tree.body:
        match item:
            case ast.ClassDef(name=name, bases=[ast.Name(id="Module")], keywords=[], decorator_list=[]):
                if name in found:
                    raise StructureError(f"its code has the class {name} twice")
                found[name] = _method(item)
            case _:
                raise StructureError(f"its code has {ast.unparse(item)[:60]!r}, expected classes alone")
    return found


def _method(item: ast.ClassDef) -> ast.FunctionDef | None:
    """Return a class's one method; modules that are never called have none."""
    methods = []
    for part in item.body:
        match part:
            case ast.Assign(targets=[ast.Name(id="__parameters__" | "__buffers__")], value=ast.List(elts=names)) if all(
                isinstance(name, ast.Constant) for name in names
            ):
                continue
            case ast.Assign(
                targets=[ast.Subscript(value=ast.Name(id="__annotations__"), slice=ast.Constant())],
                value=ast.Attribute() | ast.Name(),
            ):
                continue
            case ast.AnnAssign(target=ast.Name(), value=None):
                continue
            case ast.FunctionDef(name="forward", decorator_list=[]):
                methods.append(part)
                continue
        raise StructureError(f"its class holds {ast.unparse(part)[:60]!r}, which is not on the list")
    if len(methods) > 1:
        raise StructureError(f"its class has {len(methods)} methods, expected forward alone")
    return methods[0] if methods else None


class _Code:
    """Turns methods into nodes."""

    def __init__(self, classes: Mapping[str, ast.FunctionDef], constants: dict[str, Array]) -> None:
        self.classes, self.constants = classes, constants
        self.nodes: list[Node] = []
        self.tensors: dict[int, str] = {}
        self.kept: list[Array] = []
        self.calls = 0

    def graph(self, table: Module) -> Graph:
        method = self.class_of(table)
        inputs = [argument.arg for argument in method.args.args[1:]]
        for argument in method.args.args[1:]:
            if not isinstance(argument.annotation, ast.Name) or argument.annotation.id != "Tensor":
                raise StructureError(f"the input {argument.arg} is no Tensor")
        given = self.run(table, tuple(inputs), 0)
        outputs = given if isinstance(given, tuple) else (given,)
        if not all(isinstance(output, str) for output in outputs):
            raise StructureError("forward does not return tensors")
        return Graph(tuple(inputs), tuple(map(str, outputs)), tuple(self.nodes), self.constants)

    def class_of(self, module: Module) -> ast.FunctionDef:
        if module.kind not in self.classes:
            raise StructureError(f"the code of {printable(module.kind)[:80]} is missing")
        return self.classes[module.kind]

    def run(self, module: Module, given: tuple[Value, ...], depth: int) -> Value:
        """Put a module's forward in place and return what it gives."""
        if depth > MAX_DEPTH:
            raise StructureError(f"its modules call each other more than {MAX_DEPTH} deep")
        method = self.class_of(module)
        arguments = method.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults or arguments.posonlyargs:
            raise StructureError("forward has arguments beside its inputs")
        names = [argument.arg for argument in arguments.args]
        if len(names) != 1 + len(given) or len(set(names)) != len(names):
            raise StructureError(f"forward is called with {len(given)} arguments")
        frame: dict[str, Value] = dict(zip(names, (module, *given), strict=True))
        *statements, last = method.body
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.List(elts=listed)) if name not in frame:
                    frame[name] = TensorList(tuple(self.tensor(part, frame, depth) for part in listed))
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in frame:
                    frame[name] = self.value(value, frame, depth, name if depth == 0 else None)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                    parts = self.value(value, frame, depth)
                    if not isinstance(parts, tuple) or len(parts) != len(targets):
                        raise StructureError(f"forward has {ast.unparse(statement)[:60]!r}, which is not on the list")
                    for target, part in zip(targets, parts, strict=True):
                        if not isinstance(target, ast.Name) or target.id in frame:
                            raise StructureError(f"forward has {ast.unparse(statement)[:60]!r}, not on the list")
                        frame[target.id] = part
                case _:
                    raise StructureError(f"forward has {ast.unparse(statement)[:60]!r}, which is not on the list")
        if not isinstance(last, ast.Return) or last.value is None:
            raise StructureError("forward does not end by returning its outputs")
        returned = self.value(last.value, frame, depth)
        _require_read(method)
        for known, held in frame.items():
            # A list may be read by what is no `cat`, and so is not in the graph.
            if isinstance(held, TensorList) and not held.read:
                raise StructureError(f"forward makes the list {known}, which nothing reads")
        return returned

    def value(self, value: ast.expr, frame: dict[str, Value], depth: int, name: str | None = None) -> Value:
        """Return what an expression stands for; `name` is that of the tensor, if it gives one."""
        match value:
            case ast.Name(id=known) if known in frame:
                return frame[known]
            case ast.Tuple(elts=parts):
                return tuple(self.value(part, frame, depth) for part in parts)
            case ast.Attribute(value=ast.Name(id="CONSTANTS"), attr=constant) if (
                f"CONSTANTS.{constant}" in self.constants
            ):
                return f"CONSTANTS.{constant}"
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if isinstance(frame.get(owner), Module):
                return self.attribute(frame[owner], attribute)
            case ast.Call(
                func=ast.Name(id="getattr"),
                args=[ast.Name(id=owner), ast.Constant(value=str() as attribute)],
                keywords=[],
            ) if isinstance(frame.get(owner), Module):
                return self.attribute(frame[owner], attribute)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=function), args=arguments, keywords=[]):
                return self.call(value, function, arguments, frame, depth, name)
            case ast.Call(func=ast.Attribute(value=inner, attr="forward"), args=arguments, keywords=[]):
                module = self.value(inner, frame, depth)
                if isinstance(module, Module):
                    given = tuple(self.value(argument, frame, depth) for argument in arguments)
                    return self.run(module, given, depth + 1)
            case ast.Call():
                raise StructureError(f"forward calls {ast.unparse(value)[:60]!r}, which is not on the list")
        raise StructureError(f"forward uses {ast.unparse(value)[:60]!r}, which is not on the list")

    def attribute(self, owner: Any, name: str) -> Value:
        found = owner.attributes.get(name)
        if isinstance(found, Module):
            return found
        if isinstance(found, np.ndarray):
            if id(found) not in self.tensors:
                # Kept, so that its identity stays its own.
                self.kept.append(found)
                self.tensors[id(found)] = self.constant(found)
            return self.tensors[id(found)]
        raise StructureError(f"forward reads the attribute {printable(name)[:40]}, which is no module or tensor")

    def tensor(self, value: ast.expr, frame: dict[str, Value], depth: int) -> str:
        """Return the name of a tensor: a variable, a constant, or what a call gives."""
        match value:
            case ast.Constant(value=None):
                return ""
            case ast.Constant(value=float() | int() as number) if not isinstance(number, bool):
                return self.constant(np.array(number, np.float32))
        found = self.value(value, frame, depth)
        if not isinstance(found, str):
            raise StructureError(f"forward uses {ast.unparse(value)[:60]!r} as a tensor")
        return found

    def constant(self, value: Array) -> str:
        name = f"{len(self.constants)}:"
        self.constants[name] = value
        return name

    def call(
        self,
        call: ast.Call,
        function: str,
        arguments: list[ast.expr],
        frame: dict[str, Value],
        depth: int,
        name: str | None,
    ) -> str:
        """Add the nodes of a call and return the name of what it gives."""
        self.calls += 1
        result = name or f"inner:{self.calls}"
        if self.calls > MAX_CALLS:
            raise StructureError(f"its code makes more than {MAX_CALLS} calls")
        if function not in FUNCTIONS:
            raise StructureError(f"forward calls torch.{function}, which is not on the list")
        tensors, rule = FUNCTIONS[function]
        listed: tuple[str, ...] = ()
        match function, arguments:
            case "cat", [ast.Name(id=known), *rest] if isinstance(known_list := frame.get(known), TensorList):
                listed, arguments, known_list.read = known_list.parts, rest, True
            case "cat", [ast.List(elts=parts), *rest]:
                tensors, arguments = len(parts), [*parts, *rest]
            case "layer_norm", [data, shape, weight, bias, *rest]:
                arguments = [data, weight, bias, shape, *rest]
        try:
            settings = [ast.literal_eval(argument) for argument in arguments[tensors:]]
            op, attributes, extra = rule(*settings)
        except StructureError:
            raise
        except (*_ERRORS, AssertionError) as error:
            text = ast.unparse(call)[:100]
            raise StructureError(f"forward calls {text!r} with arguments that are not on the list") from error
        if len(arguments) < tensors:
            raise StructureError(f"forward calls torch.{function} with {len(arguments)} arguments")
        inputs = [*listed, *(self.tensor(argument, frame, depth) for argument in arguments[:tensors])]
        inputs += [self.constant(np.array(value, np.int64)) for value in extra]
        self.nodes.append(Node(op, tuple(inputs), (result,), attributes))
        return result
