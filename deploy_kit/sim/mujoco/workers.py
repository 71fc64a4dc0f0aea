"""Work shared out over threads, with the calling thread as one of them."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class WorkerPool:
    """Runs a function for every index, each thread taking the next one when it is free.

    Args:
        num_threads: threads, the caller's included.

    Attributes:
        num_threads: as given.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._helpers = num_threads - 1
        self._pool = ThreadPoolExecutor(self._helpers, "deploy-kit-sim") if self._helpers else None

    def run(self, work: Callable[[int, int], None], count: int) -> None:
        """Call ``work(index, thread)`` for every index below count; returns when all are done.

        Args:
            work: called from several threads at once, with different indices and thread numbers from 0.
            count: number of indices.
        """
        # next() on a count is one C call, so no two threads get the same index.
        indices = itertools.count()

        def drain(thread: int) -> None:
            while (index := next(indices)) < count:
                work(index, thread)

        futures = [self._pool.submit(drain, thread + 1) for thread in range(self._helpers)] if self._pool else []
        try:
            drain(0)
        finally:
            for future in futures:
                future.result()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown()
