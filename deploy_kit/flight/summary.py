"""Says what a JSON file of fly holds, as plain values for ``deploy-kit inspect``."""

from pathlib import Path
from typing import Any

from deploy_kit.errors import InputError
from deploy_kit.files import read_json_object


def describe_flight(path: Path) -> dict[str, Any]:
    """Return what flew, how, and the summary figures; of the rows an episode, how many there are.

    Raises:
        InputError: it is not what fly writes.
    """
    data = read_json_object(path)
    flights = data.get("flights")
    if not isinstance(flights, list) or not flights or not all(map(_is_flight, flights)):
        raise InputError(f"{path} has no list of flights with their episodes, so fly did not write it")
    shown = [{**flight, "episodes": len(flight["episodes"])} for flight in flights]
    return {"path": str(path), **{**data, "flights": shown}}


def _is_flight(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("episodes"), list)
