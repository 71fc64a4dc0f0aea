"""The folder of a collection under way: what is collected, who collects, and the shards so far.

`NAME.h5.partial/` holds `collection.json`, the shards, one status file and one lock file a process. A lock is the
operating system's: it is let go when its process ends, however it ends.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy_kit.data.collection_plan import CollectionPlan, Segment
from deploy_kit.data.lock import Lock, is_locked
from deploy_kit.data.sampling import Tally
from deploy_kit.data.schema import SUFFIX
from deploy_kit.data.shard import ShardName, sync_folder
from deploy_kit.data.table import write_errors
from deploy_kit.errors import DatasetError, InputError
from deploy_kit.files import read_json_object, replace_file

FOLDER_SUFFIX = ".partial"
PLAN_NAME = "collection.json"


def folder_of(path: Path) -> Path:
    """Return the folder of a feature file's collection under way."""
    return path.with_name(path.name + FOLDER_SUFFIX)


def check_target(path: Path, overwrite: bool, resume: bool = False) -> None:
    """Check that a feature file may be written.

    Args:
        path: the feature file to be.
        overwrite: whether an existing file may be replaced.
        resume: whether an interrupted collection is to be gone on with.

    Raises:
        DatasetError: wrong suffix, the folder cannot be entered, the file exists, an interrupted collection's rows are
            beside it, or there is nothing to go on with.
    """
    if path.suffix != SUFFIX:
        raise DatasetError(f"{path}: a feature file's name must end in {SUFFIX}; use {path.with_suffix(SUFFIX).name}")
    folder = folder_of(path)
    with write_errors(path):
        is_folder, exists, left = path.is_dir(), path.exists(), folder.exists()
        left_file = folder.is_file()
    if is_folder:
        raise DatasetError(f"{path} is a directory; give the name of a file")
    if left_file and not overwrite:
        raise DatasetError(
            f"{folder} is left from an interrupted collection of an earlier deploy-kit; rename it to {path.name} to "
            "use its rows, or pass --overwrite to drop them"
        )
    if resume:
        if not (folder / PLAN_NAME).is_file():
            raise DatasetError(f"{folder} holds no interrupted collection, so there is nothing to resume")
        return
    if not overwrite and exists:
        also = "; --resume goes on with it" if left else ""
        raise DatasetError(f"{path} exists and is kept{also}; pass --overwrite to replace it, or another name")
    if not overwrite and left:
        if is_locked(folder / "lock"):
            raise DatasetError(f"{path} is being collected by another process; wait for it, or give another name")
        raise DatasetError(
            f"{folder} is left from an interrupted collection; --resume goes on with it, --recover makes {path.name} "
            "of its rows, --overwrite drops them"
        )


@dataclass(frozen=True)
class RankStatus:
    """What a process says of itself while it flies.

    Attributes:
        rank: its number.
        alive: whether it still runs.
        segment: flight that it speaks of.
        state: "flying", "done" or "failed".
        tally: what it has seen and stored.
        env_steps: environment steps flown.
        heldout_episodes: held-out episodes stored.
        error: what went wrong, empty if nothing did.
        waited_s: seconds that it waited for others and for its disk.
        cpu_s: CPU seconds that it took.
    """

    rank: int
    alive: bool
    segment: int
    state: str = "flying"
    tally: Tally = field(default_factory=Tally)
    env_steps: int = 0
    heldout_episodes: int = 0
    error: str = ""
    waited_s: float = 0.0
    cpu_s: float = 0.0


