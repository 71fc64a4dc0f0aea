"""JSON with each key once and without NaN and infinities, so that drone and host read the same of a text."""

import json
from typing import Any


def strict_json(text: str) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON, or holds NaN, an infinity, or a key twice.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found
