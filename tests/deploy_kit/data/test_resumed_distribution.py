"""Rows of collections that were interrupted and gone on with are distributed as those of uninterrupted ones.

`benchmarks/resumed_distribution.py` does the same with real flights and real kills.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.data.sampling import KeyedSampler
from deploy_kit.data.writer import FeatureFileWriter
from helpers.feature_files import FEATURES, make_info
from helpers.run_statistics import differing, p_values, statistics

SEEDS = 16
ENVS, EPISODE = 16, 40


def fly(writer: FeatureFileWriter, seed: int, flight: int, time: int) -> None:
    """Offer one episode of every environment; labels depend on the step, features on step and time."""
    rng = np.random.default_rng((seed, flight, time))
    for step in range(EPISODE):
        label = (rng.random(ENVS) < 0.02 + 0.002 * step).astype(np.int8)
        features = rng.standard_normal((ENVS, FEATURES)) + 0.05 * step + label[:, None]
        features[:, 0] = time + step
        env = np.arange(ENVS)
        episode = 10**6 * flight + time * ENVS + env
        writer.add_training(features, label, episode, env, episode % 50, np.full(ENVS, step))


def collect(path: Path, seed: int, stops: tuple[int, ...]) -> dict[str, float]:
    """Collect; the process is killed at these times."""
    time = 0
    for flight, stop in enumerate((*stops, 10**6)):
        every = CheckpointEvery(rows=ENVS * EPISODE)
        writer = FeatureFileWriter(path, make_info(), 150, 150, seed, resume=flight > 0, every=every)
        writer.hold_rate(EPISODE * ENVS)
        while time < stop and not writer.full:
            fly(writer, seed, flight, time)
            time += EPISODE
        if writer.full:
            writer.finish(complete=True)
            return statistics(path) | when(path)
        writer.shards.checkpoint()
        writer.shards._lock.release()
        writer._folder.unlock()
    raise AssertionError


def when(path: Path) -> dict[str, float]:
    """Return when the rows of each class were flown, as a share of the whole time."""
    with open_feature_file(path) as file:
        time, label = file.train.features[:, 0] * ENVS / file.attrs.rows_seen, file.train.label
        return {"negative: time": float(time[~label].mean()), "positive: time": float(time[label].mean())}


def compare(folder: Path) -> list[str]:
    rng = np.random.default_rng(3)
    whole = [collect(folder / f"whole-{seed}.h5", seed, ()) for seed in range(SEEDS)]
    resumed = []
    for seed in range(500, 500 + SEEDS):
        stops = EPISODE * np.sort(rng.choice([1, 2, 3], 2, replace=False))
        resumed.append(collect(folder / f"resumed-{seed}.h5", seed, tuple(stops.tolist())))
    return differing(p_values(whole, resumed))


def test_resumed_collections_do_not_differ_in_distribution(tmp_path: Path) -> None:
    assert compare(tmp_path) == []


def test_resumed_collections_that_preferred_later_rows_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = KeyedSampler.go_on

    def prefer(self: KeyedSampler, limits: Sequence[float]) -> None:
        """Draw smaller keys after an interruption."""
        original(self, limits)
        rng = self._rng
        if min(limits) < 1.0:
            self._rng = SimpleNamespace(random=lambda size: 0.2 * rng.random(size))

    monkeypatch.setattr(KeyedSampler, "go_on", prefer)
    assert "negative: time" in compare(tmp_path)
