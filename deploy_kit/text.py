"""Text for messages: suggestions for misspelt names, and foreign text on one printable line."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the nearest known names, if any is near, and all known ones."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (known: {', '.join(names)})"


def printable(text: object) -> str:
    """Return text from a file with line breaks and control characters escaped, for a message."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def one_line(error: Exception) -> str:
    """Return an exception's message on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300]
