"""Training rows of one or several files in shuffled blocks, from memory where they fit, else from the files."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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

GROUP_PIECES = 256
"""Pieces whose rows are permuted together: 262,144 rows, 0.2 GB at 192 features. Fewer rows are permuted as a whole."""

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
        buffer = np.empty((block_rows if self.streamed else 0, self.width), np.float32)
        row = 0
        for piece in self._pieces(block_rows):
            count = piece.stop - piece.start
            if self._loaded is not None:
                yield self._loaded[row : row + count]
            else:
                self._read(piece, buffer[:count])
                yield buffer[:count]
            row += count

    def order(self, seed: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the numbers of all rows in a random order, a group at a time.

        Rows are numbered in the files' order. The order is the same for rows in memory and streamed ones: pieces of
        neighbouring rows over all files are permuted, then the rows of `GROUP_PIECES` pieces at a time.

        Args:
            seed: seed of the order.
        """
        rng = np.random.default_rng(list(seed))
        if self.rows <= GROUP_PIECES * PIECE_ROWS:
            yield rng.permutation(self.rows)
            return
        pieces = list(self._pieces(PIECE_ROWS))
        first = np.cumsum([0, *(piece.stop - piece.start for piece in pieces)])
        shuffled = rng.permutation(len(pieces))
        for start in range(0, len(pieces), GROUP_PIECES):
            chosen = shuffled[start : start + GROUP_PIECES]
            numbers = np.concatenate([np.arange(first[piece], first[piece + 1]) for piece in chosen.tolist()])
            yield rng.permutation(numbers)

    def shuffled(self, seed: Sequence[int], block_rows: int) -> Iterator[FloatArray]:
        """Yield every signed row once, in the order of `order`, so many at a time.

        Args:
            seed: seed of the order.
            block_rows: rows of a block; the last one may be shorter. A block is valid until the next one is asked for.
        """
        # One block is used, one waits and one is being filled.
        buffers = [np.empty((min(block_rows, self.rows), self.width), np.float32) for _ in range(_AHEAD + 2)]
        order = self.order(seed)
        blocks = (
            self._streamed(order, buffers) if self._loaded is None else self._gathered(self._loaded, order, buffers)
        )
        yield from _ahead(blocks)

    def _gathered(
        self, loaded: FloatArray, order: Iterator[npt.NDArray[np.int64]], buffers: list[FloatArray]
    ) -> Iterator[FloatArray]:
        for number, index in enumerate(rechunked(order, len(buffers[0]))):
            # With mode="clip" numpy writes straight into the buffer; the indices are within bounds.
            yield np.take(loaded, index, axis=0, out=buffers[number % len(buffers)][: index.size], mode="clip")

    def _streamed(self, order: Iterator[npt.NDArray[np.int64]], buffers: list[FloatArray]) -> Iterator[FloatArray]:
        assert self._room is not None
        size = len(buffers[0])
        spare = self._room - sum(buffer.nbytes for buffer in buffers)
        capacity = max(1, spare // (self.width * 4) // size) * size
        pieces = list(self._pieces(PIECE_ROWS))
        first = np.cumsum([0, *(piece.stop - piece.start for piece in pieces)])
        pool = np.empty((min(capacity + size, self.rows), self.width), np.float32)
        filled, done, number = 0, 0, 0
        for window in _windows(order, capacity):
            self._fill(pool[filled : filled + window.size], window, pieces, first)
            filled, done = filled + window.size, done + window.size
            # Whole blocks, so that only the epoch's last one is short; what is left over goes before the next window.
            used = filled if done == self.rows else filled // size * size
            for start in range(0, used, size):
                count = min(size, used - start)
                block = buffers[number % len(buffers)][:count]
                np.copyto(block, pool[start : start + count])
                yield block
                number += 1
            pool[: filled - used] = pool[used:filled]
            filled -= used

    def _fill(
        self,
        target: FloatArray,
        window: npt.NDArray[np.int64],
        pieces: Sequence[_Piece],
        first: npt.NDArray[np.int64],
    ) -> None:
        """Read rows by their numbers, a piece after the other.

        Args:
            target: (n, F + 1) to be filled.
            window: (n,) numbers of rows.
            pieces: all pieces.
            first: number of each piece's first row, and of all rows at the end.
        """
        place = np.argsort(window, kind="stable")
        bounds = np.searchsorted(window[place], first)
        buffer = np.empty((PIECE_ROWS, self.width), np.float32)
        for piece in np.flatnonzero(np.diff(bounds)).tolist():
            count = pieces[piece].stop - pieces[piece].start
            self._read(pieces[piece], buffer[:count])
            wanted = place[bounds[piece] : bounds[piece + 1]]
            target[wanted] = buffer[window[wanted] - first[piece]]

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


def rechunked(order: Iterable[npt.NDArray[np.int64]], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the same numbers, so many at a time; the last array may be shorter."""
    rest = np.empty(0, np.int64)
    for numbers in order:
        rest = np.concatenate([rest, numbers])
        whole = rest.size // size * size
        yield from np.split(rest[:whole], range(size, whole, size)) if whole else ()
        rest = rest[whole:]
    if rest.size:
        yield rest


def _windows(order: Iterable[npt.NDArray[np.int64]], capacity: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the same numbers, as many whole groups as fit at a time; a group that does not fit is cut.

    A piece lies in one group, so that whole groups read it once.
    """
    waiting: list[npt.NDArray[np.int64]] = []
    for group in order:
        if waiting and sum(numbers.size for numbers in waiting) + group.size > capacity:
            yield np.concatenate(waiting)
            waiting = []
        if group.size > capacity:
            yield from np.split(group, range(capacity, group.size, capacity))
        else:
            waiting.append(group)
    if waiting:
        yield np.concatenate(waiting)


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
