"""Commands and options in deploy-kit's manner: options under headings, examples, errors in one line."""

import importlib
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import click

from deploy_kit.cli.console import inert, set_up_encodings, set_up_logging, stderr
from deploy_kit.errors import CheckFailedError, DeployKitError

F = TypeVar("F", bound=Callable[..., Any])

LAUNCHER_ARGUMENTS = "deploy_kit.launcher_arguments"
"""Key of the arguments after ``--`` in a command's context."""

HELP_WIDTH = 100
"""Columns of help texts; a narrower terminal has fewer."""

SPELLINGS = {
    **{"policy-path": "checkpoint", "h5-path": "feature-file", "save-path": "output"},
    **{"h5": "feature-file", "dataset": "feature-file", "samples": "feature-file"},
    "origin-compatible": "masterracing-compatible",
}
"""Other names of options, MasterRacing's and earlier ones: every command that has the option takes them."""

OTHER_OPTIONS = "Other options"


def spelling(token: str) -> str:
    """Return an option's name: hyphens for underscores, one name for a thing."""
    name = token.replace("_", "-")
    return SPELLINGS.get(name, name)


class HeadedOption(click.Option):
    """An option that stands under a heading in the help."""

    def __init__(self, *arguments: Any, heading: str = OTHER_OPTIONS, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.heading = heading


def under(heading: str) -> Callable[..., Callable[[F], F]]:
    """Return what `click.option` is, for options under one heading."""
    return partial(click.option, cls=HeadedOption, heading=heading)


def compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Join options into one decorator; the help shows them in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class _InputRejected(click.ClickException):
    """What the user gave cannot be used: one line, exit code 2."""

    exit_code = 2


class _CheckFailed(click.ClickException):
    """A check failed: one line, exit code 1."""

    exit_code = 1


class Command(click.Command):
    """A command that takes hyphens and underscores alike and shows its options under headings, with examples.

    Args:
        name: name as typed.
        examples: command lines with what they do, for the end of the help.
        settings: click's.
    """

    def __init__(self, name: str | None, *, examples: Mapping[str, str] | None = None, **settings: Any) -> None:
        context = {
            "token_normalize_func": spelling,
            "help_option_names": ["-h", "--help"],
            "show_default": True,
            "max_content_width": HELP_WIDTH,
        }
        super().__init__(name, context_settings=context, **settings)
        self.examples = examples or {}

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Make a context whose help is as wide in a pipe as on a wide terminal."""
        if not stderr.is_terminal:
            settings["terminal_width"] = HELP_WIDTH
        return super().make_context(*arguments, **settings)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what follows ``--`` is kept for the simulator's launcher where there is a simulator."""
        if "--" in args and any(parameter.name == "backend" for parameter in self.params):
            split = args.index("--")
            args, context.meta[LAUNCHER_ARGUMENTS] = args[:split], tuple(args[split + 1 :])
        return super().parse_args(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order of the headings' first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "heading", OTHER_OPTIONS), []).append(record)
        sections[OTHER_OPTIONS] = sections.pop(OTHER_OPTIONS, [])
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=28)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            with formatter.section("Examples"):
                for line, what in self.examples.items():
                    for text in (f"# {what}", line):
                        formatter.write(f"{'':{formatter.current_indent}}{text}\n")


class Group(click.Group):
    """A group whose commands are imported when they are called, so that its help loads nothing; errors are one line.

    Args:
        name: name as typed.
        lazy: module and short help of each command, by name; the module ``deploy_kit.cli.NAME`` holds ``NAME_command``.
        epilog_sections: titled lines for the end of the help.
        settings: click's.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        lazy: Mapping[str, str],
        epilog_sections: Mapping[str, Iterable[str]],
        **settings: Any,
    ) -> None:
        context = {"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH}
        super().__init__(name, context_settings=context, **settings)
        self._lazy, self._sections = dict(lazy), dict(epilog_sections)
        self._ends_process = False

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Make a context whose help is as wide in a pipe as on a wide terminal."""
        if not stderr.is_terminal:
            settings["terminal_width"] = HELP_WIDTH
        return super().make_context(*arguments, **settings)

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command line, on outputs that take every character."""
        set_up_encodings()
        # Without arguments it takes the process's own, and the process ends with it.
        self._ends_process = not arguments and settings.get("args") is None
        return super().main(*arguments, **settings)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn deliberate errors, refusals of the system and Ctrl-C into one line and an exit code."""
        set_up_logging(bool(context.params.get("verbose")))
        try:
            with _errors_in_one_line():
                return super().invoke(context)
        except click.exceptions.Exit as leaving:
            if leaving.exit_code == _INTERRUPTED and self._ends_process:
                # What is left is the process's end, which a second Ctrl-C would turn into a traceback.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(self._lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in self._lazy:
            return None
        module = importlib.import_module(f"deploy_kit.cli.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; suggest one if it is misspelt."""
        try:
            return super().resolve_command(context, args)
        except click.exceptions.NoSuchCommand as error:
            # click looks for similar names among registered commands only, and ours are not imported yet.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self._lazy, ctx=context) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        with formatter.section("Commands, in the order of the work"):
            formatter.write_dl(list(self._lazy.items()))

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections at the end."""
        for title, lines in self._sections.items():
            with formatter.section(title):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except CheckFailedError as error:
        raise _CheckFailed(_one_line(error)) from error
    except DeployKitError as error:
        raise _InputRejected(_one_line(error)) from error
    except KeyboardInterrupt as interrupt:
        raise _interrupted() from interrupt
    except ImportError as error:
        # A compiled module that Ctrl-C meets while it is imported turns it into this.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise _interrupted() from error
        raise
    except BrokenPipeError:
        raise  # whoever reads the output has seen enough; click ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = "check the path, its permissions and the free space"
        raise _InputRejected(f"{where}{error.strerror or error}; {advice}") from error


def _interrupted() -> click.exceptions.Exit:
    stderr.print("Interrupted")
    return click.exceptions.Exit(_INTERRUPTED)


def _one_line(error: Exception) -> str:
    # Names and texts of foreign files stand in messages, and a terminal takes some of their characters for commands.
    return inert(" ".join(str(error).split("\n")))
