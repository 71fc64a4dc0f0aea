"""The terminal: one console, logging, errors and progress bars in one style."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import rich.progress
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deploy_kit.errors import DeployKitError
from deploy_kit.progress import Progress

stdout = Console(highlight=False, soft_wrap=True)
"""Results: what a script may want to read."""

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress, logs and errors."""


def set_up_logging(verbose: bool) -> None:
    """Send the library's log records to the terminal."""
    handler = RichHandler(console=stderr, show_time=False, show_path=False, markup=False)
    root = logging.getLogger("deploy_kit")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


class _ReportedError(click.ClickException):
    """A deliberate error on its way to the terminal, with its own exit code."""

    def __init__(self, error: DeployKitError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code


class Command(click.Command):
    """A command that reports deploy-kit's errors as one line and takes hyphens and underscores alike."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {
            "token_normalize_func": _hyphenate,
            "help_option_names": ["-h", "--help"],
            "show_default": True,
            **kwargs.pop("context_settings", {}),
        }
        super().__init__(*args, context_settings=settings, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn deliberate errors and operating-system refusals into one line."""
        try:
            return super().invoke(context)
        except DeployKitError as error:
            raise _ReportedError(error) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            advice = "check the path, its permissions and the free space"
            reported = click.ClickException(f"{where}{error.strerror or error}; {advice}")
            reported.exit_code = 2
            raise reported from error


def _hyphenate(token: str) -> str:
    return token.replace("_", "-")


@contextmanager
def progress_bars() -> Iterator[Callable[[Progress], None]]:
    """Draw progress on the error stream while the block runs, one bar a phase.

    Yields:
        The callback that the library's long work takes.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=stderr) as bars:
        tasks: dict[str, rich.progress.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=progress.total, note="")
            bars.update(tasks[progress.phase], completed=progress.completed, total=progress.total, note=progress.note)

        yield show
