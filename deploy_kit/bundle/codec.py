"""Strict JSON for trees of frozen dataclasses: fields that do not fit are errors that name their place."""

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class DecodeError(ValueError):
    """A JSON value does not fit its dataclass; the message names the place as a dotted path."""


def encode(value: Any) -> Any:
    """Return the JSON form of a dataclass tree: dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], value: Any, where: str) -> T:
    """Return the dataclass `cls` made from its JSON form.

    Args:
        cls: a dataclass whose fields are scalars, `StrEnum`, tuples, string-keyed dictionaries, dataclasses, or
            unions of these and None.
        value: what `json.loads` gave.
        where: dotted path of `value`, for messages.

    Raises:
        DecodeError: a field is unknown, missing or of another type.
    """
    result: T = _decode(cls, value, where)
    return result


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any or kind is object:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        _expect(isinstance(value, dict), dict, value, where)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if issubclass(kind, enum.StrEnum):
        known = [member.value for member in kind]
        if value not in known:
            raise DecodeError(f"{where} is {value!r}, expected one of {', '.join(known)}")
        return kind(value)
    if kind is float:
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), kind, value, where)
        return _finite(value, where)
    _expect(isinstance(value, kind) and isinstance(value, bool) == (kind is bool), kind, value, where)
    return value


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # JSON has no infinity, but 1e999 reads as one.
    if not math.isfinite(number):
        raise DecodeError(f"{where} is {number}, expected a finite number")
    return number


def _expect(condition: bool, kind: type, value: Any, where: str) -> None:
    if not condition:
        raise DecodeError(f"{where} is {type(value).__name__} {value!r:.60}, expected {kind.__name__}")


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    candidates = [argument for argument in arguments if argument is not type(None)]
    for candidate in candidates[:-1]:
        try:
            return _decode(candidate, value, where)
        except DecodeError:
            continue
    return _decode(candidates[-1], value, where)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), list, value, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = [arguments[0]] * len(value)
    else:
        kinds = list(arguments)
        if len(kinds) != len(value):
            raise DecodeError(f"{where} has {len(value)} entries, expected {len(kinds)}")
    return tuple(
        _decode(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_dataclass(cls: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), dict, value, where)
    kinds = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(value) - set(fields)):
        raise DecodeError(f"{where} has the unknown field {unknown[0]!r}")
    if missing := sorted(set(fields) - set(value)):
        raise DecodeError(f"{where} lacks the field {missing[0]!r}")
    return cls(**{name: _decode(kinds[name], value[name], f"{where}.{name}") for name in fields})
