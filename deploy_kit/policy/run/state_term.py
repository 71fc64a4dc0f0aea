"""What one slice of the state is: plain data, which the command line reads without numpy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StateTerm:
    """One slice [start, stop) of the state; what is not known is None.

    The observation holds ``clip(value) * scale`` of a value in `unit`.

    Attributes:
        name: a known quantity's name, else the run's name of the term.
        start: first index.
        stop: one past the last index.
        quantity: what the numbers are, a name of `docs/contract.md`.
        unit: SI unit, "1" where dimensionless.
        frame: coordinate frame.
        description: one line for a human.
        clip: smallest and largest value, before `scale`; None for none, and where nothing is known.
        scale: per component; None for none, and where nothing is known.
        low: smallest value to be expected in flight, in `unit`, per component.
        high: largest value to be expected in flight.
        range_source: where the range comes from.
        source: where order, size and meaning come from.
    """

    name: str
    start: int
    stop: int
    quantity: str | None
    unit: str | None
    frame: str | None
    description: str | None
    clip: tuple[float, float] | None
    scale: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    range_source: str | None
    source: str | None
