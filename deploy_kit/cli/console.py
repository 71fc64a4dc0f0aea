"""The terminal: one console, logging, errors and progress bars in one style."""

import logging
import time
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

from deploy_kit.errors import CheckFailedError, DeployKitError
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


LAUNCHER_ARGUMENTS = "deploy_kit.launcher_arguments"
"""Key of the arguments after ``--`` in a command's context."""


class _InputRejected(click.ClickException):
    """What the user gave cannot be used: one line, exit code 2."""

    exit_code = 2


class _CheckFailed(click.ClickException):
    """A check failed: one line, exit code 1."""

    exit_code = 1


class Command(click.Command):
    """A command that reports deploy-kit's errors as one line and takes hyphens and underscores alike."""

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        settings = {
            "token_normalize_func": _hyphenate,
            "help_option_names": ["-h", "--help"],
            "show_default": True,
        }
        super().__init__(name, context_settings=settings, **kwargs)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what follows ``--`` is kept for the simulator's launcher where there is a simulator."""
        if "--" in args and any(parameter.name == "backend" for parameter in self.params):
            split = args.index("--")
            args, context.meta[LAUNCHER_ARGUMENTS] = args[:split], tuple(args[split + 1 :])
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn deliberate errors, refusals of the system and Ctrl-C into one line."""
        try:
            return super().invoke(context)
        except CheckFailedError as error:
            raise _CheckFailed(str(error)) from error
        except DeployKitError as error:
            raise _InputRejected(str(error)) from error
        except KeyboardInterrupt as interrupt:
            stderr.print("Interrupted")
            raise click.exceptions.Exit(130) from interrupt
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            advice = "check the path, its permissions and the free space"
            raise _InputRejected(f"{where}{error.strerror or error}; {advice}") from error


def _hyphenate(token: str) -> str:
    return token.replace("_", "-")


@contextmanager
def progress_bars() -> Iterator[Callable[[Progress], None]]:
    """Draw progress on the error stream while the block runs, one bar at a time; plain lines where it is no terminal.

    Yields:
        The callback that the library's long work takes.
    """
    if not stderr.is_terminal:
        yield _progress_lines()
        return
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
    with rich.progress.Progress(*columns, console=stderr, transient=True) as bars:
        current: dict[str, rich.progress.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.phase not in current:
                for task in current.values():
                    bars.remove_task(task)
                current.clear()
                current[progress.phase] = bars.add_task(progress.phase, total=None, note="")
            bars.update(current[progress.phase], completed=progress.completed, total=progress.total, note=progress.note)

        yield show


def _progress_lines() -> Callable[[Progress], None]:
    """Return a callback that prints a line when a phase begins and every ten seconds."""
    phase, last = "", 0.0

    def show(progress: Progress) -> None:
        nonlocal phase, last
        now = time.monotonic()
        finished = progress.completed == progress.total
        if progress.phase == phase and now - last < 10 and not finished:
            return
        phase, last = progress.phase, now
        share = f" {progress.completed / progress.total:.0%}" if progress.total else ""
        stderr.print(f"{progress.phase}{share}{' · ' if progress.note else ''}{progress.note}", markup=False)

    return show
