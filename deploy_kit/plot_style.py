"""One look for all plots."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl

_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "figure.dpi": 120,
}


def plot_style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the project's style."""
    return mpl.rc_context(_STYLE)
