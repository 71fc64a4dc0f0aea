import numpy as np
import pytest

from deploy_kit.data import sampling
from deploy_kit.data.sampling import BalancedSampler, Reservoir
from deploy_kit.data.split import TrackSplitter


class Stored:
    """Applies placements the way a file does."""

    def __init__(self, num_positive: int, num_negative: int, seed: int = 0) -> None:
        self.sampler = BalancedSampler(num_positive, num_negative, seed)
        self.time: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def offer(self, label: np.ndarray, time: int) -> None:
        rows = {"supervision": label[:, None].astype(np.int8), "time": np.full(len(label), time)}
        self.apply(self.sampler.offer(rows))

    def apply(self, placements) -> None:
        for placement in placements:
            assert (placement.rows["supervision"] == placement.label).all()
            stored = self.time[placement.label]
            fresh = placement.slots[: placement.new]
            assert fresh.tolist() == list(range(len(stored), len(stored) + placement.new))
            for slot, time in zip(placement.slots.tolist(), placement.rows["time"].tolist(), strict=True):
                stored[slot] = time

    def run(self, steps: int, prevalence, envs: int = 50, seed: int = 1) -> "Stored":
        rng = np.random.default_rng(seed)
        for step in range(steps):
            share = prevalence(step) if callable(prevalence) else prevalence
            self.offer(rng.random(envs) < share, step)
        return self


def spread(times, steps: int, parts: int = 5) -> np.ndarray:
    return np.histogram(list(times), parts, (0, steps))[0]


def test_reservoir_keeps_every_row_with_the_same_probability() -> None:
    kept = np.zeros(30)
    for seed in range(2000):
        reservoir, slots = Reservoir(6, np.random.default_rng(seed)), {}
        for start in range(0, 30, 5):
            for row, slot in enumerate(reservoir.place(5)):
                if slot >= 0:
                    slots[int(slot)] = start + row
        kept[list(slots.values())] += 1
    # 2000 draws with probability 0.2: standard deviation 18.
    assert kept.sum() == 12_000
    assert np.abs(kept - 400).max() < 80


def test_reservoir_of_one_takes_either_of_two_rows() -> None:
    last = sum(Reservoir(1, np.random.default_rng(seed)).place(2).tolist() == [0, 0] for seed in range(2000))
    # Standard deviation 22.
    assert abs(last - 1000) < 100


def test_reservoir_of_capacity_zero_keeps_nothing() -> None:
    assert Reservoir(0, np.random.default_rng(0)).place(4).tolist() == [-1] * 4


def test_all_positives_stay_until_they_are_enough() -> None:
    stored = Stored(10_000, 10_000).run(400, 0.05)
    assert stored.sampler.count(1) == stored.sampler.seen[1] == len(stored.time[1])
    assert stored.sampler.rate(1) == 1.0


def test_stopping_early_leaves_balanced_uniform_classes() -> None:
    stored = Stored(100_000, 100_000).run(2000, 0.02)
    stored.apply(stored.sampler.settle())
    positives, negatives = len(stored.time[1]), len(stored.time[0])
    assert positives == pytest.approx(2000, abs=150)
    assert negatives == pytest.approx(positives, rel=0.2)
    assert spread(stored.time[0].values(), 2000) == pytest.approx(np.full(5, negatives / 5), rel=0.2)
    assert not stored.sampler.full


def test_stopping_within_the_pilot_leaves_balanced_classes() -> None:
    stored = Stored(100_000, 100_000).run(200, 0.02)
    assert stored.time == ({}, {})
    expected = stored.sampler.count(0)
    stored.apply(stored.sampler.settle())
    assert len(stored.time[1]) == stored.sampler.seen[1] == stored.sampler.count(1)
    assert len(stored.time[0]) == expected == pytest.approx(len(stored.time[1]), rel=0.35)


def test_negatives_follow_the_ratio_asked_for() -> None:
    stored = Stored(100_000, 300_000).run(2000, 0.02)
    assert stored.sampler.count(0) == pytest.approx(3 * stored.sampler.count(1), rel=0.2)


@pytest.mark.parametrize(("first", "then"), [(0.05, 0.01), (0.01, 0.05)])
def test_a_class_that_is_full_first_stays_uniform_over_time(first: float, then: float) -> None:
    stored = Stored(1500, 1500)
    step, rng = 0, np.random.default_rng(2)
    while not stored.sampler.full:
        stored.offer(rng.random(50) < (first if step < 600 else then), step)
        step += 1
    assert len(stored.time[0]) == len(stored.time[1]) == 1500
    negatives = np.array(list(stored.time[0].values()))
    # Negatives are about as frequent in both phases, so their times are uniform over all steps.
    assert spread(negatives, step) == pytest.approx(np.full(5, 300), rel=0.2)


def test_the_pilot_is_bounded_and_uniform_when_no_positive_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PILOT_ROWS", 1000)
    stored = Stored(5000, 5000).run(1000, 0.0)
    assert stored.sampler._pilot_keys.size <= 1000
    stored.apply(stored.sampler.settle())
    assert 400 < len(stored.time[0]) <= 1000
    assert spread(stored.time[0].values(), 1000) == pytest.approx(np.full(5, len(stored.time[0]) / 5), rel=0.3)


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    runs = [Stored(300, 300, seed).run(1000, 0.02).time for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


@pytest.mark.parametrize(("positive", "negative"), [(0, 50), (50, 0), (0, 0), (7, 7)])
def test_small_and_empty_wishes_are_met(positive: int, negative: int) -> None:
    stored = Stored(positive, negative).run(200, 0.1)
    assert stored.sampler.full
    assert (len(stored.time[1]), len(stored.time[0])) == (positive, negative)


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
    sampler = BalancedSampler(1500, 1500, seed=0)
    sampler.pilot_rows = 100_000
    kept = [0, 0]
    for step in range(200):
        label = np.full((1000, 1), step % 100 == 2, np.int8)
        rows = {"supervision": label, "features": np.zeros((1000, 1), np.float32)}
        for placement in sampler.offer(rows):
            kept[placement.label] += len(placement.slots)
        assert sampler._fixed == (step >= 99)
    assert sampler.rate(0) == pytest.approx(1500 / 198_000, rel=0.1)
