"""The list of shards that a feature file written with ``--keep-shards`` points to.

Such a file holds no training or held-out rows of its own. Its datasets are virtual ones over the shards in a folder
beside it, and it lists their names, sizes and SHA-256. The folder's name has the list's hash in it, so that a new
file never writes into the folder of an older one.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self

from deploy_kit.data.schema import HELDOUT, Column, heldout_columns, training_columns
from deploy_kit.data.shard import ShardName

LISTING = "shards"
"""Dataset with the list: JSON text as bytes."""

LISTING_SHA256 = "shards_sha256"
"""Attribute with the list's hash."""

ROOT = ""
"""Group of the training rows."""


@dataclass(frozen=True)
class ListedShard:
    """One shard.

    Attributes:
        name: name of its file.
        size: bytes.
        sha256: of its bytes.
        training: training rows.
        heldout: held-out rows.
    """

    name: str
    size: int
    sha256: str
    training: int
    heldout: int

    def rows(self, group: str) -> int:
        """Return the rows of a group."""
        return self.heldout if group == HELDOUT else self.training


class Span(NamedTuple):
    """Which rows of a dataset lie in a shard: from `start` to before `stop`."""

    shard: ListedShard
    start: int
    stop: int


@dataclass(frozen=True)
class ShardListing:
    """All shards of a feature file, in the order of its rows.

    Attributes:
        stem: name of the feature file when it was written.
        shards: the shards.
    """

    stem: str
    shards: tuple[ListedShard, ...]

    @property
    def text(self) -> str:
        """JSON text."""
        return json.dumps({"stem": self.stem, "shards": [asdict(shard) for shard in self.shards]})

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Name of the folder beside the feature file."""
        return f"{self.stem}.shards-{self.sha256[:12]}"

    def total(self, group: str) -> int:
        """Return the rows of a group in all shards."""
        return sum(shard.rows(group) for shard in self.shards)

    def spans(self, group: str) -> Iterator[Span]:
        """Yield where each shard's rows of a group are; shards without any are left out."""
        ends = accumulate(shard.rows(group) for shard in self.shards)
        for shard, stop in zip(self.shards, ends, strict=True):
            if shard.rows(group):
                yield Span(shard, stop - shard.rows(group), stop)

    def source(self, shard: ListedShard) -> str:
        """Return how a virtual dataset names a shard; HDF5 takes a percent sign for a pattern unless it is doubled."""
        return f"{self.folder}/{shard.name}".replace("%", "%%")

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return what `text` says.

        Raises:
            ValueError: it is something else, or names a file outside the folder.
        """
        if not isinstance(data, dict) or data.keys() != {"stem", "shards"} or not isinstance(data["shards"], list):
            raise ValueError("it is not a list that collect writes")
        stem = data["stem"]
        if not isinstance(stem, str) or not stem or Path(stem).name != stem or not stem.isprintable():
            raise ValueError("its folder is not a name")
        shards = []
        for entry in data["shards"]:
            if not isinstance(entry, dict) or entry.keys() != ListedShard.__annotations__.keys():
                raise ValueError("an entry is not one that collect writes")
            shard = ListedShard(**entry)
            counts = (shard.size, shard.training, shard.heldout)
            if not all(type(count) is int and 0 <= count < 2**60 for count in counts):
                raise ValueError("a size is not a number")
            if not isinstance(shard.name, str) or ShardName.parse(shard.name) is None:
                raise ValueError("a name is not a shard's")
            if not isinstance(shard.sha256, str) or not re.fullmatch("[0-9a-f]{64}", shard.sha256):
                raise ValueError("a hash is not a SHA-256")
            shards.append(shard)
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("a shard stands there twice")
        return cls(stem, tuple(shards))


def listed_columns(feature_size: int) -> Iterator[tuple[str, Column]]:
    """Yield group and column of each dataset whose rows are in the shards."""
    yield from ((ROOT, column) for column in training_columns(feature_size))
    yield from ((HELDOUT, column) for column in heldout_columns(feature_size))
