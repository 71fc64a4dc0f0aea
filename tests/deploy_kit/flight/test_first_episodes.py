from types import SimpleNamespace

import pytest
import torch

from deploy_kit.errors import TaskError
from deploy_kit.flight import first_episodes
from deploy_kit.flight.first_episodes import fly_first_episodes
from helpers import scripted_racing

NUM_ENVS = 4


@pytest.fixture
def env():
    return scripted_racing.ScriptedEnv(NUM_ENVS, seed=5, device="cpu")


def test_it_flies_until_the_longest_first_episode_ends(env, network):
    seen = []
    flight = fly_first_episodes(env, network, seen.append)
    lengths = [scripted_racing.length_of(index, 0) for index in range(NUM_ENVS)]
    assert flight.episodes.complete
    assert flight.episodes.length.tolist() == lengths
    assert [record.step for record in seen] == list(range(max(lengths)))
    starts = torch.stack([scripted_racing.observation_of(5, index, 0, 0) for index in range(NUM_ENVS)])
    assert torch.equal(flight.first_observation, starts)


def test_flights_are_pairs_where_they_begin_alike(network):
    first, again, other = (
        fly_first_episodes(scripted_racing.ScriptedEnv(NUM_ENVS, seed, "cpu"), network) for seed in (5, 5, 6)
    )
    assert first.starts_like(again)
    assert not first.starts_like(other)


def test_progress_tells_the_steps_of_the_longest_episode(env, network, monkeypatch):
    always_due = SimpleNamespace(due=lambda: True, note=lambda: "1 env steps/s")
    monkeypatch.setattr(first_episodes, "Meter", lambda num_envs: always_due)
    told = []
    fly_first_episodes(env, network, progress=told.append, phase="flights of a test")
    assert {moment.phase for moment in told} == {"flights of a test"}
    assert {moment.total for moment in told} == {env.max_episode_length} == {8}
    # Step by step, and all of it with the sixth, in which the last episode ends.
    assert [moment.completed for moment in told] == [0, 1, 2, 3, 4, 5, 8]
    ended = [int(moment.note.split(" of 4 episodes ended, 1 env steps/s")[0]) for moment in told]
    assert ended == [0, 0, 0, 0, 2, 3, 4]


def test_episodes_without_end_are_refused(env, network, monkeypatch):
    monkeypatch.setattr(scripted_racing, "length_of", lambda env, episode: 100 if env == 2 else 4)
    with pytest.raises(TaskError, match=r"^1 episodes had not ended after 9 steps; .*max_episode_length"):
        fly_first_episodes(env, network)
