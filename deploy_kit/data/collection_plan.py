"""What a collection under way is to collect, and its flights so far: `collection.json` of its folder."""

from dataclasses import dataclass, field
from typing import Any, Self

from deploy_kit.data.schema import FeatureFileInfo

FORMAT = 1

MAX_RANKS = 100_000
"""Processes of a flight, as many as names of shards have room for."""


@dataclass(frozen=True)
class Segment:
    """One uninterrupted flight of a collection.

    Attributes:
        ranks: processes.
        job: the launcher's name of the job.
        created_utc: when it began.
        tool_version: version of deploy-kit.
    """

    ranks: int
    job: str
    created_utc: str
    tool_version: str


@dataclass(frozen=True)
class CollectionPlan:
    """What is collected; the same for every process and after every interruption.

    Attributes:
        info: attributes of the feature file, plain JSON data.
        num_positive: positive training rows wanted.
        num_negative: negative training rows wanted.
        sampling_seed: seed of the sampling and of the split of the held-out tracks.
        keep_observations: whole observations wanted, None for all that are given.
        overwrite: whether a file of another collection may be replaced.
        segments: flights so far, the present one included.
        ended: how the last flight ended; empty while it goes on and after a kill.
        made: hash of the layout of the feature file that was last made of the shards; empty if none was.
    """

    info: dict[str, Any]
    num_positive: int
    num_negative: int
    sampling_seed: int
    keep_observations: int | None
    overwrite: bool = False
    segments: tuple[Segment, ...] = field(default=())
    ended: str = ""
    made: str = ""

    @property
    def segment(self) -> int:
        """Number of the present flight."""
        return len(self.segments) - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "segments": [vars(segment) for segment in self.segments],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return what `to_json` gave.

        Raises:
            ValueError: the data are something else.
        """
        # Collections of earlier versions do not say what they may replace and have made.
        data = {"overwrite": False, "made": "", **data}
        if data.get("format") != FORMAT or set(data) != {"format", "segments", *_PLAIN}:
            raise ValueError(f"format {data.get('format')!s:.20}, this deploy-kit reads {FORMAT}")
        try:
            segments = tuple(Segment(**segment) for segment in data["segments"])
        except TypeError as error:
            raise ValueError(str(error)) from error
        info, kept = data["info"], data["keep_observations"]
        names = ("num_positive", "num_negative", "sampling_seed")
        sound = (
            type(data["overwrite"]) is bool
            and isinstance(info, dict)
            and all(isinstance(info.get(name), dict) for name in ("env_config", "provenance"))
            and _is_count(info.get("feature_size"), 1)
            and all(_is_count(data[name]) for name in names)
            and (kept is None or _is_count(kept))
            and all(isinstance(data[name], str) for name in ("ended", "made"))
            and all(_is_segment(segment) for segment in segments)
        )
        if not sound:
            raise ValueError("a value has the wrong type, or is out of range")
        FeatureFileInfo.from_plain(info)
        return cls(**{name: data[name] for name in _PLAIN}, segments=segments)


_PLAIN = (
    "info",
    "num_positive",
    "num_negative",
    "sampling_seed",
    "keep_observations",
    "overwrite",
    "ended",
    "made",
)


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**62


def _is_segment(segment: Segment) -> bool:
    texts = (segment.job, segment.created_utc, segment.tool_version)
    return _is_count(segment.ranks, 1) and segment.ranks <= MAX_RANKS and all(isinstance(text, str) for text in texts)
