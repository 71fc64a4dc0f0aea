"""Time candidates side by side in one run: they take turns, so that whatever else the machine does hits all alike."""

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Step = Callable[[], object]
Timer = Callable[[int], Sequence[int]]
"""Runs that many steps one after the other and returns the duration of each, ns."""

FEWEST_FOR_TAIL = 1000
"""Steps below which a p99.9 would be an interpolation between the two slowest ones."""


@dataclass(frozen=True)
class Plan:
    """How often and how fast each candidate steps.

    Attributes:
        rounds: turns of each candidate; a first one warms up and is not counted.
        turn: steps one after the other in each turn.
        period_s: a step starts once each period, whoever's turn it is; None for back to back.
    """

    rounds: int
    turn: int = 1
    period_s: float | None = None


@dataclass(frozen=True)
class Durations:
    """What was measured of a candidate.

    Attributes:
        step_us: (n,) duration of each step, µs.
        late_us: (n,) how long after its tick each step started, µs; zeros where steps follow back to back.
    """

    step_us: npt.NDArray[np.float64]
    late_us: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Latency:
    """Durations of a step in a few figures, µs.

    Attributes:
        steps: how many were measured.
        mean_us: mean.
        p50_us: median.
        p99_us: 99th percentile.
        p99_9_us: 99.9th percentile; None with fewer than `FEWEST_FOR_TAIL` steps.
        max_us: slowest step.
        jitter_us: standard deviation of the time from tick to output, the late start included; back to back, of the
            duration.
    """

    steps: int
    mean_us: float
    p50_us: float
    p99_us: float
    p99_9_us: float | None
    max_us: float
    jitter_us: float


def timer(step: Step) -> Timer:
    """Return what runs a step in this process and tells how long it took."""
    clock = time.perf_counter_ns

    def run(count: int) -> list[int]:
        durations = []
        for _ in itertools.repeat(None, count):
            start = clock()
            step()
            durations.append(clock() - start)
        return durations

    return run


def measure(
    timers: Mapping[str, Timer], plan: Plan, advance: Callable[[int], None] = lambda count: None
) -> dict[str, Durations]:
    """Run all candidates in turns, and return what each took.

    The order within a round moves on by one each round, so that no candidate always follows the same one. Python's
    garbage collector rests meanwhile.

    Args:
        timers: candidates by name.
        plan: how often and how fast.
        advance: told how many steps were done.
    """
    names = list(timers)
    steps: dict[str, list[int]] = {name: [] for name in names}
    late: dict[str, list[int]] = {name: [] for name in names}
    with _without_collector():
        ticks = _ticks(plan.period_s)
        for index in range(plan.rounds + 1):
            shift = index % max(1, len(names))
            for name in (*names[shift:], *names[:shift]):
                # With a pace every step waits for a tick of its own.
                for count in (1,) * plan.turn if plan.period_s else (plan.turn,):
                    behind = next(ticks)
                    steps[name] += timers[name](count)
                    late[name] += [behind] * count
                    advance(count)
    # The first round warms up.
    return {
        name: Durations(np.array(steps[name][plan.turn :]) / 1e3, np.array(late[name][plan.turn :]) / 1e3)
        for name in names
    }


def latency(durations: Durations) -> Latency:
    """Return durations in a few figures."""
    step = durations.step_us
    p50, p99, tail = np.percentile(step, [50, 99, 99.9])
    return Latency(
        steps=len(step),
        mean_us=float(step.mean()),
        p50_us=float(p50),
        p99_us=float(p99),
        p99_9_us=float(tail) if len(step) >= FEWEST_FOR_TAIL else None,
        max_us=float(step.max()),
        jitter_us=float((durations.late_us + step).std()),
    )


def _ticks(period_s: float | None) -> Iterator[int]:
    """Wait for each tick, and yield by how many ns it was missed; without a period, never wait."""
    if period_s is None:
        yield from itertools.repeat(0)
    assert period_s is not None
    clock, period = time.perf_counter_ns, round(period_s * 1e9)
    due = clock() + period
    while True:
        time.sleep(max(0, due - clock()) / 1e9)
        yield clock() - due
        # A step that took longer than a period moves the schedule, so that the next one does not start in its wake.
        due = max(due + period, clock())


@contextmanager
def _without_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
