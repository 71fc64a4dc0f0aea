"""What a feature file holds: datasets, columns, types, attributes.

`docs/feature-file.md` is this module in prose. The two root datasets `features` and `supervision` are laid out as in
the files of the training code that the project grew out of, so either side reads the other's.
"""

import json
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_kit import __version__

SCHEMA_VERSION = 1
ADDED_LATER = ("policy_period_s", "clip_actions", "provenance", "label_function", "label_sha256")
"""Attributes that files of this schema may lack."""

SUFFIX = ".h5"
HELDOUT = "heldout"
OBSERVATIONS = "observations"
CHUNK_ROWS = 256
"""Rows of a chunk: row-wise chunks keep a random row cheap; h5py's own guess made one 60 times slower."""

UNKNOWN_TRACK = -1
"""Track of rows whose environment does not say which track it is on."""

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""Row-aligned arrays by column name."""


class Column(NamedTuple):
    """One row-aligned dataset.

    Attributes:
        name: dataset name.
        dtype: stored type.
        width: numbers a row; None for a dataset of rank one.
    """

    name: str
    dtype: np.dtype[Any]
    width: int | None = None

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the dataset's shape for a number of rows."""
        return (rows,) if self.width is None else (rows, self.width)


class KeepReason(IntFlag):
    """Why a whole observation was kept; several may apply."""

    ORDINARY = 0
    GATE_PASS = 1
    STALE_IMAGE = 2
    FIRST_STEP = 4


ID_COLUMNS = (
    Column("episode_id", np.dtype(np.int64)),
    Column("env_id", np.dtype(np.int32)),
    Column("track_id", np.dtype(np.int64)),
    Column("step", np.dtype(np.int32)),
)
"""Where a row comes from: episode, environment, track (from its seed), step within the episode from 0."""

SUPERVISION = Column("supervision", np.dtype(np.int8), 1)
IS_TEST = Column("is_test", np.dtype(np.bool_))
REASON = Column("reason", np.dtype(np.uint8))


def features_column(feature_size: int) -> Column:
    """Return the column of fused features."""
    return Column("features", np.dtype(np.float32), feature_size)


def training_columns(feature_size: int) -> tuple[Column, ...]:
    """Return the columns of the training rows, at the file's root."""
    return (features_column(feature_size), SUPERVISION, *ID_COLUMNS)


def heldout_columns(feature_size: int) -> tuple[Column, ...]:
    """Return the columns of group `heldout`: whole consecutive episodes."""
    return (*training_columns(feature_size), IS_TEST)


def observation_columns(feature_size: int, observation_size: int) -> tuple[Column, ...]:
    """Return the columns of group `observations`: what the policy saw, whole."""
    return (
        Column("observation", np.dtype(np.float32), observation_size),
        *training_columns(feature_size),
        REASON,
    )


def utc_now() -> str:
    """Return the present time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class FeatureFileInfo:
    """The root attributes of a feature file: how its rows came about.

    The fields up to `created_utc` are given by whoever collects; the writer fills in the others.

    Attributes:
        feature_size: width of the features.
        feature_sha256: fingerprint of what the features depend on: normaliser, stem, state encoder.
        policy_sha256: sha256 of the whole checkpoint file that flew.
        label_rule: rule, in words, when `supervision` is 1.
        label_threshold_m: distance that the rule speaks of, m.
        label_offset_steps: steps between the observation of a row and the state that its label was judged on.
        policy_period_s: duration of a step, s; NaN in files of earlier versions, which do not say.
        clip_actions: limit of the actions' size that the task applied; NaN for none, and in files of earlier versions.
        seed: seed of the collection.
        stage: training stage of the environment.
        backend: simulator back end.
        env_config: the environment's options, plain JSON data.
        provenance: the flights that the rows come from (`segments`) and how many episodes were left out
            (`dropped_episodes`), plain JSON data; empty in files of earlier versions.
        label_function: ``module:function`` that judged the labels; empty where the task's group `auxiliary` did.
        label_sha256: hash of the source file of that function; empty likewise.
        feature_layer: what the features are, in the network's terms.
        tool_version: version of deploy-kit that wrote the file.
        created_utc: when writing began, ISO 8601.
        schema_version: version of this layout.
        complete: whether all rows that were asked for are there.
        requested_positive: positive training rows asked for.
        requested_negative: negative training rows asked for.
        rows_seen: rows offered as training rows, kept or not.
        prevalence: share of positives among `rows_seen`; NaN without any.
        positive_rate: share of the positives seen that were kept.
        negative_rate: share of the negatives seen that were kept, each with the same probability.
    """

    feature_size: int
    feature_sha256: str
    policy_sha256: str
    label_rule: str
    label_threshold_m: float
    label_offset_steps: int
    seed: int
    stage: int
    backend: str
    env_config: dict[str, Any] = field(default_factory=dict)
    policy_period_s: float = float("nan")
    clip_actions: float = float("nan")
    provenance: dict[str, Any] = field(default_factory=dict)
    label_function: str = ""
    label_sha256: str = ""
    feature_layer: str = "act(stem(depth) + state_enc(state))"
    tool_version: str = __version__
    created_utc: str = field(default_factory=utc_now)
    schema_version: int = SCHEMA_VERSION
    complete: bool = False
    requested_positive: int = 0
    requested_negative: int = 0
    rows_seen: int = 0
    prevalence: float = float("nan")
    positive_rate: float = float("nan")
    negative_rate: float = float("nan")

    def to_attributes(self) -> dict[str, str | int | float | np.bool_]:
        """Return the attributes as stored: JSON text for mappings, full precision floats."""
        stored: dict[str, str | int | float | np.bool_] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, dict):
                value = json.dumps(value, sort_keys=True)
            stored[item.name] = np.bool_(value) if isinstance(value, bool) else value
        return stored

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON data, None for NaN."""
        return {item.name: None if (value := getattr(self, item.name)) != value else value for item in fields(self)}

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "FeatureFileInfo":
        """Return what `to_plain` gave.

        Raises:
            ValueError: the data are something else.
        """
        known = {item.name for item in fields(cls)}
        if not known - set(ADDED_LATER) <= data.keys() <= known:
            raise ValueError(f"attributes {sorted(data.keys() ^ known)} are missing or unknown")
        values: dict[str, Any] = {name: float("nan") if value is None else value for name, value in data.items()}
        return cls(**values)
