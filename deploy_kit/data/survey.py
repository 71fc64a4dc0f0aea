"""What the shards of a collection say together: how each process stood, which episodes and tracks there are."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.schema import HELDOUT, UNKNOWN_TRACK, Array
from deploy_kit.data.shard import TRAINING, Shard, ShardName, ShardState, superseded
from deploy_kit.data.shard_folder import ShardFolder
from deploy_kit.errors import DatasetError

logger = logging.getLogger(__name__)


@dataclass
class Survey:
    """What all shards say, without their features."""

    shards: list[tuple[ShardName, Path]] = field(default_factory=list)
    states: dict[tuple[int, int], ShardState] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    dropped_heldout: set[int] = field(default_factory=set)
    heldout_segment: int = -1
    heldout_episodes: int = 0
    heldout_tracks: set[int] = field(default_factory=set)

    @property
    def limits(self) -> tuple[float, float]:
        """Limits that all rows below are uniform samples within."""
        negative, positive = (min((s.limits[label] for s in self.states.values()), default=1.0) for label in (0, 1))
        return negative, positive

    @property
    def seen(self) -> tuple[int, int]:
        """Negatives and positives seen."""
        negative, positive = (sum(state.seen[label] for state in self.states.values()) for label in (0, 1))
        return negative, positive


def survey_of(folder: ShardFolder, plan: CollectionPlan) -> Survey:
    """Return what the shards say; damaged ones are named and left out."""
    survey, episodes = Survey(), dict[int, int]()
    states, steps = dict[ShardName, ShardState](), dict[ShardName, Array]()
    for name, path in folder.shards():
        try:
            with Shard(path, int(plan.info["feature_size"])) as shard:
                shard.verify()
                states[name], steps[name] = shard.state, shard.column(HELDOUT, "step")
        except DatasetError as error:
            logger.warning("%s; it is left out", error)
    again = superseded(states)
    for name, state in states.items():
        if name in again:
            continue
        survey.shards.append((name, folder.path / name.file_name))
        survey.states[name.segment, name.rank] = state
        survey.dropped |= set(state.dropped_episodes)
        episodes[name.segment] = episodes.get(name.segment, 0) + int((steps[name] == 0).sum())
    # Episodes of an unfinished flight would be the shorter ones: a flight that flew all of its own is preferred.
    order = sorted(episodes, key=lambda n: (not flown(survey, plan, n), -episodes[n], n))
    survey.heldout_segment = order[0] if order else -1
    survey.heldout_episodes = episodes.get(survey.heldout_segment, 0)
    for name, path in survey.shards:
        if name.segment == survey.heldout_segment:
            survey.dropped_heldout |= set(states[name].dropped_episodes)
            with Shard(path, int(plan.info["feature_size"])) as shard:
                survey.heldout_tracks |= set(shard.column(HELDOUT, "track_id").tolist())
    survey.heldout_tracks.discard(UNKNOWN_TRACK)
    return survey


def flown(survey: Survey, plan: CollectionPlan, segment: int) -> bool:
    """Return whether all processes of a flight had flown their held-out episodes."""
    if not 0 <= segment < len(plan.segments):
        return False
    ranks = range(plan.segments[segment].ranks)
    return all((state := survey.states.get((segment, rank))) and state.heldout_complete for rank in ranks)


def heldout_flown(folder: ShardFolder, plan: CollectionPlan, wanted: int) -> bool:
    """Return whether an earlier flight has flown all held-out episodes, so that none need be flown again.

    Args:
        folder: the collection's folder.
        plan: what is collected.
        wanted: episodes asked for now; where there are others, that they stay is told.
    """
    survey = survey_of(folder, plan)
    if not any(flown(survey, plan, segment) for segment in range(plan.segment)):
        return False
    # Some may count no more, since the simulator's numbers were not finite.
    if not survey.heldout_episodes - len(survey.dropped_heldout) <= wanted <= survey.heldout_episodes:
        logger.warning(
            "%s keeps the %d held-out episodes that were flown before; --heldout-episodes %d has no effect any more",
            folder.target,
            survey.heldout_episodes,
            wanted,
        )
    return True


def holds_no_row(folder: ShardFolder, plan: CollectionPlan) -> bool:
    """Return whether every shard can be read and none has a row, so that nothing is lost with them."""
    try:
        for _, path in folder.shards():
            with Shard(path, int(plan.info["feature_size"])) as shard:
                if any(shard.column(group, "step").size for group in (TRAINING, HELDOUT)):
                    return False
    except DatasetError:
        return False
    return True
