"""Options that every vector environment of the racing task takes."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.task.racing import STAGES
from deploy_kit.task.tracks import TRACK_PROPORTIONS, TrackKind
from deploy_kit.text import did_you_mean

if TYPE_CHECKING:  # the command line takes its defaults from here, and its help needs no numpy
    import numpy as np

Finish = Literal["end", "cyclic"]

TRACK_STREAM, AIRFRAME_STREAM, EPISODE_STREAM, SENSOR_STREAM, LEVEL_STREAM = range(5)
"""What the generators of an environment are for."""


@dataclass(frozen=True)
class EnvOptions:
    """Options of a vector environment.

    Attributes:
        num_envs: environments.
        seed: seed of everything random, environment by environment: environment i is the same whatever
            `num_envs` is.
        stage: training stage, 0, 1 or 2.
        tracks: track kinds to draw from, in the task's proportions renormalised over those given.
        obstacles: whether tracks have obstacles.
        randomisation: whether airframe, drag, gains and thrust error are randomised.
        difficulty: difficulty of every track, 0 to 1; None draws it per track.
        episodes_per_track: 0 keeps one track per environment for ever; n draws a new one after n episodes.
        num_threads: threads that step environments; None for one per four environments, at most one per usable core.
        device: torch device of what `step` returns.
        finish: what follows the last gate of a track that is not closed (zigzag). "end": while the drone flies to the
            last gate, the next one is placed straight on, and passing the last one ends the episode as a time-out.
            "cyclic": as in MasterRacing's training, the next one is the first gate, some 35 m behind the drone.
        track_pool: how many tracks environments share: environment i begins on track i modulo it. None for a track
            each, on Isaac Lab within limits; there new tracks are drawn from the pool. With `levels` the number of
            tracks in all levels, 200 for None.
        levels: tracks in ten levels of difficulty, as in MasterRacing's training. Environments begin at one of the
            six lowest, in equal parts, and move up and down with their success. Which tracks an environment flies
            then depends on `num_envs`: the columns of the grid are shared out evenly.
        neighbours: with `levels`: the tracks lie side by side on tiles of 40 m, as in MasterRacing's training, and
            what stands on neighbouring tiles is seen and solid.
        extensions: modules to import before a task is looked up, since they register it.
        launcher: Isaac Lab: arguments of its launcher.
    """

    num_envs: int = 16
    seed: int = 0
    stage: int = 2
    tracks: tuple[str, ...] = ("circular", "zigzag", "ellipse")
    obstacles: bool = True
    randomisation: bool = True
    difficulty: float | None = None
    episodes_per_track: int = 0
    num_threads: int | None = None
    device: str = "cpu"
    finish: Finish = "end"
    track_pool: int | None = None
    extensions: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    levels: bool = False
    neighbours: bool = False

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is out of range.
            TaskError: a track kind is unknown.
        """
        if self.num_envs < 1:
            raise OptionError(f"num_envs is {self.num_envs}; at least one environment is needed")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}; give a number from 0")
        if not 0 <= self.stage < len(STAGES):
            raise OptionError(f"stage is {self.stage}; the task has the stages 0 to {len(STAGES) - 1}")
        if self.difficulty is not None and not 0.0 <= self.difficulty <= 1.0:
            raise OptionError(
                f"difficulty is {self.difficulty}, outside [0, 1]; give a number from 0 (easy) to 1 (hard)"
            )
        if self.episodes_per_track < 0:
            raise OptionError(
                f"episodes_per_track is {self.episodes_per_track}; give 0 (for ever) or a positive number"
            )
        if self.num_threads is not None and self.num_threads < 1:
            raise OptionError(f"num_threads is {self.num_threads}; at least one thread is needed")
        if self.track_pool is not None and self.track_pool < 1:
            raise OptionError(f"track_pool is {self.track_pool}; at least one track is needed")
        if self.finish not in ("end", "cyclic"):
            raise OptionError(f"finish is {self.finish!r}; it is 'end' or 'cyclic'")
        if self.levels and (self.difficulty is not None or self.episodes_per_track):
            name = "difficulty" if self.difficulty is not None else "episodes_per_track"
            raise OptionError(f"levels choose each drone's track: leave {name} out")
        if self.neighbours and not self.levels:
            raise OptionError("neighbours are those of a track in the grid of levels: ask for levels too")
        check_kinds(self.tracks)


def check_kinds(kinds: tuple[str, ...]) -> tuple[TrackKind, ...]:
    """Return the track kinds.

    Raises:
        OptionError: none is given.
        TaskError: one is unknown.
    """
    if not kinds:
        raise OptionError(f"no track kind given; choose among {', '.join(TRACK_PROPORTIONS)}")
    for kind in kinds:
        if kind not in TRACK_PROPORTIONS:
            raise TaskError(f"unknown track kind {kind!r}{did_you_mean(kind, TRACK_PROPORTIONS)}")
    return tuple(kind for kind in TRACK_PROPORTIONS if kind in kinds)


def track_seed(seed: int, env: int, counter: int) -> int:
    """Return the seed of the counter-th track that an environment flies."""
    return int(environment_generator(seed, env, TRACK_STREAM, counter).integers(0, 2**63))


def environment_seed(seed: int, env: int, stream: int, counter: int = 0) -> "np.random.SeedSequence":
    """Return the seed of one of the generators that belong to an environment, whatever the other environments do."""
    import numpy as np

    return np.random.SeedSequence(seed, spawn_key=(env, stream, counter))


def environment_generator(seed: int, env: int, stream: int, counter: int = 0) -> "np.random.Generator":
    """Return one of the generators that belong to an environment."""
    import numpy as np

    return np.random.Generator(np.random.SFC64(environment_seed(seed, env, stream, counter)))


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
