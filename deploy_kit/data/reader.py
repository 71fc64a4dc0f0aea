"""Opens feature files: structure, labels and row references are checked then, features whenever they are read."""

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import h5py
import numpy as np
import numpy.typing as npt

from deploy_kit.data.layout import (
    allocated_rows,
    check_heldout,
    damage_reported,
    read_info,
    require_own_layout,
    require_stored,
    stored_dataset,
    stored_group,
)
from deploy_kit.data.listed_shards import JoinedDataset, ListedShards, lists_shards
from deploy_kit.data.memory import require_memory
from deploy_kit.data.rows import BLOCK_ROWS, KeptObservations, Matrix, RowDataset, Rows, read_rows
from deploy_kit.data.schema import (
    HELDOUT,
    ID_COLUMNS,
    IS_TEST,
    OBSERVATIONS,
    REASON,
    SUPERVISION,
    Array,
    Column,
    Columns,
    FeatureFileInfo,
    features_column,
)
from deploy_kit.data.stored_rows import StoredRows, require_sound_heaps
from deploy_kit.errors import DatasetError
from deploy_kit.files import file_sha256
from deploy_kit.policy.any_policy import AnyNetwork, feature_size_of, features_sha256

logger = logging.getLogger(__name__)

Split = Literal["validation", "test"]


