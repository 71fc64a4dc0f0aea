"""Training rows of one or several files in shuffled blocks, from memory where they fit, else from the files."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import FloatArray
from deploy_kit.data.memory import available_memory, require_memory, resident_memory
from deploy_kit.data.rows import Rows
from deploy_kit.errors import OptionError

PIECE_ROWS = 1024
"""Rows read together where rows are streamed: four chunks of the file, 0.8 MB at 192 features."""

SHARE_OF_FREE_MEMORY = 0.5
"""How much of the free memory rows may take where no bound is given."""

RESERVE = 96 * 2**20
"""Bytes of a bound that are left to everything else: products, logs, plots, the HDF5 library's buffers."""

SMALLEST_BUFFER = 64 * 2**20
"""Bytes below which streamed rows would hardly be shuffled."""

_AHEAD = 1


@dataclass(frozen=True)
class _Piece:
    part: int
    start: int
    stop: int


class ShuffledRows:
    """Training rows as signed rows: row i is ``s · (x, 1)`` with s = 1 for a positive and −1 for a negative.

    With weights and bias as one vector, the product with a signed row is the margin s · (w·x + b), which is all that a
    linear classifier's loss needs. The last column tells the class.

    Args:
        parts: rows of the files.
        memory: bytes that the whole process may take; None for half of what is free.

    Attributes:
        rows: number of rows.
        positives: how many of them are positive.
        streamed: whether they are read from the files in every epoch.

    Raises:
        OptionError: the bound is too small to work with.
        DatasetError: a file is damaged or holds a number that is not finite.
    """

    def __init__(self, parts: Sequence[Rows], memory: int | None = None) -> None:
        self._parts = parts
        self.rows = sum(len(part) for part in parts)
        self.positives = sum(int(np.count_nonzero(part.supervision)) for part in parts)
        self.width = parts[0].feature_size + 1
        room = _room(memory)
        self.streamed = room is not None and self.nbytes > room
        self._room = room
        self._loaded = None if self.streamed else self._load()

    @property
    def nbytes(self) -> int:
        """Bytes of all signed rows."""
        return self.rows * self.width * 4

    @property
    def loaded(self) -> FloatArray:
        """(n, F + 1) all signed rows, in memory.

        Raises:
            OptionError: they are streamed.
        """
        if self._loaded is None:
            raise OptionError("the training rows do not fit into --memory, and this needs them there; raise it")
        return self._loaded

    def in_order(self, block_rows: int = 8 * PIECE_ROWS) -> Iterator[FloatArray]:
        """Yield all signed rows in the files' order; a block is valid until the next one is asked for."""
        if self._loaded is not None:
            for start in range(0, self.rows, block_rows):
                yield self._loaded[start : start + block_rows]
            return
        buffer = np.empty((block_rows, self.width), np.float32)
        for piece in self._pieces(block_rows):
            self._read(piece, buffer[: piece.stop - piece.start])
            yield buffer[: piece.stop - piece.start]

    def shuffled(self, seed: Sequence[int], block_rows: int) -> Iterator[FloatArray]:
        """Yield every signed row once, in a random order, so many at a time.

        Rows in memory are permuted as a whole. Streamed rows are permuted in two levels: pieces of neighbouring rows
        over all files, then the rows of as many pieces as memory holds.

        Args:
            seed: of the order.
            block_rows: rows of a block; the last one may be shorter. A block is valid until the next one is asked for.
        """
        rng = np.random.default_rng(list(seed))
        # One block is used, one waits and one is being filled.
        buffers = [np.empty((min(block_rows, self.rows), self.width), np.float32) for _ in range(_AHEAD + 2)]
        order = self._streamed(rng, buffers) if self._loaded is None else self._gathered(self._loaded, rng, buffers)
        yield from _ahead(order)

    def _gathered(
        self, loaded: FloatArray, rng: np.random.Generator, buffers: list[FloatArray]
    ) -> Iterator[FloatArray]:
        order = rng.permutation(self.rows)
        size = len(buffers[0])
        for number, start in enumerate(range(0, self.rows, size)):
            index = order[start : start + size]
            # With mode="clip" numpy writes straight into the buffer; the indices are within bounds.
            yield np.take(loaded, index, axis=0, out=buffers[number % len(buffers)][: index.size], mode="clip")

    def _streamed(self, rng: np.random.Generator, buffers: list[FloatArray]) -> Iterator[FloatArray]:
        assert self._room is not None
        size = len(buffers[0])
        spare = self._room - sum(buffer.nbytes for buffer in buffers)
        # Whole blocks, so that a batch never spans two fillings and only the epoch's last one is short.
        capacity = max(1, spare // (self.width * 4) // size) * size
        pieces = list(self._pieces(PIECE_ROWS))
        waiting = [pieces[number] for number in rng.permutation(len(pieces))]
        pool = np.empty((min(capacity + PIECE_ROWS, self.rows), self.width), np.float32)
        filled, number = 0, 0
        while waiting or filled:
            while waiting and filled < capacity:
                piece = waiting.pop()
                count = piece.stop - piece.start
                self._read(piece, pool[filled : filled + count])
                filled += count
            used = filled if not waiting else max(filled // size, 1) * size
            order = rng.permutation(filled)
            for start in range(0, used, size):
                index = order[start : min(start + size, used)]
                yield np.take(pool, index, axis=0, out=buffers[number % len(buffers)][: index.size], mode="clip")
                number += 1
            # What is left over goes into the next filling.
            pool[: filled - used] = pool[order[used:filled]]
            filled -= used

    def _pieces(self, rows: int) -> Iterator[_Piece]:
        for number, part in enumerate(self._parts):
            for start in range(0, len(part), rows):
                yield _Piece(number, start, min(start + rows, len(part)))

    def _read(self, piece: _Piece, target: FloatArray) -> None:
        part = self._parts[piece.part]
        sign = np.where(part.supervision[piece.start : piece.stop] != 0, np.float32(1), np.float32(-1))
        np.multiply(part.matrix.part(piece.start, piece.stop), sign, out=target[:, :-1])
        target[:, -1:] = sign

    def _load(self) -> FloatArray:
        require_memory(self.nbytes, f"reading {self.rows:,} training rows")
        loaded = np.empty((self.rows, self.width), np.float32)
        row = 0
        for piece in self._pieces(16 * PIECE_ROWS):
            count = piece.stop - piece.start
            self._read(piece, loaded[row : row + count])
            row += count
        return loaded


def signed_rows(features: FloatArray, label: npt.NDArray[np.bool_]) -> FloatArray:
    """Return features (n, F) and labels (n,) as signed rows (n, F + 1); see `ShuffledRows`."""
    sign = np.where(label, np.float32(1), np.float32(-1))[:, None]
    return np.hstack([features * sign, sign])


def _room(memory: int | None) -> int | None:
    """Return the bytes that rows may take, None where nothing is known."""
    if memory is None:
        free = available_memory()
        return None if free is None else int(SHARE_OF_FREE_MEMORY * free)
    taken = resident_memory()
    room = memory - taken - RESERVE
    if room < SMALLEST_BUFFER:
        raise OptionError(
            f"--memory {memory / 2**20:.0f} MiB is too little: at least "
            f"{(taken + RESERVE + SMALLEST_BUFFER) / 2**20:.0f} MiB are needed for these files"
        )
    return room


def _ahead(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """Yield what an iterator yields, made one block ahead on a thread of its own."""
    made: queue.Queue[Callable[[], FloatArray | None]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(result: Callable[[], FloatArray | None]) -> None:
        while not stopped.is_set():
            try:
                return made.put(result, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for block in blocks:
                put(partial(_same, block))
                if stopped.is_set():
                    return
            put(lambda: None)
        except BaseException as error:  # noqa: BLE001  # raised again on the thread that asks for blocks
            put(_raiser(error))

    thread = threading.Thread(target=work, name="training blocks", daemon=True)
    thread.start()
    try:
        while (block := made.get()()) is not None:
            yield block
    finally:
        stopped.set()
        thread.join()


def _same(block: FloatArray) -> FloatArray:
    return block


def _raiser(error: BaseException) -> Callable[[], FloatArray | None]:
    def fail() -> FloatArray | None:
        raise error

    return fail
