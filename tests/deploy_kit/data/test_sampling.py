import numpy as np
import pytest

from deploy_kit.data import sampling
from deploy_kit.data.sampling import KEY, KeyedClass, KeyedSample, KeyedSampler, Tally, class_sizes
from deploy_kit.data.split import TrackSplitter


class Stored:
    """Keeps what a sampler stores, and selects as the feature file's making does."""

    def __init__(self, num_positive: int, num_negative: int, seed: int = 0) -> None:
        self.sampler = KeyedSampler(num_positive, num_negative, seed)
        self.rows: list[dict[str, np.ndarray]] = []

    def offer(self, label: np.ndarray, time: int) -> None:
        rows = {"supervision": label[:, None].astype(np.int8), "time": np.full(len(label), time)}
        self.rows.append(self.sampler.offer(rows))

    def run(self, steps: int, prevalence, envs: int = 50, seed: int = 1) -> "Stored":
        rng = np.random.default_rng(seed)
        for step in range(steps):
            share = prevalence(step) if callable(prevalence) else prevalence
            self.offer(rng.random(envs) < share, step)
        return self

    def times(self, label: int) -> np.ndarray:
        """Time of each row of a class that is in the file."""
        rows = {name: np.concatenate([part[name] for part in self.rows]) for name in self.rows[0]}
        mine = (rows["supervision"][:, 0] == label) & (rows[KEY] < self.sampler.limits[label])
        order = np.argsort(rows[KEY][mine])[: self.sampler.count(label)]
        return rows["time"][mine][order]


def spread(times, steps: int, parts: int = 5) -> np.ndarray:
    return np.histogram(list(times), parts, (0, steps))[0]


def test_every_row_of_a_full_class_stays_with_the_same_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = np.zeros(300)
    for seed in range(1000):
        sample = KeyedSample(60, np.random.default_rng(seed))
        keys = [sample.draw(10) for _ in range(30)]
        kept[np.argsort(np.concatenate(keys))[:60]] += 1
    # 1000 draws with probability 0.2: standard deviation 13.
    assert kept.sum() == 60_000
    assert np.abs(kept - 200).max() < 60
    assert np.isinf(np.concatenate(keys)).sum() > 50, "rows that cannot stay are not stored"


def test_the_limit_of_a_full_class_leaves_what_is_wanted() -> None:
    kept, rng = KeyedClass(100), np.random.default_rng(0)
    every = []
    for _ in range(50):
        keys = rng.random(40)
        every.append(keys)
        kept.add(keys[keys < kept.limit])
    smallest = np.sort(np.concatenate(every))[:100]
    np.testing.assert_array_equal(np.sort(kept.keys)[:100], smallest)
    assert 100 <= kept.count < 300
    assert kept.below(smallest[10]) == 10


def test_all_positives_stay_until_they_are_enough() -> None:
    stored = Stored(10_000, 10_000).run(400, 0.05)
    assert stored.sampler.count(1) == stored.sampler.seen[1] == stored.times(1).size


def test_stopping_early_leaves_balanced_uniform_classes() -> None:
    stored = Stored(100_000, 100_000).run(2000, 0.02)
    positives, negatives = stored.times(1), stored.times(0)
    assert positives.size == negatives.size == pytest.approx(2000, abs=150)
    assert spread(negatives, 2000) == pytest.approx(np.full(5, negatives.size / 5), rel=0.2)
    assert not stored.sampler.full
    # Far fewer than all negatives are stored, once the pilot is over.
    assert sum(len(rows["time"]) for rows in stored.rows[1000:]) < 0.1 * 50 * 1000


def test_stopping_within_the_pilot_leaves_balanced_classes() -> None:
    stored = Stored(100_000, 100_000).run(200, 0.02)
    assert not stored.sampler.fixed
    assert stored.times(1).size == stored.sampler.seen[1] == stored.times(0).size


def test_negatives_follow_the_ratio_asked_for() -> None:
    stored = Stored(100_000, 300_000).run(2000, 0.02)
    assert stored.sampler.count(0) == 3 * stored.sampler.count(1)


