"""The contract's JSON schema: made from the contract's dataclasses, so that it cannot differ from them.

``python -m deploy_kit.bundle.schema`` writes `contract.schema.json` anew; a test holds the file to this module.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from deploy_kit.bundle.contract import SCHEMA_VERSION, Contract

SCHEMA_PATH = Path(__file__).with_name("contract.schema.json")
"""The schema, as it is shipped."""

_SIMPLE = {str: "string", bool: "boolean", int: "integer", float: "number"}


def schema_problem(data: Any) -> str | None:
    """Return what is wrong with a contract's parsed JSON by the shipped schema, in one line; None if nothing is."""
    worst = best_match(_validator().iter_errors(data))
    if worst is None:
        return None
    return f"{worst.json_path.replace('$', 'contract', 1)}: {' '.join(worst.message.split())[:200]}"


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def build_schema() -> dict[str, Any]:
    """Return the schema, each field with the description that its dataclass gives it."""
    definitions: dict[str, Any] = {}
    add_definition(Contract, definitions)
    root = definitions.pop(Contract.__name__)
    root["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "deploy-kit contract",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the schema as its file holds it."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


def add_definition(cls: type, definitions: dict[str, Any]) -> None:
    """Add the schemas of a dataclass and of those that it refers to, by their names."""
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = {}
    kinds, described = typing.get_type_hints(cls), _described(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    properties = {}
    for name in names:
        description = {"description": described[name]} if name in described else {}
        properties[name] = {**description, **_kind(kinds[name], definitions)}
    definitions[cls.__name__] = {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }


def _described(cls: type) -> dict[str, str]:
    """Return the descriptions in a docstring's Attributes, by name."""
    _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _kind(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field's type."""
    if kind is Any:
        return {}
    if kind is type(None):
        return {"type": "null"}
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        add_definition(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_kind(argument, definitions) for argument in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _kind(arguments[1], definitions)}
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _kind(arguments[0], definitions)}
    if origin is tuple:
        items = [_kind(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    raise TypeError(f"{kind} has no schema")


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