class ShardFolder:
    """The folder of a collection under way.

    Args:
        target: the feature file to be.

    Attributes:
        target: target as given.
        path: the folder.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = folder_of(target)
        self._lock: Lock | None = None

    def lock(self) -> None:
        """Become the one who collects into this file.

        Raises:
            DatasetError: somebody else does, or the folder cannot be written.
        """
        with write_errors(self.target):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                self.path.unlink()
            self.path.mkdir(exist_ok=True)
            try:
                self._lock = Lock(self.path / "lock")
            except BlockingIOError:
                raise DatasetError(
                    f"{self.target} is being collected by another process; wait for it, or give another name"
                ) from None

    def unlock(self) -> None:
        """Let somebody else collect into this file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_plan(self, plan: CollectionPlan) -> None:
        """Store what is collected."""

        def write(path: Path) -> None:
            path.write_text(json.dumps(plan.to_json(), indent=1))

        try:
            replace_file(self.path / PLAN_NAME, write)
        except InputError as error:
            raise DatasetError(str(error)) from error
        with write_errors(self.target):
            sync_folder(self.path)
            sync_folder(self.path.parent)

    def read_plan(self) -> CollectionPlan:
        """Return what is collected.

        Raises:
            DatasetError: the folder does not say.
        """
        path = self.path / PLAN_NAME
        try:
            return CollectionPlan.from_json(read_json_object(path))
        except (InputError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read ({error}); collect again with --overwrite") from error

    def begin_segment(self, plan: CollectionPlan, segment: Segment) -> CollectionPlan:
        """Begin a flight: leftovers of killed processes go, shards stay."""
        plan = replace(plan, segments=(*plan.segments, segment), ended="")
        for pattern in (".*.tmp", "status-*.json", "rank-*.lock"):
            for leftover in self.path.glob(pattern):
                _remove(leftover)
        self.write_plan(plan)
        return plan

    def clear(self) -> None:
        """Drop all shards of an earlier collection."""
        for entry in self.path.iterdir():
            if entry.name != "lock":
                _remove(entry)

    def remove(self) -> None:
        """Remove the folder with all shards."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.unlock()

    def shards(self) -> list[tuple[ShardName, Path]]:
        """Return the finished shards, in the order of flights, processes and time."""
        found = [(ShardName.parse(entry.name), entry) for entry in self.path.iterdir() if entry.is_file()]
        return sorted(
            ((name, entry) for name, entry in found if name is not None),
            key=lambda item: (item[0].segment, item[0].rank, item[0].index),
        )

    # -- one process ----------------------------------------------------------------------------------------------

    def lock_rank(self, rank: int) -> Lock:
        """Say that a process runs, for as long as it does.

        Raises:
            DatasetError: another process says that it is this one.
        """
        with write_errors(self.target):
            try:
                return Lock(self._rank_lock(rank))
            except BlockingIOError:
                raise DatasetError(f"{self.target}: another process collects as rank {rank}") from None

    def publish(self, status: RankStatus) -> None:
        """Store what a process says of itself; it may be lost in a crash of the machine."""
        path = self._status(status.rank)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        data = {**vars(status), "tally": [list(pair) for pair in status.tally]}
        # A status is news, not data: where the disk is full, the shard that comes next says so.
        with suppress(OSError):
            temporary.write_text(json.dumps(data))
            temporary.replace(path)

    def statuses(self, ranks: int, segment: int) -> Iterator[RankStatus]:
        """Yield what the processes of a flight say."""
        for rank in range(ranks):
            alive = is_locked(self._rank_lock(rank))
            yield replace(self._read_status(rank, segment), alive=alive)

    def _read_status(self, rank: int, segment: int) -> RankStatus:
        silent = RankStatus(rank, False, segment, "starting")
        try:
            data = json.loads(self._status(rank).read_bytes())
            tally = Tally(*((pair[0] + 0, pair[1] + 0) for pair in data.pop("tally")))
            status = RankStatus(**data, tally=tally)
            numbers = (status.env_steps, status.heldout_episodes, status.waited_s, status.cpu_s)
            if status.rank != rank or not all(isinstance(number, int | float) for number in numbers):
                return silent
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return silent
        return status if status.segment == segment else silent

    def _rank_lock(self, rank: int) -> Path:
        return self.path / f"rank-{rank:05d}.lock"

    def _status(self, rank: int) -> Path:
        return self.path / f"status-{rank:05d}.json"


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
