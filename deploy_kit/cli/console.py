"""What the user sees: results on the standard output, everything else on the error output, in one style.

On a terminal, rich wraps and colours. What goes into a pipe or a file is neither wrapped nor cut, whatever ``COLUMNS``
says, and characters that its encoding lacks are replaced by ones that it has.
"""

import codecs
import copy
import io
import logging
import sys
import unicodedata
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deploy_kit.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

UNWRAPPED = 1_000_000
"""Width at which nothing is wrapped."""

_REPLACEMENTS = {
    **{"→": "->", "…": "...", "·": "*", "×": "x", "–": "-", "—": "-", "−": "-", "±": "+/-", "°": " deg", "∞": "inf"},
    **{"≤": "<=", "≥": ">=", "≈": "~", "σ": "sigma", "µ": "u", "μ": "u", "‖": "|", "√": "sqrt", "•": "*"},
    **{"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'"},
}


class Output:
    """One of the two output streams.

    Args:
        error: whether it is the error output.
    """

    def __init__(self, *, error: bool) -> None:
        self._error = error

    @property
    def file(self) -> Any:
        """The stream as it is now; tests and redirections exchange it."""
        return sys.stderr if self._error else sys.stdout

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it, rather than a file or a pipe."""
        return bool(self.file.isatty())

    @cached_property
    def console(self) -> "Console":
        """Rich's console for a terminal; progress bars and log lines share it."""
        from rich.console import Console

        return Console(stderr=self._error, highlight=False, emoji=False)

    def print(self, *contents: Any, style: str = "") -> None:
        """Print lines of text as they stand (no markup), and what rich renders, one below the other."""
        for content in contents or ("",):
            self._print(content, style)

    def _print(self, content: Any, style: str) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Text(content, style=style) if isinstance(content, str) else content
        if self.is_terminal:
            self.console.print(_Inert(shown), soft_wrap=isinstance(content, str))
            return
        console = Console(file=self.file, width=UNWRAPPED, highlight=False, emoji=False)
        with console.capture() as captured:
            if isinstance(shown, Table) and shown.title:
                # Rich wraps a title at its table's width.
                console.print(Text(str(shown.title)), soft_wrap=True)
                shown = copy.copy(shown)
                shown.title = None
            console.print(_Inert(shown), soft_wrap=isinstance(content, str))
        lines = captured.get().splitlines()
        # Rich fills table rows up to the longest one.
        self.file.write("".join(f"{line.rstrip()}\n" for line in lines))
        self.file.flush()


class _Inert:
    """What rich renders, without characters that a terminal takes for commands: they come out of foreign files."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(inert(segment.text), segment.style)

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement.get(console, options, self._content)


def inert(text: str) -> str:
    """Return text with what a terminal takes for commands escaped, but for line breaks."""
    return "".join(c if c == "\n" or _is_byte(c) else printable(c) for c in text)


def _is_byte(character: str) -> bool:
    """Return whether a character stands for a byte of a file's name that was never text."""
    return "\udc80" <= character <= "\udcff"


stdout = Output(error=False)
"""Results: what a script may want to read."""

stderr = Output(error=True)
"""Progress, logs and errors."""


_LOG_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


class _LogHandler(logging.Handler):
    """Prints a log record as one line on the error output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stderr.print(f"{record.levelname:8} {self.format(record)}", style=_LOG_STYLES.get(record.levelno, ""))
        except Exception:  # noqa: BLE001 # logging's own rule: a record that cannot be printed ends nothing
            self.handleError(record)


def set_up_logging(verbose: bool) -> None:
    """Send the library's log records to the error output."""
    root = logging.getLogger("deploy_kit")
    root.handlers = [_LogHandler()]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


# -- encodings -----------------------------------------------------------------------------------------------------

_ERRORS = "deploy_kit.degrade"
_ASCII = "deploy_kit_ascii"


def degraded(text: str) -> str:
    """Return text in ASCII: ``→`` as ``->``, ``m/s²`` as ``m/s2``, what has no likeness as ``?``."""
    return "".join(_likeness(character) for character in text)


def _likeness(character: str) -> str:
    if character.isascii():
        return character
    if character in _REPLACEMENTS:
        return _REPLACEMENTS[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def _degrade(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    # Bytes of a file's name that were never text are written back as they came.
    if all(map(_is_byte, found)):
        return bytes(ord(character) - 0xDC00 for character in found), error.end
    return degraded(found), error.end


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=_ASCII,
        encode=ascii_.encode,
        decode=ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder,
        incrementaldecoder=ascii_.incrementaldecoder,
        streamreader=ascii_.streamreader,
        streamwriter=ascii_.streamwriter,
    )


def set_up_encodings() -> None:
    """Let both outputs replace characters that their encoding lacks, instead of ending the command."""
    codecs.register_error(_ERRORS, _degrade)
    codecs.register(_find_codec)
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        # click takes a stream of the codec "ascii" for a mistake and writes UTF-8 to it, under another name not.
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        stream.reconfigure(encoding=_ASCII if is_ascii else stream.encoding, errors=_ERRORS)
