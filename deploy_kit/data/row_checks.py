"""Checks of rows before they are stored."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy_kit.data.schema import ID_COLUMNS, Array, Columns
from deploy_kit.errors import DatasetError


class RowChecks:
    """Turns what a simulator gives into columns.

    Args:
        path: the feature file, for messages.
        feature_size: width of the features.
    """

    def __init__(self, path: Path, feature_size: int) -> None:
        self._path, self._feature_size = path, feature_size

    def rows(self, features: npt.ArrayLike, label: npt.ArrayLike, *ids: npt.ArrayLike) -> Columns:
        """Return the columns that every row has.

        Args:
            features: (n, F) float32.
            label: (n,) or (n, 1), 0 or 1.
            ids: (n,) episode, environment, track and step.

        Raises:
            DatasetError: rows are malformed or not finite.
        """
        labels = np.array(label).reshape(-1, 1)
        count = len(labels)
        if not np.isin(labels, (0, 1)).all():
            raise DatasetError(
                f"{self._path}: label {labels[~np.isin(labels, (0, 1))][0]} to be written is neither 0 nor 1"
            )
        rows = {"features": self.array(features, np.float32, "features", (count, self._feature_size))}
        rows["supervision"] = labels.astype(np.int8)
        for column, values in zip(ID_COLUMNS, ids, strict=True):
            rows[column.name] = self.array(values, column.dtype, column.name, (count,))
        return rows

    def array(self, values: npt.ArrayLike, dtype: npt.DTypeLike, name: str, shape: tuple[int, ...]) -> Array:
        """Return a copy of one column, since simulators reuse their buffers and rows wait in memory.

        Raises:
            DatasetError: it has another shape, or is not finite.
        """
        array = np.array(values).astype(dtype)
        if array.shape != shape:
            raise DatasetError(f"{self._path}: {name} to be written has shape {array.shape}, expected {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise DatasetError(
                f"{self._path}: {name} to be written is not finite in row {row} of {len(array)}; check the policy"
            )
        return array
