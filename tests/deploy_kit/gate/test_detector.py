"""The detector on whole episodes, and held to the one on board."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.threshold import ThresholdRule
from deploy_kit.onboard.detector import DetectorRule, Slope
from deploy_kit.onboard.detector import GateDetector as OnboardDetector
from deploy_kit.policy.calibration import GateDetector

DETECTOR = GateDetector(0.0, -2.0, 10, 5)


def one_episode(passes: list[int], fires: list[int], rest: float = -3.0) -> tuple[Timeline, np.ndarray]:
    label, logit = np.zeros(60, bool), np.full(60, rest)
    label[passes], logit[fires] = True, 1.0
    return Timeline(np.zeros(60, np.int64), label, 5), logit


@pytest.mark.parametrize(
    ("passes", "fires", "hits", "alarms", "latency"),
    [
        ([20], [20], 1, 0, 0),
        ([20], [15], 1, 0, -5),
        ([20], [25], 1, 0, 5),
        ([20], [14], 0, 1, 0),
        ([20], [26], 0, 1, 0),
        ([20], [18, 19, 20, 21, 22, 23], 1, 0, -2),
        ([20], [], 0, 0, 0),
        ([20, 50], [19, 51], 2, 0, 0),
        # deaf for ten steps after a false alarm, so the passage is missed or hit late
        ([20], [12, 20], 0, 1, 0),
        ([20], [12, 20, 23], 1, 1, 3),
        # an alarm that lasts is one alarm
        ([], list(range(0, 44)), 0, 1, 0),
        ([0], [0], 1, 0, 0),
        ([59], [57], 1, 0, -2),
        # a label of several steps is one passage, from its first step on
        ([20, 21, 22, 23], [26], 1, 0, 6),
        ([20, 21, 22, 23], [21, 40], 1, 1, 1),
    ],
)
def test_the_detector_fires_once_a_passage(passes, fires, hits, alarms, latency) -> None:
    timeline, logit = one_episode(passes, fires)
    counts = timeline.count(logit, [DETECTOR])
    found = (counts.hits.item(), counts.false_alarms.item(), counts.latency.item())
    assert found == (hits, alarms, latency)
    firing = timeline.firings(logit, DETECTOR)
    assert (int(firing.hit.sum()), int((~firing.hit).sum())) == (hits, alarms)


def test_a_passage_is_hit_once() -> None:
    timeline, logit = one_episode([20], [16, 24])
    counts = timeline.count(logit, [GateDetector(0.0, -2.0, 2, 5)])
    assert (counts.hits.item(), counts.false_alarms.item(), counts.latency.item()) == (1, 1, -4)
    np.testing.assert_array_equal(timeline.firings(logit, GateDetector(0.0, -2.0, 2, 5)).hit, [True, False])


def test_only_a_logit_below_the_release_arms_again() -> None:
    timeline, logit = one_episode([20, 40], [20, 40], rest=-1.9)
    assert timeline.count(logit, [DETECTOR, GateDetector(0.0, -1.0, 10, 5)]).hits[:, 0].tolist() == [1, 2]
    logit[30] = -2.0
    assert timeline.count(logit, [DETECTOR]).hits.item() == 1
    logit[30] = -2.1
    assert timeline.count(logit, [DETECTOR]).hits.item() == 2


def test_episodes_do_not_reach_into_each_other() -> None:
    episode = np.repeat([7, 3], [30, 20])
    label, logit = np.zeros(50, bool), np.full(50, -3.0)
    label[31], logit[[28, 30]] = True, 1.0
    timeline = Timeline(episode, label, 5)
    counts = timeline.count(logit, [DETECTOR, GateDetector(2.0, 0.0, 10, 5)])
    np.testing.assert_array_equal(counts.steps, [30, 20])
    np.testing.assert_array_equal(counts.passes, [0, 1])
    np.testing.assert_array_equal(counts.hits, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(counts.false_alarms, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(counts.latency, [[0, -1], [0, 0]])
    np.testing.assert_array_equal(timeline.firings(logit, DETECTOR).row, [28, 30])


def test_labels_of_two_episodes_that_touch_are_two_passages() -> None:
    label = np.zeros(20, bool)
    label[[9, 10]] = True
    timeline = Timeline(np.repeat([0, 1], 10), label, 5)
    assert timeline.passages == 2
    assert timeline.count(np.zeros(20), [DETECTOR]).passes.tolist() == [1, 1]


# Few values, so that logits often lie exactly at a bound.
LOGITS = st.lists(st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0, 0.5]), min_size=1, max_size=60)


@given(
    episodes=st.lists(LOGITS, min_size=1, max_size=4),
    threshold=st.sampled_from([-1.0, 0.0]),
    drop=st.sampled_from([0.0, 0.5, 1.0]),
    refractory=st.integers(0, 7),
    slope=st.sampled_from([(), (0.5, 3, 0.5), (1.0, 5, 1.0), (2.0, 1, 0.0), (0.5, 0, 0.25)]),
)
def test_the_detector_on_board_fires_at_the_very_same_steps(episodes, threshold, drop, refractory, slope) -> None:
    logit = np.concatenate([np.array(values) for values in episodes])
    episode = np.repeat(np.arange(len(episodes)), [len(values) for values in episodes])
    timeline = Timeline(episode, np.zeros(logit.size, bool), 5)
    judged = timeline.firings(logit, GateDetector(threshold, threshold - drop, refractory, 5, *slope)).row.tolist()
    rise = Slope(*slope, threshold, threshold - drop, False) if slope else None
    on_board = OnboardDetector(DetectorRule(threshold, threshold - drop, refractory, rise))
    fired, row = [], 0
    for values in episodes:
        on_board.reset()
        for value in values:
            if on_board.step(value):
                fired.append(row)
            row += 1
    assert fired == judged


def test_score_adds_the_rise_beyond_the_usual_one() -> None:
    logit = np.array([-8.0, -6.0, -4.0, -1.0, -9.0, -5.0, -3.0])
    timeline = Timeline(np.array([0, 0, 0, 0, 0, 1, 1]), np.zeros(7, bool), 5)
    score = timeline.score(logit, GateDetector(0.0, 0.0, 1, 5, 0.5, 2, 3.0))
    # Over two steps; in the first ones since the episode's first.
    np.testing.assert_array_equal(score, [-9.5, -6.5, -3.5, 0.0, -13.0, -6.5, -3.5])
    np.testing.assert_array_equal(timeline.score(logit, DETECTOR), logit)


def test_usual_rise_is_that_of_whole_approaches() -> None:
    logit = np.array([0.0, 1.0, 3.0, -9.0, 0.0, 7.0, -5.0, 4.0])
    label = np.array([0, 0, 1, 0, 0, 1, 0, 1], bool)
    timeline = Timeline(np.array([0, 0, 0, 0, 0, 0, 1, 1]), label, 5)
    # 3 - 0 and 7 - (-9); the passage after one step is no whole approach.
    assert timeline.usual_rise(logit, 2) == 9.5
    assert timeline.usual_rise(-logit, 2) == 0.0
    assert Timeline(np.zeros(3, int), np.zeros(3, bool), 5).usual_rise(np.zeros(3), 2) == 0.0


@given(episode=LOGITS, slope=st.sampled_from([(0.5, 3, 0.5), (1.0, 5, 1.0)]))
def test_probabilities_are_held_against_the_same_score(episode, slope) -> None:
    """A graph that gives probabilities: where the score lies clear of the bounds, it decides as by logits."""
    rule = Slope(*slope, -0.77, -1.83, False)
    by_logit = OnboardDetector(DetectorRule(-0.77, -1.83, 3, rule))
    by_probability = OnboardDetector(DetectorRule(0.3, 0.1, 3, rule._replace(probability=True)))
    for logit in episode:
        assert by_probability.step(1 / (1 + math.exp(-logit))) == by_logit.step(logit)


def test_certain_probabilities_do_not_break_it() -> None:
    detector = OnboardDetector(DetectorRule(0.5, 0.2, 0, Slope(0.5, 2, 0.0, 0.0, -1.0, True)))
    assert [detector.step(value) for value in (0.0, 1.0, 0.0, 1.0)] == [False, True, False, True]


def test_a_period_without_output_repeats_the_last_one() -> None:
    detector = OnboardDetector(DetectorRule(1.0, 0.0, 0, Slope(1.0, 2, 0.0, 1.0, 0.0, False)))
    detector.step(-4.0)
    detector.pass_step()
    detector.pass_step()
    # The rise is from the repeated −4, two steps ago.
    assert detector.step(-2.0) is False
    assert detector.step(-1.5) is True
    detector.reset()
    assert detector.step(0.9) is False
    assert detector.step(0.96) is True


def test_rise_is_chosen_where_it_tells_passages_from_hovering_near_a_gate() -> None:
    """Fast drones pass with a logit that others reach who come near, slowly, and pass by."""
    fast = np.concatenate([np.full(12, -20.0), -1.5 - 3.0 * np.arange(6, -1, -1), np.full(20, -12.0)])
    near = np.concatenate([np.linspace(-4.0, -1.0, 30), np.linspace(-1.0, -8.0, 9)])
    logit = np.tile(np.concatenate([fast, near]), 6)
    label = np.tile(np.arange(fast.size + near.size) == 18, 6)
    episode = np.repeat(np.arange(12), np.tile([fast.size, near.size], 6))
    timeline = Timeline(episode, label, 5)
    chosen = ThresholdRule().choose(logit, label, timeline, 0.03)
    counts = timeline.count(logit, [chosen])
    assert (counts.hits.sum(), counts.false_alarms.sum()) == (6, 0)
    assert chosen.slope_gain > 0
    assert (chosen.slope_steps, chosen.slope_rise) == (5, 15.0)
    plain = [GateDetector(t, t - 2.0, 10, 5) for t in np.unique(logit)]
    flat = timeline.count(logit, plain)
    assert not ((flat.hits.sum(axis=1) == 6) & (flat.false_alarms.sum(axis=1) == 0)).any()


def test_longer_rest_is_chosen_where_the_logit_comes_back() -> None:
    """A second rise soon after each passage: only a longer rest keeps it from being announced."""
    once = np.full(60, -9.0)
    once[18:21] = [-3.0, -1.0, 0.0]
    once[33:36] = [-3.0, -1.0, 0.0]
    logit, label = np.tile(once, 4), np.tile(np.arange(60) == 20, 4)
    timeline = Timeline(np.repeat(np.arange(4), 60), label, 5)
    chosen = ThresholdRule().choose(logit, label, timeline, 0.03)
    assert chosen.refractory_steps in (15, 20)
    assert timeline.count(logit, [chosen]).false_alarms.sum() == 0
    assert timeline.count(logit, [replace(chosen, refractory_steps=10)]).false_alarms.sum() == 4
