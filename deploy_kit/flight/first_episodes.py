"""The one loop over first episodes, which fly and verify share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from deploy_kit.errors import TaskError
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.flight.meter import Meter
from deploy_kit.flight.rollout import Driver, StepRecord, rollout
from deploy_kit.progress import Progress, silent

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv


@dataclass(frozen=True)
class Flight:
    """First episodes of all environments under one driver.

    Attributes:
        episodes: what happened in them.
        first_observation: (N, size) the observations that they began with.
    """

    episodes: FirstEpisodes
    first_observation: torch.Tensor

    def starts_like(self, other: "Flight") -> bool:
        """Return whether every episode of both flights began with the same observation, so that they are pairs."""
        return torch.equal(self.first_observation, other.first_observation)


def fly_first_episodes(
    env: "VecEnv",
    driver: Driver,
    watch: Callable[[StepRecord], None] | None = None,
    progress: Callable[[Progress], None] = silent,
    phase: str = "flights",
) -> Flight:
    """Fly until every environment has finished its first episode.

    Args:
        env: freshly made; it is not closed.
        driver: who flies.
        watch: sees every step of all environments, before it is counted.
        progress: told the steps flown, of those of the longest episode, about ten times a second.
        phase: name of this flight in `progress`.

    Raises:
        TaskError: the driver returned an action that is not finite, or episodes do not end.
    """
    episodes, meter = FirstEpisodes(env.num_envs), Meter(env.num_envs)
    longest = int(env.max_episode_length)
    limit = longest + 1
    first: torch.Tensor | None = None

    def report(steps: int) -> None:
        ended = int((~episodes.alive).sum())
        note = f"{ended} of {env.num_envs} episodes ended, {meter.note()}"
        progress(Progress(phase, min(steps, longest), longest, note))

    report(0)
    for record in rollout(env, driver, limit):
        if first is None:
            first = record.observation.cpu().clone()
        if watch is not None:
            watch(record)
        episodes.add(record)
        if meter.due() and not episodes.complete:
            report(record.step + 1)
        if episodes.complete:
            break
    if first is None or not episodes.complete:
        raise TaskError(
            f"{int(episodes.alive.sum())} episodes had not ended after {limit} steps; "
            "the environment's max_episode_length must bound them"
        )
    report(longest)
    return Flight(episodes, first)
