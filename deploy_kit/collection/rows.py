"""From rollout steps to the rows of a feature file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deploy_kit.data.sampling import KeyedSample
from deploy_kit.data.schema import UNKNOWN_TRACK, KeepReason
from deploy_kit.data.snapshot import stored_count
from deploy_kit.flight.rollout import StepRecord


@dataclass(frozen=True)
class StepRows:
    """One step of all environments as numpy arrays, each (N, …); whole observations stay where they are."""

    observation: Tensor
    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.int8]
    episode_id: npt.NDArray[np.int64]
    env_id: npt.NDArray[np.int32]
    track_id: npt.NDArray[np.int64]
    step: npt.NDArray[np.int32]
    reason: npt.NDArray[np.uint8]

    def columns(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a training row for the given environments."""
        names = ("features", "label", "episode_id", "env_id", "track_id", "step")
        return {name: getattr(self, name)[rows] for name in names}


class RowMaker:
    """Turns step records into rows and numbers the episodes.

    Args:
        num_envs: number of environments.
        first_id: number of the first episode.
        first_env: number of the first environment among those of all processes.

    Attributes:
        env_id: (N,) number of each environment.
        own_track: (N,) track ids for an environment that reports none.
    """

    def __init__(self, num_envs: int, first_id: int = 0, first_env: int = 0) -> None:
        self.env_id = first_env + np.arange(num_envs, dtype=np.int32)
        self._episode = first_id + np.arange(num_envs, dtype=np.int64)
        self.own_track = np.full(num_envs, UNKNOWN_TRACK, np.int64)
        self._step = np.zeros(num_envs, dtype=np.int32)
        self._next_episode = first_id + num_envs

    def number(self, done: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return each environment's episode and step within it, for one step after the other.

        Args:
            done: where the episode ended with this step, (N,).
        """
        episode, step = self._episode.copy(), self._step.copy()
        ended = np.flatnonzero(done)
        self._step += 1
        self._step[ended] = 0
        self._episode[ended] = self._next_episode + np.arange(ended.size)
        self._next_episode += ended.size
        return episode, step

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return where the numbering stands, for a snapshot."""
        return {
            "rows.episode": self._episode.copy(),
            "rows.step": self._step.copy(),
            "rows.next_episode": np.array([self._next_episode], np.int64),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on numbering from a `state`.

        Raises:
            KeyError: an array is missing.
            ValueError: it is of another number of environments, or holds no counts.
        """
        numbers = ((self._episode, "rows.episode"), (self._step, "rows.step"))
        for array, name in numbers:
            found = arrays[name]
            if (found.shape, found.dtype) != (array.shape, array.dtype) or (found < 0).any():
                raise ValueError(f"{name} is {found.dtype} {found.shape}, not counts {array.dtype} {array.shape}")
        following = stored_count(arrays, "rows.next_episode")
        if following <= arrays["rows.episode"].max(initial=-1):
            raise ValueError(f"episode {following} comes next and is there already")
        for array, name in numbers:
            array[:] = arrays[name]
        self._next_episode = following

    def rows(self, record: StepRecord) -> StepRows:
        """Return the rows of one step."""
        extras = record.extras
        episode, step = self.number(record.done.cpu().numpy())
        label = record.label.cpu().numpy()
        reason = np.where(label, np.uint8(KeepReason.GATE_PASS), np.uint8(0))
        reason |= np.where(step == 0, np.uint8(KeepReason.FIRST_STEP), np.uint8(0))
        if "fresh_image" in extras:
            reason |= np.where(extras["fresh_image"].cpu().numpy(), np.uint8(0), np.uint8(KeepReason.STALE_IMAGE))
        track = extras["track_id"].cpu().numpy() if "track_id" in extras else self.own_track
        return StepRows(
            observation=record.observation,
            features=record.output.features.cpu().numpy(),
            label=label.astype(np.int8),
            episode_id=episode,
            env_id=self.env_id,
            track_id=track.copy(),
            step=step,
            reason=reason,
        )


class ObservationSample:
    """Draws a seeded uniform sample of whole observations, one share a reason and one of all steps alike.

    Args:
        capacity: observations wanted.
        seed: seed of the sample.
    """

    REASONS = (KeepReason.GATE_PASS, KeepReason.STALE_IMAGE, KeepReason.FIRST_STEP, KeepReason.ORDINARY)

    def __init__(self, capacity: int, seed: int | Iterable[int]) -> None:
        share, rest = divmod(capacity, len(self.REASONS))
        rng = np.random.default_rng(seed if isinstance(seed, int) else list(seed))
        self._samples = {reason: KeyedSample(share + (index < rest), rng) for index, reason in enumerate(self.REASONS)}

    def offer(self, rows: StepRows, envs: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]] | None:
        """Take in one step of the given environments; return what `keep_observations` takes, None if nothing stays."""
        keys = np.full((envs.size, len(self.REASONS)), np.inf)
        for column, (reason, sample) in enumerate(self._samples.items()):
            wanted = (
                np.ones(envs.size, np.bool_) if reason is KeepReason.ORDINARY else (rows.reason[envs] & reason) != 0
            )
            keys[wanted, column] = sample.draw(int(wanted.sum()))
        kept = np.isfinite(keys).any(axis=1)
        if not kept.any():
            return None
        chosen = envs[kept]
        observation = rows.observation[chosen.tolist()].cpu().numpy()
        return {**rows.columns(chosen), "observation": observation, "reason": rows.reason[chosen], "keys": keys[kept]}


class EpisodeSample:
    """Keeps whole episodes, from their first step on, for policies whose memory needs what came before.

    Episodes are taken as they begin, as many as are expected to fit; the last ones may be cut at their end.

    Args:
        capacity: observations wanted.
    """

    AT_FIRST = 4
    """Episodes that are begun before it is known how long they are."""

    def __init__(self, capacity: int) -> None:
        self._left, self._count = capacity, 0
        self._guess = -(-capacity // self.AT_FIRST)
        self._open: dict[int, int] = {}
        self._longest: int | None = None

    def offer(self, rows: StepRows, envs: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]] | None:
        """Take in one step of the given environments; return what `keep_observations` takes, None if nothing stays."""
        begins = envs[rows.step[envs] == 0].tolist()
        for env in {*begins, *(self._open.keys() - set(envs.tolist()))} & self._open.keys():
            self._longest = max(self._longest or 0, self._open.pop(env))
        for env in begins:
            expected = self._longest or self._guess
            promised = sum(max(0, expected - steps) for steps in self._open.values())
            if promised + expected <= self._left or not (self._open or self._count):
                self._open[env] = 0
        kept = np.array([env for env in envs.tolist() if env in self._open][: self._left], np.int64)
        if not kept.size:
            return None
        for env in kept.tolist():
            self._open[env] += 1
        self._left -= kept.size
        # Every reason has a share of the file's observations: by turns, the earliest first.
        number = self._count + np.arange(kept.size)
        self._count += kept.size
        keys = np.full((kept.size, len(ObservationSample.REASONS)), np.inf)
        keys[np.arange(kept.size), number % keys.shape[1]] = number
        observation = rows.observation[kept.tolist()].cpu().numpy()
        return {**rows.columns(kept), "observation": observation, "reason": rows.reason[kept], "keys": keys}
