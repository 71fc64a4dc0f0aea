"""Turns a page into one HTML file that needs no network and no other file."""

import base64
import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deploy_kit.files import replace_file
from deploy_kit.page.blocks import Page
from deploy_kit.text import printable

GENERATOR = '<meta name="generator" content="deploy-kit">'
"""Stands near the top of every page, and tells that a file may be written over."""


def write_page(path: Path, page: Page) -> None:
    """Write a page; an interrupted write leaves the old file.

    Args:
        path: target.
        page: what it shows.

    Raises:
        InputError: the file cannot be written.
    """
    text = render_page(page)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def render_page(page: Page) -> str:
    """Return a page as HTML.

    Raises:
        ValueError: a widget's data holds NaN or infinity, which JSON has not.
    """
    widgets = page.widgets
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            generator=Markup(GENERATOR),
            style=_asset("style.css"),
            scripts=[_asset(f"{name}.js") for name in ("page", *dict.fromkeys(widget.script for widget in widgets))],
            plotly=_plotly() if any(widget.needs_plotly for widget in widgets) else None,
        )
    )


def _shown(value: Any) -> Any:
    """Return a template's value as it is shown: text with its control characters as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deploy_kit.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment


def _asset(name: str) -> Markup:
    """Return a file of the project's own, which goes into the page as it is."""
    return Markup(files("deploy_kit.page").joinpath("templates", name).read_text(encoding="utf-8"))


@cache
def _plotly() -> str:
    """Return plotly.js as its Python package ships it, compressed (1.9 instead of 4.8 MB), in base 64."""
    from plotly.offline import get_plotlyjs

    # Without a time stamp, so that the same page has the same bytes.
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
