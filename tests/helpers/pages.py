"""Reads a page as a browser would: its text, tables, scripts and data, with what is not well formed named."""

import base64
import gzip
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import tree_sitter
import tree_sitter_javascript

VOID = {"meta", "link", "img", "br", "input"}


@dataclass
class PageContent(HTMLParser):
    """What a page holds.

    `text` is what is shown, `tables` the texts of the cells by caption, `data` the widgets' JSON, `scripts` the
    scripts that run, `tags` every tag with its attributes.
    """

    source: str
    text: str = ""
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    data: list[dict] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self._open, self._row, self._caption = [], [], ""
        self.feed(self.source)
        self.close()
        if self._open:
            self.problems.append(f"not closed: {[name for name, _ in self._open]}")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th"):
            self._row.append("")
        elif tag == "caption":
            self._caption = ""

    def handle_endtag(self, tag):
        if not self._open or self._open[-1][0] != tag:
            self.problems.append(f"</{tag}> within {[name for name, _ in self._open]}")
            return
        self._open.pop()
        if tag == "tr":
            self.tables.setdefault(self._caption, []).append(self._row)

    def handle_data(self, data):
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script":
            kind = attributes.get("type")
            if kind is None:
                self.scripts.append(data)
            elif kind == "application/json":
                self.data.append(json.loads(data))
            else:
                self.scripts.append(gzip.decompress(base64.b64decode(data)).decode())
            return
        if tag == "style":
            return
        self.text += data
        names = [name for name, _ in self._open]
        if tag == "caption":
            self._caption += data
        elif self._row and ("td" in names or "th" in names):
            self._row[-1] += data if "small" not in names else f" {data}"


def parse_problems(script: str) -> list[str]:
    """Return the lines of a script at which JavaScript's grammar is not kept."""
    language = tree_sitter.Language(tree_sitter_javascript.language())
    root = tree_sitter.Parser(language).parse(script.encode()).root_node
    found, nodes = [], [root]
    while nodes:
        node = nodes.pop()
        if not node.has_error:
            continue
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text[:60]!r}")
        nodes += node.children
    return found


def assert_self_contained(source: str) -> PageContent:
    """Return a page's content after checking that it is well formed and refers to nothing outside."""
    page = PageContent(source)
    assert page.problems == []
    outside = [
        (tag, name, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster") and not (value or "").startswith("data:")
    ]
    assert outside == []
    assert [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "form", "base")] == []
    assert not re.search(r"@import|url\((?!data:)", "".join(re.findall(r"<style>(.*?)</style>", source, re.DOTALL)))
    assert [name for _, attributes in page.tags for name in attributes if name.startswith("on")] == []
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    return page
