"""What the other processes of a collection have stored, as one of them sees it."""

from collections.abc import Iterator

from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.sampling import KEY, KeyedSampler, Tally
from deploy_kit.data.shard import TRAINING, Shard, ShardState
from deploy_kit.data.shard_folder import ShardFolder
from deploy_kit.ranks import Rank


class OtherProcesses:
    """Looks at the status files of the present flight's other processes, and at the shards of those that died.

    Args:
        folder: the collection's folder.
        plan: what is collected.
        rank: the process that looks.
    """

    def __init__(self, folder: ShardFolder, plan: CollectionPlan, rank: Rank) -> None:
        self._folder, self._plan, self._rank = folder, plan, rank
        self._dead = dict[int, Tally]()

    def tallies(self) -> Iterator[Tally]:
        """Yield what each of them has."""
        for status in self._folder.statuses(self._rank.count, self._plan.segment):
            if status.rank == self._rank.index or status.state == "starting":
                continue
            if status.alive or status.state == "done":
                self._dead.pop(status.rank, None)
                yield status.tally
                continue
            # Of a process that died, the finished shards count.
            if status.rank not in self._dead:
                self._dead[status.rank] = self._durable(status.rank)
            yield self._dead[status.rank]

    def _durable(self, rank: int) -> Tally:
        sampler = KeyedSampler(self._plan.num_positive, self._plan.num_negative, 0)
        state = ShardState()
        for name, path in self._folder.shards():
            if name.rank != rank or name.segment != self._plan.segment:
                continue
            with Shard(path, int(self._plan.info["feature_size"])) as shard:
                state = shard.state
                label, key = shard.column(TRAINING, "supervision").reshape(-1), shard.column(TRAINING, KEY)
                for value, kept in enumerate(sampler.classes):
                    kept.add(key[label == value])
        return sampler.tally._replace(seen=state.seen, limits=state.limits)
