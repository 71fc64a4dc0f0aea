"""Progress of long work on the error output: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy_kit.cli.console import stderr
from deploy_kit.progress import Progress

LINE_PERIOD_S = 10.0
"""Time between two lines of one phase, s."""
SHORT_PHASE_S = 1.0
"""A phase's last line is left out within this time after the line before, s."""


@contextmanager
def progress_bars() -> Iterator[Callable[[Progress], None]]:
    """Show progress while the block runs, one phase at a time, with the time left.

    Yields:
        The callback that the library's long work takes.
    """
    if not stderr.is_terminal:
        yield ProgressLines()
        return
    from rich import progress as rich_progress

    columns = (
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=stderr.console, transient=True) as bars:
        current: dict[str, rich_progress.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.phase not in current:
                for task in current.values():
                    bars.remove_task(task)
                current.clear()
                current[progress.phase] = bars.add_task(progress.phase, total=None, note="")
            bars.update(current[progress.phase], completed=progress.completed, total=progress.total, note=progress.note)

        yield show


class ProgressLines:
    """Prints a line when a phase begins, every ten seconds, and when one of a second or more is done.

    Args:
        clock: gives the time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: str | None = None
        self._last, self._began, self._before = 0.0, 0.0, 0

    def __call__(self, progress: Progress) -> None:
        """Take a moment of long work."""
        now, finished = self._clock(), progress.completed == progress.total
        if progress.phase != self._phase:
            self._phase, self._began, self._before = progress.phase, now, progress.completed
        elif now - self._last < (SHORT_PHASE_S if finished else LINE_PERIOD_S):
            return
        self._last = now
        share = f" {progress.completed / progress.total:.0%}" if progress.total else ""
        left = "" if finished else self._left(progress, now)
        stderr.print(progress.phase + share + "".join(f" · {part}" for part in (progress.note, left) if part))

    def _left(self, progress: Progress, now: float) -> str:
        """Say how long the phase still takes at the pace so far."""
        done = progress.completed - self._before
        if progress.total is None or done <= 0:
            return ""
        return f"{duration((now - self._began) * (progress.total - progress.completed) / done)} left"


def duration(seconds: float) -> str:
    """Return a length of time for people: ``40 s``, ``12 min``, ``5.5 h``, ``3 days``."""
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (100 * 3600, "h", 3600)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
