"""The timing core, on candidates that keep a calendar of their own instead of taking time."""

import gc

import numpy as np
import pytest

from deploy_kit.timing import FEWEST_FOR_TAIL, Durations, Plan, latency, measure, timer


def recorder(calls, name, duration):
    def run(count):
        calls.append((name, count, gc.isenabled()))
        return [duration] * count

    return run


def test_candidates_take_turns_and_the_order_moves_on():
    calls = []
    timers = {name: recorder(calls, name, 1000) for name in "abc"}
    found = measure(timers, Plan(rounds=3, turn=5))
    assert [name for name, _, _ in calls] == [*"abc", *"bca", *"cab", *"abc"]
    assert {count for _, count, _ in calls} == {5}
    assert list(found) == ["a", "b", "c"]
    assert all(len(durations.step_us) == len(durations.late_us) == 15 for durations in found.values())


def test_the_first_turn_is_not_counted_and_the_collector_rests():
    durations = iter([9_000_000, 9_000_000, 2000, 4000])
    collecting = []

    def run(count):
        collecting.append(gc.isenabled())
        return [next(durations) for _ in range(count)]

    assert gc.isenabled()
    found = measure({"a": run}, Plan(rounds=1, turn=2))
    assert found["a"].step_us.tolist() == [2.0, 4.0]
    assert found["a"].late_us.tolist() == [0.0, 0.0]
    assert collecting == [False, False]
    assert gc.isenabled()


def test_with_a_pace_every_step_waits_for_a_tick_of_its_own(monkeypatch):
    now = 0
    slept = []

    def sleep(seconds):
        nonlocal now
        slept.append(round(seconds * 1e9))
        now += round(seconds * 1e9) + 50_000  # a sleep ends late

    monkeypatch.setattr("deploy_kit.timing.time.sleep", sleep)
    monkeypatch.setattr("deploy_kit.timing.time.perf_counter_ns", lambda: now)

    def run(count):
        nonlocal now
        now += 1_000_000
        return [1_000_000] * count

    found = measure({"a": run, "b": run}, Plan(rounds=4, turn=1, period_s=0.03))
    # The first tick is one period ahead; from then on a step of 1 ms that began 50 µs late leaves 28.95 ms.
    assert slept == [30_000_000] + [28_950_000] * 9
    assert found["a"].late_us.tolist() == [50.0] * 4
    assert found["b"].step_us.tolist() == [1000.0] * 4


def test_a_step_longer_than_the_period_moves_the_schedule(monkeypatch):
    now = 0

    def sleep(seconds):
        nonlocal now
        now += round(seconds * 1e9)

    monkeypatch.setattr("deploy_kit.timing.time.sleep", sleep)
    monkeypatch.setattr("deploy_kit.timing.time.perf_counter_ns", lambda: now)
    starts = []

    def run(count):
        nonlocal now
        starts.append(now)
        now += 75_000_000 if len(starts) == 2 else 1_000_000
        return [1] * count

    found = measure({"a": run}, Plan(rounds=3, period_s=0.03))
    assert np.diff(starts).tolist() == [30_000_000, 75_000_000, 30_000_000]
    assert found["a"].late_us.tolist() == [0.0] * 3


def test_figures():
    steps = np.arange(1.0, 1001.0)
    figures = latency(Durations(steps, np.zeros(1000)))
    assert (figures.steps, figures.mean_us, figures.p50_us, figures.max_us) == (1000, 500.5, 500.5, 1000.0)
    assert figures.p99_us == pytest.approx(990.01)
    assert figures.p99_9_us == pytest.approx(999.001)
    assert figures.jitter_us == pytest.approx(steps.std())


def test_a_tail_needs_a_thousand_steps():
    few = np.ones(FEWEST_FOR_TAIL - 1)
    assert latency(Durations(few, few)).p99_9_us is None


def test_jitter_counts_the_late_start():
    same = np.full(4, 100.0)
    assert latency(Durations(same, np.array([0.0, 60.0, 0.0, 60.0]))).jitter_us == 30.0
    assert latency(Durations(same, np.zeros(4))).jitter_us == 0.0


def test_a_timer_runs_a_step_as_often_as_asked():
    calls = []
    durations = timer(lambda: calls.append(1))(7)
    assert len(calls) == len(durations) == 7
    assert all(isinstance(duration, int) and duration >= 0 for duration in durations)
