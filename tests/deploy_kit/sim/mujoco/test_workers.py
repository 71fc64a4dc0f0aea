import threading
import time

import pytest

from deploy_kit.sim.mujoco.workers import WorkerPool


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_every_index_is_worked_on_once(num_threads):
    pool = WorkerPool(num_threads)
    seen = []
    pool.run(lambda index, thread: seen.append((index, thread)), 100)
    pool.close()
    assert sorted(index for index, _ in seen) == list(range(100))
    assert {thread for _, thread in seen} <= set(range(num_threads))


def test_threads_work_at_the_same_time():
    pool = WorkerPool(2)
    meeting = threading.Barrier(2, timeout=10)
    pool.run(lambda index, thread: meeting.wait(), 2)
    pool.close()


@pytest.mark.parametrize("bad", [0, 7])
def test_an_error_reaches_the_caller_and_the_pool_lives_on(bad):
    pool = WorkerPool(3)

    def work(index, thread):
        if index == bad:
            raise ValueError(f"index {index}")

    with pytest.raises(ValueError, match=f"index {bad}"):
        pool.run(work, 20)
    done = []
    pool.run(lambda index, thread: done.append(index), 5)
    assert sorted(done) == list(range(5))
    pool.close()


def test_an_interrupt_in_the_callers_thread_comes_through():
    pool = WorkerPool(2)
    caller = threading.get_ident()

    def work(index, thread):
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        pool.run(work, 1000)
    pool.close()
