"""JSON as its standard has it: no infinities, and each key once, so that all readers of a text read the same."""

import json
import math
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""Where half of a surrogate pair may stand: an escape, its bytes in UTF-8, or any text in UTF-16."""


def strict_json(text: str | bytes) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON, holds NaN or an infinity (1e999 is one), a key twice, or half of a surrogate pair.
        RecursionError: it is nested too deep.
    """
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
    if _SURROGATE.search(text if isinstance(text, str) else text.decode("latin-1")):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half of a surrogate pair, which is no character") from error
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number is {text:.40}, expected a finite number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        # `add` returns None: whatever was not seen is added, and passed over.
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return found
