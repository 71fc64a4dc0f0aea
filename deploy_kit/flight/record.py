"""The JSON record of flights: what flew, how, one row an episode, and the summary figures."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deploy_kit import __version__
from deploy_kit.data.schema import utc_now
from deploy_kit.files import replace_file
from deploy_kit.flight.episodes import FlightStatistics
from deploy_kit.flight.first_episodes import Flight
from deploy_kit.flight.flown_policy import PolicyIdentity
from deploy_kit.flight.paired import PairedDifference
from deploy_kit.sim.tracks import Track

SCHEMA_VERSION = 1

_PACKAGES = ("torch", "numpy", "onnxruntime", "mujoco", "isaaclab")
"""Packages whose versions a flight depends on."""


@dataclass(frozen=True)
class EpisodeRow:
    """The first episode of one environment.

    Attributes:
        env: index of the environment.
        track_id: identity of its track, None if the environment does not tell.
        track_kind: how the track was laid out, likewise.
        track_difficulty: 0 to 1, likewise.
        gates: gates passed.
        crashed: whether it ended otherwise than by its time.
        steps: policy steps.
        duration_s: seconds.
        mean_speed: over its steps, m/s; None if the environment does not report it.
    """

    env: int
    track_id: int | None
    track_kind: str | None
    track_difficulty: float | None
    gates: int
    crashed: bool
    steps: int
    duration_s: float
    mean_speed: float | None


def episode_rows(flight: Flight, tracks: Sequence[Track | None], period: float) -> tuple[EpisodeRow, ...]:
    """Return one row an episode.

    Args:
        flight: what was flown.
        tracks: the track that each environment began on, None where it has none to show.
        period: seconds a step.
    """
    episodes = flight.episodes
    speed = episodes.mean_speed
    return tuple(
        EpisodeRow(
            env=env,
            track_id=None if episodes.track_id is None else int(episodes.track_id[env]),
            track_kind=None if track is None else str(track.kind),
            track_difficulty=None if track is None else float(track.difficulty),
            gates=int(episodes.gates[env]),
            crashed=bool(episodes.crashed[env]),
            steps=int(episodes.length[env]),
            duration_s=float(episodes.length[env] * period),
            mean_speed=None if speed is None else float(speed[env]),
        )
        for env, track in enumerate(tracks)
    )


@dataclass(frozen=True)
class PolicyFlight:
    """The flights of one policy.

    Attributes:
        policy: which one.
        statistics: over the first episode of each environment.
        episodes: one row each.
    """

    policy: PolicyIdentity
    statistics: FlightStatistics
    episodes: tuple[EpisodeRow, ...]


@dataclass(frozen=True)
class FlightComparison:
    """Two policies on the same starts.

    Attributes:
        paired: whether each pair of episodes began with the same observation.
        differences: figures of the second policy minus those of the first.
    """

    paired: bool
    differences: tuple[PairedDifference, ...]


def write_record(
    path: Path, flights: Sequence[PolicyFlight], comparison: FlightComparison | None, options: Mapping[str, Any]
) -> None:
    """Write the record; an interrupted write leaves the old file.

    Args:
        path: target.
        flights: one a policy.
        comparison: comparison of two.
        options: how they were flown, as `dataclasses.asdict` gives them.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": utc_now(),
        "options": options,
        "versions": _versions(),
        "flights": [
            {
                "name": flight.policy.path.name,
                "policy": asdict(flight.policy),
                "statistics": flight.statistics.to_json(),
                "episodes": [asdict(row) for row in flight.episodes],
            }
            for flight in flights
        ],
        "comparison": None if comparison is None else asdict(comparison),
    }
    text = json.dumps(_plain(record), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _versions() -> dict[str, str]:
    found = {"deploy_kit": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """Return JSON values; the infinite interval of a single episode is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
