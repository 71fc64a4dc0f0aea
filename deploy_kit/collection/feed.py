"""Training rows on their way from the simulator's device to the shards, in blocks and beside the simulation."""

import queue
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from deploy_kit.collection.rows import RowMaker
from deploy_kit.data.snapshot import Snapshot
from deploy_kit.flight.rollout import StepRecord

BLOCK_STEPS = 16
"""Steps of all environments that go to the host at once."""

_WAITING_BLOCKS = 2


class RowSink(Protocol):
    """Where training rows go."""

    @property
    def num_positive(self) -> int:
        """Positive rows."""

    @property
    def num_negative(self) -> int:
        """Negative rows."""

    @property
    def full(self) -> bool:
        """Whether there are enough."""

    def add_training(self, **columns: Any) -> None:
        """Offer rows."""

    @property
    def due(self) -> bool:
        """Whether a shard is to be closed."""

    def checkpoint(self, snapshot: Snapshot | None = None) -> None:
        """Close a shard."""

    def drop_episodes(self, episodes: Iterable[int]) -> None:
        """Let episodes not count."""


class _Step(NamedTuple):
    """What of a step makes training rows, on the simulator's device."""

    features: Tensor
    label: Tensor
    done: Tensor
    track: Tensor | None
    broken: Tensor | None


class _Block(NamedTuple):
    """Steps one after another, and where the flight stands after them if a shard is to be closed there."""

    steps: list[_Step]
    snapshot: Snapshot | None


class TrainingFeed:
    """Takes steps, gives rows to the writer on a thread of its own. Use it as a context manager.

    Blocks reach the writer in order, and none once it is full: the file does not depend on how fast the thread is.
    Leaving the context hands over what is left.

    Args:
        writer: where rows go.
        maker: numbers the episodes.
        snapshot: returns where the flight stands after a step that was added; with it, shards are closed from here. It
            is called within `add`, between two steps. None where the writer closes its shards itself.
    """

    def __init__(self, writer: RowSink, maker: RowMaker, snapshot: Callable[[], Snapshot] | None = None) -> None:
        self._writer, self._maker, self._take_snapshot = writer, maker, snapshot
        self._closing = False
        self._steps: list[_Step] = []
        self._blocks: queue.Queue[_Block | None] = queue.Queue(_WAITING_BLOCKS)
        self._thread = threading.Thread(target=self._work, name="training rows", daemon=True)
        self._error: BaseException | None = None
        self._stopped = False
        self._state = (writer.num_positive, writer.num_negative, writer.full)

    @property
    def num_positive(self) -> int:
        """Positive rows in the file, as of the last block."""
        return self._state[0]

    @property
    def num_negative(self) -> int:
        """Negative rows in the file, as of the last block."""
        return self._state[1]

    @property
    def full(self) -> bool:
        """Whether the file had all rows after the last block."""
        return self._state[2]

    def add(self, record: StepRecord) -> None:
        """Take one step.

        Raises:
            DatasetError: an earlier block could not be written.
        """
        track = record.extras.get("track_id")
        # Environments may reuse what they return, and a block waits.
        track, done = None if track is None else track.clone(), record.done.clone()
        self._steps.append(_Step(record.output.features, record.label, done, track, record.broken))
        if len(self._steps) == BLOCK_STEPS:
            taken = None
            if self._take_snapshot is not None and not self._closing and self._writer.due:
                taken, self._closing = self._take_snapshot(), True
            self._hand_over(taken)

    def _hand_over(self, snapshot: Snapshot | None = None) -> None:
        block, self._steps = _Block(self._steps, snapshot), []
        while self._error is None:
            try:
                self._blocks.put(block, timeout=0.1)
                return
            except queue.Full:
                continue
        raise self._error

    def _work(self) -> None:
        while (block := self._blocks.get()) is not None:
            try:
                if not self.full and not self._stopped:
                    self._write(block.steps)
                    if block.snapshot is not None:
                        arrays = {**block.snapshot.arrays, **self._maker.state()}
                        self._writer.checkpoint(block.snapshot._replace(arrays=arrays))
                        self._closing = False
            except BaseException as error:  # noqa: BLE001  # raised again by the next call of the caller's thread
                self._error = error
                return

    def _write(self, block: list[_Step]) -> None:
        features = torch.cat([step.features for step in block]).cpu().numpy()
        label, done = (torch.stack([getattr(step, name) for step in block]).cpu().numpy() for name in ("label", "done"))
        tracks = [self._maker.own_track if step.track is None else step.track.cpu().numpy() for step in block]
        numbers = [self._maker.number(ended) for ended in done]
        rows = {
            "features": features,
            "label": label.reshape(-1).astype(np.int8),
            "episode_id": np.concatenate([episode for episode, _ in numbers]),
            "env_id": np.tile(self._maker.env_id, len(block)),
            "track_id": np.concatenate(tracks),
            "step": np.concatenate([step for _, step in numbers]),
        }
        if any(step.broken is not None for step in block):
            broken = (
                torch.cat([torch.zeros_like(s.done) if s.broken is None else s.broken for s in block]).cpu().numpy()
            )
            self._writer.drop_episodes(np.unique(rows["episode_id"][broken]).tolist())
            rows = {name: values[~broken] for name, values in rows.items()}
        self._writer.add_training(**rows)
        self._state = (self._writer.num_positive, self._writer.num_negative, self._writer.full)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._steps and self._error is None:
                self._hand_over()
            while self._thread.is_alive():
                try:
                    self._blocks.put(None, timeout=0.1)
                    break
                except queue.Full:
                    continue
            self._thread.join()
        finally:
            # A second interrupt ends the wait: the thread writes the block that it is at, and no other.
            self._stopped = True
        # Whatever else ended the block (an interrupt too), this is why rows are missing.
        if self._error is not None and error is not self._error:
            raise self._error
