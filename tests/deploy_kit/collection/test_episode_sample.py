"""Kept observations of recurrent policies: whole episodes from their first step on, as many as fit."""

import numpy as np
import torch

from deploy_kit.collection.rows import EpisodeSample, StepRows

LENGTHS = np.array([5, 7, 3, 9])


def flown(sample: EpisodeSample, steps: int):
    """Offer the steps of four environments, whose episodes follow each other; return the kept rows."""
    found = []
    for time in range(steps):
        step = (time % LENGTHS).astype(np.int32)
        episode = 10 * (time // LENGTHS) + np.arange(4)
        rows = StepRows(
            observation=torch.full((4, 2), float(time)),
            features=np.zeros((4, 3), np.float32),
            label=np.zeros(4, np.int8),
            episode_id=episode,
            env_id=np.arange(4, dtype=np.int32),
            track_id=np.zeros(4, np.int64),
            step=step,
            reason=np.zeros(4, np.uint8),
        )
        if (kept := sample.offer(rows, np.arange(4))) is not None:
            found += [
                (int(e), int(s), keys)
                for e, s, keys in zip(kept["episode_id"], kept["step"], kept["keys"], strict=True)
            ]
    return found


def test_episodes_are_kept_from_their_first_step_on():
    kept = flown(EpisodeSample(60), 40)
    assert len(kept) <= 60
    episodes = {}
    for episode, step, _ in kept:
        episodes.setdefault(episode, []).append(step)
    assert len(episodes) > 4
    for steps in episodes.values():
        assert steps == list(range(len(steps)))
    whole = [episode for episode, steps in episodes.items() if len(steps) == LENGTHS[episode % 10]]
    assert len(whole) >= len(episodes) - 1


def test_each_row_counts_for_one_reason_and_no_share_is_exceeded():
    kept = flown(EpisodeSample(30), 40)
    finite = np.isfinite(np.array([keys for *_, keys in kept]))
    assert (finite.sum(axis=1) == 1).all()
    assert finite.sum(axis=0).max() <= 8
    assert len(kept) <= 30


def test_nothing_is_kept_where_nothing_is_wanted():
    assert len(flown(EpisodeSample(1), 40)) == 1
