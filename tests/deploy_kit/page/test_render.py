import math
import re
from importlib.resources import files

import pytest

from deploy_kit.page.blocks import Cell, Facts, Gap, Note, Page, Picture, Section, Table, Verdict, Widget
from deploy_kit.page.render import render_page, write_page
from helpers.pages import assert_self_contained, parse_problems

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- --><![CDATA[",
    "a\x00b\x1b[31mc\r\nd",
    "left\u202eright\u2028next\udc80end",
    "&lt;b&gt;&amp;",
    "javascript:alert(1)",
]

SHOWN = {
    "a\x00b\x1b[31mc\r\nd": r"a\x00b\x1b[31mc\r\nd",
    "left\u202eright\u2028next\udc80end": r"left\u202eright\u2028next\udc80end",
}
"""Control characters, marks of direction and halves of pairs are shown as escapes."""


def page_of(name: str) -> Page:
    return Page(
        title=f"t {name}",
        verdict=Verdict(f"h {name}", "good", (f"l {name}",)),
        sections=(
            Section(
                f"s {name}",
                (
                    Facts({f"f {name}": f"v {name}"}),
                    Table("numbers", ("row", f"c {name}"), ((Cell(f"r {name}"), Cell(name, f"d {name}")),), note=name),
                    Picture(b"png", alt=name, caption=f"p {name}"),
                    Note(f"n {name}"),
                    Gap(f"g {name}", f"w {name}"),
                    Widget("threshold", {"name": name, name: 1}, label=name, needs_plotly=False),
                ),
            ),
        ),
        footer=f"e {name}",
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_obeyed(name):
    page = assert_self_contained(render_page(page_of(name)))
    plain = assert_self_contained(render_page(page_of("plain")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    shown = SHOWN.get(name, name)
    for place in "thlsfvpngwe":
        assert f"{place} {shown}" in page.text
    assert page.tables["numbers"] == [["row", f"c {shown}"], [f"r {shown}", f"{shown} d {shown}"]]
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts == [shown]
    # Data keep their characters; scripts show them as text alone.
    assert page.data == [{"name": name, name: 1}]
    assert len(page.scripts) == len(plain.scripts)


def test_the_verdict_comes_first_and_the_order_is_kept():
    text = assert_self_contained(render_page(page_of("x"))).text
    places = [text.index(f"{place} x") for place in ("h", "l", "s", "f", "p", "n", "g", "e")]
    assert places == sorted(places)


def test_tables_tell_rows_and_columns_to_whoever_hears_them():
    table = Table("errors", ("check", "share"), ((Cell("onnx"), Cell("0.30", tone="good", share=0.3)),))
    source = render_page(Page("t", Verdict("h"), (Section("s", (table,)),)))
    page = assert_self_contained(source)
    headers = [attributes for tag, attributes in page.tags if tag == "th"]
    assert [header["scope"] for header in headers] == ["col", "col", "row"]
    assert ("td", {"class": "good"}) in page.tags
    assert '<span style="width:30.0%"></span>' in source
    region = next(attributes for tag, attributes in page.tags if attributes.get("role") == "region")
    assert (region["tabindex"], region["aria-label"]) == ("0", "errors")


@pytest.mark.parametrize(("share", "width"), [(0.0, "0.0%"), (7.5, "100.0%"), (math.inf, "100.0%")])
def test_a_bar_stays_in_its_cell(share, width):
    table = Table("errors", ("check", "share"), ((Cell("onnx"), Cell("x", share=share)),))
    assert f"width:{width}" in render_page(Page("t", Verdict("h"), (Section("s", (table,)),)))


def test_data_that_json_has_not_are_refused():
    page = Page("t", Verdict("h"), (Section("s", (Widget("threshold", {"x": math.nan}, "w", False),)),))
    with pytest.raises(ValueError, match="JSON"):
        render_page(page)


def test_only_a_page_with_widgets_has_plotly_and_may_compile():
    def with_block(block):
        return render_page(Page("t", Verdict("h"), (Section("s", (block,)),)))

    plain, drawn = with_block(Note("n")), with_block(Widget("threshold", {}, "w"))
    assert "unsafe-eval" not in plain
    assert len(plain) < 20_000
    page = assert_self_contained(drawn)
    assert any("plotly.js v" in script[:200] for script in page.scripts)
    assert len(drawn) < 2_500_000


def test_the_same_page_has_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_page(tmp_path / "deep" / name, page_of("x"))
    assert (tmp_path / "deep" / "a.html").read_bytes() == (tmp_path / "deep" / "b.html").read_bytes()
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"a.html", "b.html"}


SCRIPTS = sorted(
    path.name for path in files("deploy_kit.page").joinpath("templates").iterdir() if path.name.endswith(".js")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_cannot_end_their_element(name):
    script = files("deploy_kit.page").joinpath("templates", name).read_text()
    assert parse_problems(script) == []
    assert parse_problems(script + "\nlet = (;") != []
    assert "</script" not in script.lower()
    assert "<!--" not in script
    # Text from the data never becomes HTML, and nothing is fetched.
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttp"):
        assert word not in script


def test_every_style_has_a_dark_twin():
    style = files("deploy_kit.page").joinpath("templates", "style.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]

    def names(text):
        return set(re.findall(r"(--[\w-]+):", text))

    assert names(light) == names(dark.split("* {")[0]) != set()
