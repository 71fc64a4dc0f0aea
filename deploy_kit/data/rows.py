"""Rows of an open feature file, read in blocks and checked as they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import FloatArray
from deploy_kit.data.layout import damage_reported
from deploy_kit.data.memory import require_memory
from deploy_kit.data.schema import Array
from deploy_kit.errors import DatasetError

BLOCK_ROWS = 16_384
"""Rows read at once (12.6 MB at 192 features)."""


class RowDataset(Protocol):
    """What is read of a dataset; those of HDF5 files have it."""

    @property
    def name(self) -> str:
        """Path within the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and numbers a row."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type."""

    def __getitem__(self, rows: slice) -> Array:
        """Read a range of rows."""


def read_rows(path: Path, dataset: RowDataset, start: int, stop: int) -> Array:
    """Read a range of rows.

    Raises:
        DatasetError: the file is damaged there, or a number is not finite.
    """
    with damage_reported(path):
        block: Array = dataset[start:stop]
    if block.dtype.kind == "f":
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DatasetError(f"{path}: {dataset.name} row {row} holds NaN or Inf; collect again with a sound policy")
    return block


@dataclass(frozen=True)
class Matrix:
    """Some rows of a float dataset, read when asked for.

    Attributes:
        path: the file, for messages.
        dataset: (all rows, width) float32.
        index: (n,) row numbers, ascending.
    """

    path: Path
    dataset: RowDataset
    index: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self.index.size, int(self.dataset.shape[1])

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[FloatArray]:
        """Yield the rows in order, so many at a time.

        Raises:
            DatasetError: the file is damaged, or a number is not finite.
        """
        for start in range(0, self.index.size, rows):
            yield self.part(start, min(start + rows, self.index.size))

    def part(self, start: int, stop: int) -> FloatArray:
        """Return a range of the rows.

        Raises:
            DatasetError: the file is damaged, or a number is not finite.
        """
        index = self.index[start:stop]
        first, last = int(index[0]), int(index[-1])
        block = read_rows(self.path, self.dataset, first, last + 1)
        return block if last - first + 1 == index.size else block[index - first]

    def load(self) -> FloatArray:
        """Return all rows.

        Raises:
            DatasetError: they do not fit into memory, the file is damaged, or a number is not finite.
        """
        require_memory(self.index.size * self.shape[1] * 4, f"{self.path}: reading {self.dataset.name}")
        loaded = np.empty(self.shape, np.float32)
        row = 0
        for block in self.blocks():
            loaded[row : row + len(block)] = block
            row += len(block)
        return loaded


@dataclass(frozen=True)
class RowBlock:
    """A block of rows.

    Attributes:
        index: (n,) row numbers within the dataset.
        features: (n, F).
        supervision: (n, 1) int8, 0 or 1.
    """

    index: npt.NDArray[np.int64]
    features: FloatArray
    supervision: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Rows:
    """Row-aligned training or held-out rows; the features stay in the file until asked for.

    Attributes:
        matrix: the features in the file.
        supervision: (n, 1) int8, 0 or 1.
        episode_id: (n,) int64, None in files of MasterRacing, as the three that follow.
        env_id: (n,) int32.
        track_id: (n,) int64.
        step: (n,) int32, step within the episode, from 0.
    """

    matrix: Matrix
    supervision: npt.NDArray[np.int8]
    episode_id: npt.NDArray[np.int64] | None
    env_id: npt.NDArray[np.int32] | None
    track_id: npt.NDArray[np.int64] | None
    step: npt.NDArray[np.int32] | None

    def __len__(self) -> int:
        return len(self.supervision)

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """(n,) row numbers within the dataset."""
        return self.matrix.index

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        return self.matrix.shape[1]

    @property
    def label(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the row is positive."""
        label: npt.NDArray[np.bool_] = self.supervision[:, 0] != 0
        return label

    @property
    def features(self) -> FloatArray:
        """(n, F) all features, read now; see `Matrix.load` for errors."""
        return self.matrix.load()

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[RowBlock]:
        """Yield features and labels in order, so many rows at a time; see `Matrix.blocks` for errors."""
        start = 0
        for features in self.matrix.blocks(rows):
            stop = start + len(features)
            yield RowBlock(self.index[start:stop], features, self.supervision[start:stop])
            start = stop

    def select(self, mask: npt.NDArray[np.bool_]) -> "Rows":
        """Return the rows where a mask (n,) is set."""
        return Rows(
            Matrix(self.matrix.path, self.matrix.dataset, self.index[mask]),
            self.supervision[mask],
            None if self.episode_id is None else self.episode_id[mask],
            None if self.env_id is None else self.env_id[mask],
            None if self.track_id is None else self.track_id[mask],
            None if self.step is None else self.step[mask],
        )


@dataclass(frozen=True)
class KeptObservations:
    """Whole observations, with the features that the policy made of them when they were collected.

    Attributes:
        matrix: the observations in the file.
        rows: features, labels and row references.
        reason: (K,) uint8 bits of `KeepReason`.
    """

    matrix: Matrix
    rows: Rows
    reason: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def observation(self) -> FloatArray:
        """(K, observation size) all observations, read now; see `Matrix.load` for errors."""
        return self.matrix.load()

    @property
    def features(self) -> FloatArray:
        """(K, F) their features, read now; see `Matrix.load` for errors."""
        return self.rows.features

    def blocks(self, rows: int = 256) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield observations and features in order, so many rows at a time; see `Matrix.blocks` for errors."""
        yield from zip(self.matrix.blocks(rows), self.rows.matrix.blocks(rows), strict=True)