class FeatureFile:
    """A feature file, open for reading. Use it as a context manager.

    Args:
        path: the file.

    Attributes:
        path: the file.
        attrs: how its rows came about, None for a file of MasterRacing (two root datasets and nothing else).
        train: class-balanced training rows.
        observations: whole observations, None if none were kept.

    Raises:
        DatasetError: the file is missing, no HDF5, truncated, malformed, or without rows.
    """

    attrs: FeatureFileInfo | None
    train: Rows
    observations: KeptObservations | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            with damage_reported(path):
                self.attrs = read_info(path, self._file)
                self._shards: ListedShards | None = None
                if self.attrs is not None and lists_shards(self._file):
                    self._shards = ListedShards(path, self._file, self.attrs.feature_size)
                self.train = self._read_training()
                self._heldout, self._is_test = self._read_heldout()
                self.observations = self._read_observations()
                require_own_layout(path, self._file)
            if not len(self.train) and not self.num_heldout:
                raise DatasetError(f"{path} holds no rows; collect some with: deploy-kit collect")
        except BaseException:
            self._file.close()
            raise

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        return self.train.feature_size

    @property
    def num_heldout(self) -> int:
        """Held-out rows, validation and test together."""
        return 0 if self._heldout is None else len(self._heldout)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file."""
        return file_sha256(self.path)

    def has_heldout(self, split: Split) -> bool:
        """Return whether there are held-out rows of a split."""
        return bool((self._is_test if split == "test" else ~self._is_test).any())

    def heldout(self, split: Split | None = None) -> Rows:
        """Return the held-out rows, whole consecutive episodes.

        Args:
            split: "validation" (for thresholds), "test" (for figures), or None for both.

        Raises:
            DatasetError: the file has none.
        """
        if self._heldout is None or not len(self._heldout):
            raise DatasetError(f"{self.path} has no held-out episodes; collect with --heldout-episodes")
        if split is None:
            return self._heldout
        rows = self._heldout.select(self._is_test if split == "test" else ~self._is_test)
        if not len(rows):
            raise DatasetError(f"{self.path} has no held-out {split} episodes; collect more with --heldout-episodes")
        return rows

    def require_policy(self, network: AnyNetwork) -> None:
        """Check that the features are this policy's.

        Args:
            network: the policy that the rows are used with.

        Raises:
            DatasetError: their width differs, or they were collected with other weights.
        """
        self.require_features(features_sha256(network), feature_size_of(network))

    def require_features(self, expected: str, width: int) -> None:
        """Check that the features are those of a policy that is known by its hash.

        Args:
            expected: the policy's feature_sha256.
            width: numbers of its features.

        Raises:
            DatasetError: their width differs, or they were collected with other weights.
        """
        if self.feature_size != width:
            raise DatasetError(f"{self.path}: the features have {self.feature_size} columns, the policy's have {width}")
        if self.attrs is None:
            logger.warning(
                "%s does not say which policy its features are from; that they fit is not checked", self.path
            )
            return
        if self.attrs.feature_sha256 != expected:
            raise DatasetError(
                f"{self.path}: collected with another policy (feature_sha256 {self.attrs.feature_sha256:.12}…, "
                f"this policy {expected:.12}…); collect again with this policy, or give the one it was collected with"
            )

    def drop_training_ids(self) -> None:
        """Let go of where the training rows come from: 24 bytes a row in memory that training does not need."""
        self.train = replace(self.train, episode_id=None, env_id=None, track_id=None, step=None)

    def close(self) -> None:
        """Close the file; rows can no longer be read."""
        if self._shards is not None:
            self._shards.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_training(self) -> Rows:
        if self.attrs is not None:
            return self._rows(self._file)
        features = stored_dataset(self.path, self._file, features_column(0))
        labels = stored_dataset(self.path, self._file, SUPERVISION, features.shape[0])
        written = self._written_rows(features)
        if written.size < features.shape[0]:
            logger.warning(
                "%s: %d of %d rows were never written (all zero) and are left out",
                self.path,
                features.shape[0] - written.size,
                features.shape[0],
            )
        supervision = self._column(labels, int(written[-1]) + 1 if written.size else 0)[written]
        return Rows(Matrix(self.path, features, written), supervision, None, None, None, None)

    def _written_rows(self, features: h5py.Dataset) -> npt.NDArray[np.int64]:
        """Rows that are not all zero: MasterRacing allocated files whole and stopped anywhere."""
        stop = allocated_rows(features)
        used = [
            start + np.flatnonzero(read_rows(self.path, features, start, min(start + BLOCK_ROWS, stop)).any(axis=1))
            for start in range(0, stop, BLOCK_ROWS)
        ]
        return np.concatenate(used) if used else np.empty(0, np.int64)

    def _read_heldout(self) -> tuple[Rows | None, Array]:
        group = stored_group(self.path, self._file, HELDOUT) if self.attrs else None
        if group is None:
            return None, np.empty(0, np.bool_)
        rows = self._rows(group)
        is_test = self._column(self._dataset(group, IS_TEST, len(rows)), len(rows))
        columns: Columns = {"is_test": is_test}
        for column in ID_COLUMNS:
            columns[column.name] = getattr(rows, column.name)
        assert self.train.track_id is not None
        check_heldout(self.path, columns, self.train.track_id)
        return rows, is_test

    def _read_observations(self) -> KeptObservations | None:
        group = stored_group(self.path, self._file, OBSERVATIONS) if self.attrs else None
        if group is None:
            return None
        rows = self._rows(group)
        dataset = self._dataset(group, Column("observation", np.dtype(np.float32), 0), len(rows))
        reason = self._column(self._dataset(group, REASON, len(rows)), len(rows))
        return KeptObservations(Matrix(self.path, dataset, rows.index), rows, reason)

    def _rows(self, group: h5py.Group) -> Rows:
        assert self.attrs is not None
        features = self._dataset(group, features_column(self.attrs.feature_size), None)
        count = features.shape[0]
        columns = [self._column(self._dataset(group, column, count), count) for column in (SUPERVISION, *ID_COLUMNS)]
        return Rows(Matrix(self.path, features, np.arange(count)), *columns)

    def _dataset(self, group: h5py.Group, column: Column, rows: int | None) -> StoredRows | JoinedDataset:
        """Return a dataset whose rows are there: in this file, or in its shards."""
        name = group.name.strip("/")
        if self._shards is not None and name != OBSERVATIONS:
            return self._shards.column(name, column)
        dataset = stored_dataset(self.path, group, column, rows)
        require_stored(self.path, dataset)
        return StoredRows(self.path, dataset)

    def _column(self, dataset: RowDataset, rows: int) -> Array:
        require_memory(rows * dataset.dtype.itemsize, f"{self.path}: reading {dataset.name}")
        values = read_rows(self.path, dataset, 0, rows)
        if dataset.name.rsplit("/", 1)[-1] == SUPERVISION.name:
            wrong = np.flatnonzero((values != 0) & (values != 1))
            if wrong.size:
                raise DatasetError(
                    f"{self.path}: {dataset.name} is {values[wrong[0], 0]} in row {wrong[0]}; labels are 0 or 1"
                )
        return values


def open_feature_file(path: Path) -> FeatureFile:
    """Open a feature file for reading; see `FeatureFile`."""
    return FeatureFile(path)


def _open(path: Path) -> h5py.File:
    if not path.exists():
        # `collect` puts a bare name there.
        there = Path("datasets") / path
        instead = f"{there} does: give that" if there.is_file() else "collect it with: deploy-kit collect"
        raise DatasetError(f"{path} does not exist; {instead}")
    if not path.is_file():
        raise DatasetError(f"{path} is not a file")
    try:
        if not h5py.is_hdf5(path):
            raise DatasetError(f"{path} is not an HDF5 file, or its beginning is damaged")
        require_sound_heaps(path)
        return h5py.File(path, "r")
    except PermissionError as error:
        raise DatasetError(f"{path} cannot be read: no permission") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        hint = "another process writes it" if "lock file" in reason else "it is truncated or damaged"
        raise DatasetError(f"{path} cannot be opened, {hint} ({reason})") from error
