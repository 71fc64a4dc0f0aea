"""How long work tells what it is doing; the command line draws it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of long work.

    Attributes:
        phase: what is being done, a few words.
        completed: how much of it.
        total: how much there is, None if unknown.
        note: further figures, ready to print.
    """

    phase: str
    completed: int
    total: int | None = None
    note: str = ""


def silent(progress: Progress) -> None:
    """Ignore progress."""
