"""Pictures of one pixel, for tests whose claim is another: drawing takes longer than all else that they do."""

from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
"""A PNG."""


def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files of one pixel wherever finetuning or a flight would draw."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", _save_blank)
    monkeypatch.setattr("deploy_kit.finetuning.run.write_plots", _blank_plots)


def _save_blank(figure: Any, target: Any, **options: Any) -> None:
    # A page keeps its pictures in memory.
    (target.write if hasattr(target, "write") else target.write_bytes)(PIXEL)


def _blank_plots(folder: Path, judged: Any, heads: Any, epochs: Any, optimum: Any, source: str) -> Sequence[Path]:
    names = ["training.png", "curves.png", "reliability.png", "probabilities.png"]
    paths = [folder / name for name in [*names, *(["events.png"] if judged.timeline is not None else [])]]
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.write_bytes(PIXEL)
    return paths
