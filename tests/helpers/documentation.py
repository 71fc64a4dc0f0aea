"""Tables in the docs that tests hold to the code, and write anew where asked to."""

import os
from pathlib import Path


def documented_block(path: Path, name: str, lines: list[str]) -> None:
    """Assert that a page holds these lines between its markers; DEPLOY_KIT_WRITE_DOCS=1 writes them.

    Args:
        path: the page.
        name: of the markers, ``<!-- name: … -->`` and ``<!-- /name -->``.
        lines: what should stand between them.
    """
    text = path.read_text(encoding="utf-8")
    start = text.index("\n", text.index(f"<!-- {name}:")) + 1
    stop = text.index(f"<!-- /{name} -->")
    wanted = "\n".join(["", *lines, "", ""])
    if os.environ.get("DEPLOY_KIT_WRITE_DOCS") == "1":
        path.write_text(text[:start] + wanted + text[stop:], encoding="utf-8")
        return
    assert text[start:stop] == wanted, f"{path.name}: run the test with DEPLOY_KIT_WRITE_DOCS=1"
