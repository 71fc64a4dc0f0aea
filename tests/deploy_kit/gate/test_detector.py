"""The detector on whole episodes, and held to the one on board."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_kit.gate.detector import Timeline
from deploy_kit.onboard.detector import DetectorRule
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
)
def test_the_detector_on_board_fires_at_the_very_same_steps(episodes, threshold, drop, refractory) -> None:
    logit = np.concatenate([np.array(values) for values in episodes])
    episode = np.repeat(np.arange(len(episodes)), [len(values) for values in episodes])
    timeline = Timeline(episode, np.zeros(logit.size, bool), 5)
    judged = timeline.firings(logit, GateDetector(threshold, threshold - drop, refractory, 5)).row.tolist()
    on_board = OnboardDetector(DetectorRule(threshold, threshold - drop, refractory))
    fired, row = [], 0
    for values in episodes:
        on_board.reset()
        for value in values:
            if on_board.step(value):
                fired.append(row)
            row += 1
    assert fired == judged
