"""YAML mappings read as plain data.

Tuples become tuples, every other ``!!python/...`` tag becomes an inert `TaggedValue`; nothing is imported or called.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy_kit.errors import InputError

MAX_YAML_BYTES = 2**20
"""Largest YAML file that is read; parsing so much takes some 10 s and 0.4 GB, and a run's files have 0.03 of it."""

MAX_YAML_NODES = 1_000_000
"""Most values that a YAML file may stand for once its aliases are expanded."""

_INTEGER_LIMIT = 2**64
_MERGE = "tag:yaml.org,2002:merge"
_PYTHON_TAGS = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class TaggedValue:
    """A YAML value under a python tag, kept as data.

    Attributes:
        tag: what follows ``!!python/``, for example ``object/apply:builtins.slice``.
        value: the plain scalar, list or mapping under the tag.
    """

    tag: str
    value: Any


class _InertLoader(yaml.SafeLoader):
    """A SafeLoader that keeps python tags as data."""


def _construct_inert(loader: _InertLoader, suffix: str, node: yaml.Node) -> Any:
    plain: Any
    if isinstance(node, yaml.MappingNode):
        plain = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        plain = loader.construct_sequence(node, deep=True)
        if suffix == "tuple":
            return tuple(plain)
    else:
        assert isinstance(node, yaml.ScalarNode)
        plain = loader.construct_scalar(node)
    return TaggedValue(suffix, plain)


def _construct_integer(loader: _InertLoader, node: yaml.ScalarNode) -> int:
    number = loader.construct_yaml_int(node)
    if abs(number) >= _INTEGER_LIMIT:
        # Python cannot print integers of thousands of digits, nor make a float of them.
        raise ValueError(f"line {node.start_mark.line + 1}: an integer has more than 64 bits")
    return int(number)


_InertLoader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
_InertLoader.add_multi_constructor(_PYTHON_TAGS, _construct_inert)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _expanded_size(loader: _InertLoader, node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values a node stands for, aliases expanded.

    Raises:
        ValueError: it contains itself, stands for too many, or a mapping in it has a key twice.
    """
    known = sizes.get(id(node))
    if known == 0:
        raise ValueError("it contains itself through an alias")
    if known is not None:
        return known
    sizes[id(node)] = 0
    size = 1
    for child in _children(node):
        size += _expanded_size(loader, child, sizes)
        if size > MAX_YAML_NODES:
            raise ValueError(f"its aliases expand to more than {MAX_YAML_NODES} values")
    if isinstance(node, yaml.MappingNode):
        _require_unique(loader, node)
    sizes[id(node)] = size
    return size


def read_yaml(path: Path, error: type[InputError]) -> dict[str, Any]:
    """Read a YAML mapping without executing anything; JSON is read too.

    Args:
        path: the file.
        error: exception type to raise.

    Raises:
        InputError: of type `error`, if the file cannot be read, is too large, recursive, not YAML, not a mapping,
            or has a key twice.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise error(f"{path} is larger than {MAX_YAML_BYTES // 2**20} MiB: this is not a parameter file")
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not UTF-8 text (byte {failure.start}): give a YAML or JSON file") from failure
    try:
        return _parse(text)
    except RecursionError as failure:
        raise error(f"{path} is nested too deeply to be a parameter file") from failure
    except (yaml.YAMLError, ValueError, TypeError) as failure:
        reason = " ".join(str(failure).split())
        raise error(f"{path} is not a usable YAML mapping: {reason}") from failure


def _require_unique(loader: _InertLoader, node: yaml.MappingNode) -> None:
    """Check that a mapping has each key once: which of two values counts, readers disagree on."""
    seen: set[Any] = set()
    for key_node, _ in node.value:
        # A list as a key, which no dict takes, raises TypeError here as it does later.
        key = key_node.tag if key_node.tag == _MERGE else loader.construct_object(key_node, deep=True)
        if key in seen:
            named = key_node.value if isinstance(key_node, yaml.ScalarNode) else key
            raise ValueError(f"line {key_node.start_mark.line + 1}: the key {str(named)[:60]!r} stands there twice")
        seen.add(key)


def _parse(text: str) -> dict[str, Any]:
    loader = _InertLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("the top level must hold 'name: value' lines")
        _expanded_size(loader, node, {})
        data = loader.construct_document(node)
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ValueError(f"the top level carries the tag '{node.tag}'")
    return data
