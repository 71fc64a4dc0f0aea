"""What a flight log says of the other stack's log that it was made of."""

from dataclasses import dataclass

from deploy_kit.flightlog.reader import FlightLog


@dataclass(frozen=True)
class Imported:
    """Where an imported log comes from.

    Attributes:
        source: name of the other log; None for a log of our own recorder.
        at_reset: whether the first step followed a reset.
        lacks: what the other log did not hold: outputs, and "network_input".
    """

    source: str | None = None
    at_reset: bool = True
    lacks: frozenset[str] = frozenset()


def imported(log: FlightLog) -> Imported:
    """Return what a log's header says of its import."""
    told = log.header.get("imported")
    if not isinstance(told, dict):
        return Imported()
    mapping, lacks = told.get("mapping"), told.get("lacks")
    begins = mapping.get("begins") if isinstance(mapping, dict) else None
    return Imported(
        str(told.get("source"))[:200],
        begins == "at reset",
        frozenset(map(str, lacks)) if isinstance(lacks, list) else frozenset(),
    )
