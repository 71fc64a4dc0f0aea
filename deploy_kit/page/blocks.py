"""What a page consists of: plain data, which the template turns into HTML.

Texts are data, never HTML: names of files, tracks or policies may hold anything. The template escapes them and shows
control characters as escapes.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Tone = Literal["good", "bad", "warn", "plain"]
"""How a text is meant: a passed check, a failed one, one that is missing, or none of these."""


@dataclass(frozen=True)
class Verdict:
    """What a reader must know first.

    Attributes:
        headline: the verdict in a few words.
        tone: tone of the headline.
        lines: what must be known to believe it, one sentence each.
    """

    headline: str
    tone: Tone = "plain"
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        detail: smaller text beneath, such as an interval.
        tone: how it is meant.
        share: a bar beneath of this share of the cell, 0 to 1; None for none.
    """

    text: str
    detail: str = ""
    tone: Tone = "plain"
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row.

    Attributes:
        caption: what it shows, for those who see it and for those who hear it.
        columns: headings.
        rows: one tuple a row, as long as `columns`.
        numeric: whether all columns but the first hold numbers, which are aligned to the right.
        note: what a reader should know besides.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: bool = True
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Names with what they stand for.

    Attributes:
        pairs: pairs in order.
    """

    kind: ClassVar[str] = "facts"
    pairs: Mapping[str, str]


@dataclass(frozen=True)
class Picture:
    """A picture, kept in the page.

    Attributes:
        png: content of the file.
        alt: what it shows, in words.
        caption: text beneath.
        small: whether it takes its own width at most, so that several stand side by side.
    """

    kind: ClassVar[str] = "picture"
    png: bytes
    alt: str
    caption: str = ""
    small: bool = False

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Note:
    """A paragraph.

    Attributes:
        text: what it says.
    """

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Gap:
    """What is not shown, and why.

    Attributes:
        what: the thing that is missing.
        why: the reason, and what to do about it.
    """

    kind: ClassVar[str] = "gap"
    what: str
    why: str


@dataclass(frozen=True)
class Widget:
    """A part that a script of the page draws from data.

    Attributes:
        script: name of the script in ``templates/``, without its suffix.
        data: what it draws, plain data for JSON.
        label: what it shows, in words.
        needs_plotly: whether the page must hold plotly's bundle.
    """

    kind: ClassVar[str] = "widget"
    script: Literal["flight", "threshold"]
    data: Mapping[str, Any]
    label: str
    needs_plotly: bool = True


Block = Table | Facts | Picture | Note | Gap | Widget


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        title: heading.
        blocks: content.
        folded: whether it is closed at first.
    """

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: heading and name of the window.
        verdict: shown first.
        sections: sections in order.
        footer: small print.
    """

    title: str
    verdict: Verdict
    sections: tuple[Section, ...] = field(default=())
    footer: str = ""

    @property
    def widgets(self) -> tuple[Widget, ...]:
        """All parts that scripts draw."""
        return tuple(b for section in self.sections for b in section.blocks if isinstance(b, Widget))
