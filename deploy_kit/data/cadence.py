"""How often rows are brought to the disk for good."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointEvery:
    """When a shard is closed: whichever comes first.

    Attributes:
        rows: so many rows wait in memory; None for the default, which bounds the memory.
        seconds: so much time has passed since the last one, s.
    """

    rows: int | None = None
    seconds: float = 20.0

    @property
    def row_limit(self) -> int:
        """Rows that wait in memory at most."""
        return self.rows or 65_536

    def __str__(self) -> str:
        return f"{self.seconds:g}s" if self.rows is None else str(self.rows)


DEFAULT_CADENCE = CheckpointEvery()