@pytest.mark.parametrize(("first", "then"), [(0.05, 0.01), (0.01, 0.05)])
def test_a_class_that_is_full_first_stays_uniform_over_time(first: float, then: float) -> None:
    stored = Stored(1500, 1500)
    step, rng = 0, np.random.default_rng(2)
    while not stored.sampler.full:
        stored.offer(rng.random(50) < (first if step < 600 else then), step)
        step += 1
    assert stored.times(0).size == stored.times(1).size == 1500
    # Negatives are about as frequent in both phases, so their times are uniform over all steps.
    assert spread(stored.times(0), step) == pytest.approx(np.full(5, 300), rel=0.2)


def test_the_pilot_is_bounded_and_uniform_when_no_positive_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PILOT_ROWS", 1000)
    stored = Stored(5000, 5000).run(1000, 0.0)
    times = stored.times(0)
    assert 400 < times.size <= 1000
    assert spread(times, 1000) == pytest.approx(np.full(5, times.size / 5), rel=0.3)
    assert sum(len(rows["time"]) for rows in stored.rows) < 8000


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    runs = [Stored(300, 300, seed).run(1000, 0.02).times(0).tolist() for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(("positive", "negative"), [(0, 50), (50, 0), (0, 0), (7, 7)])
def test_small_and_empty_wishes_are_met(positive: int, negative: int) -> None:
    stored = Stored(positive, negative).run(200, 0.1)
    assert stored.sampler.full
    assert (stored.times(1).size, stored.times(0).size) == (positive, negative)


@pytest.mark.parametrize(
    ("eligible", "wanted", "sizes"),
    [
        ((500, 10), (100, 100), (10, 10)),
        ((500, 10), (200, 100), (20, 10)),
        ((5, 10), (100, 100), (5, 10)),
        ((500, 300), (100, 100), (100, 100)),
        ((500, 0), (100, 100), (100, 0)),
        ((500, 0), (100, 0), (100, 0)),
    ],
)
def test_sizes_of_the_classes(eligible, wanted, sizes) -> None:
    assert class_sizes(eligible, wanted) == sizes


def test_what_other_processes_have_counts() -> None:
    one = Stored(1000, 1000).run(300, 0.02)
    assert not one.sampler.fixed or not one.sampler.full
    one.sampler.others = (Tally((40_000, 900), (0.02, 1.0), (800, 900)),)
    one.run(1, 0.02)
    assert one.sampler.fixed, "the pilot is over for all once all together have seen enough"
    assert one.sampler.limits[0] == min(0.02, one.sampler.classes[0].limit)
    assert one.sampler.eligible[1] == 900 + one.sampler.classes[1].count
    assert one.sampler.full == (one.sampler.eligible[0] >= 1000)


def test_a_collection_goes_on_at_its_limits() -> None:
    sampler = KeyedSampler(1000, 1000, 0)
    sampler.go_on((0.03, 1.0))
    assert sampler.fixed
    assert sampler.limits == (0.03, 1.0)
    rows = sampler.offer({"supervision": np.zeros((10_000, 1), np.int8)})
    assert rows[KEY].max() < 0.03
    assert rows[KEY].size == pytest.approx(300, abs=90)


def test_tracks_are_split_half_and_half() -> None:
    for count in (2, 7, 20):
        splitter = TrackSplitter(seed=0)
        first = [splitter.is_test(track) for track in range(count)]
        assert abs(2 * sum(first) - count) <= 1
        assert [splitter.is_test(track) for track in range(count)] == first


def test_the_split_is_seeded() -> None:
    splits = {tuple(map(TrackSplitter(seed).is_test, range(20))) for seed in (0, 1, 0)}
    assert len(splits) == 2
    for split in splits:
        assert all(split[i] != split[i + 1] for i in range(0, 20, 2))


def test_the_rate_waits_for_a_whole_episode_of_drones_that_start_together():
    # 1000 environments pass their only gate of 100 steps at step 2, all at once: early prevalence is 1 in 3.
    sampler = KeyedSampler(1500, 1500, seed=0)
    sampler.pilot_rows = 100_000
    for step in range(200):
        label = np.full((1000, 1), step % 100 == 2, np.int8)
        sampler.offer({"supervision": label, "features": np.zeros((1000, 1), np.float32)})
        assert sampler.fixed == (step >= 99)
        if step == 99:
            assert sampler.limits[0] == pytest.approx(sampling.MARGIN * 1000 / 99_000, rel=1e-6)
