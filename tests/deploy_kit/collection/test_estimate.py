"""How long collecting takes, told once after the first seconds."""

import numpy as np
import pytest

from deploy_kit.collection.estimate import FIRST_S, PATIENCE_S, Forecast
from deploy_kit.collection.options import CollectOptions
from deploy_kit.sim.options import EnvOptions


def forecast(tmp_path, every, seconds, **changes):
    """Fly 100 environments at one step a second; in each ``every``-th step, one passes a gate, with 0 none."""
    now, told = 0.0, []
    options = CollectOptions(tmp_path / "m.pt", env=EnvOptions(num_envs=100), **changes)
    counter = Forecast(options, told.append, lambda: now)
    for step in range(seconds):
        now = float(step)
        label = np.zeros(100, np.int8)
        label[0] = every > 0 and step % every == 1
        counter.add(label)
    return told


def test_the_scarcer_class_decides(tmp_path):
    told = forecast(tmp_path, 2, 60, num_positive=1000, num_negative=1000)
    assert len(told) == 1
    # Of 10 steps after the first, 5 pass a gate: 1000 positive rows take 2000 s.
    assert told[0].env_steps == 100 * FIRST_S
    assert told[0].seconds == pytest.approx(2000)
    assert [told[0].rows_in(seconds) for seconds in (60, 600, 5000)] == [100, 300, 2000]
    many_negative = forecast(tmp_path, 2, 60, num_positive=10, num_negative=995_000)
    assert many_negative[0].seconds == pytest.approx(10_000)


def test_max_steps_ends_it_earlier(tmp_path):
    assert forecast(tmp_path, 2, 60, num_positive=1000, max_steps=150)[0].seconds == pytest.approx(150)


def test_a_policy_that_passes_no_gate_is_told_apart(tmp_path):
    told = forecast(tmp_path, 0, 200)
    assert [(estimate.seconds, estimate.env_steps) for estimate in told] == [(None, 100 * PATIENCE_S)]


def test_only_a_video_has_no_estimate(tmp_path):
    assert forecast(tmp_path, 2, 200, video=True) == []
