"""Runs of any number of rows in batches of the size that a graph has."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


def in_batches(
    run: Callable[[Arrays], Arrays], feed: Arrays, size: int | None, axes: Mapping[str, int] | None = None
) -> Arrays:
    """Return the outputs for all rows of a feed.

    Args:
        run: runs one batch.
        feed: inputs by name, all of as many rows.
        size: rows of each batch, the last one filled up with its last row; None for all at once.
        axes: dimension of the rows by input's and output's name, 0 where it does not tell.
    """
    if size is None:
        return run(feed)
    along = axes or {}
    first, values = next(iter(feed.items()))
    rows = values.shape[along.get(first, 0)]
    parts = []
    for start in range(0, rows, size):
        index = np.minimum(np.arange(start, start + size), rows - 1)
        parts.append(run({name: np.take(values, index, along.get(name, 0)) for name, values in feed.items()}))
    outputs = {name: np.concatenate([part[name] for part in parts], along.get(name, 0)) for name in parts[0]}
    # Of a graph that gives fewer rows than it is asked for, what it gives.
    return {name: values[(slice(None),) * along.get(name, 0) + (slice(rows),)] for name, values in outputs.items()}
