"""Plain values out of Isaac Lab's dumps of environment and agent."""

import math
from typing import Any

ENV_FILE = "params/env.yaml"
"""How messages and sources call the dump of the environment."""

AGENT_FILE = "params/agent.yaml"
"""How they call the agent's settings beside it."""


def finite(value: Any) -> float | None:
    """Return a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def same_number(a: Any, b: Any) -> bool:
    """Return whether two numbers, or two tuples of equal length, are equal but for rounding."""
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(math.isclose(x, y, rel_tol=1e-9) for x, y in pairs)


def mapping(value: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping under nested keys, an empty one where something on the way is missing or no mapping."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
