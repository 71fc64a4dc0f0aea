import numpy as np
import pytest
import torch

from deploy_kit.flight.episodes import FirstEpisodes, bootstrap_estimate, mean_estimate, rate_estimate
from deploy_kit.flight.rollout import StepRecord, rollout
from deploy_kit.policy.network import PolicyOutput
from helpers import scripted_racing


def record(step, label, done, time_out=None, logit=None, **extras):
    n = len(label)
    output = PolicyOutput(torch.zeros(n, 4), None if logit is None else torch.tensor(logit)[:, None], torch.zeros(n, 0))
    time_out = [False] * n if time_out is None else time_out
    return StepRecord(
        step,
        torch.zeros(n, 3),
        output,
        torch.tensor(label),
        torch.tensor(done),
        torch.tensor(time_out),
        {name: torch.tensor(value) for name, value in extras.items()},
    )


def test_only_first_episodes_count():
    episodes = FirstEpisodes(2)
    episodes.add(record(0, [True, False], [False, True], [False, False], speed=[1.0, 5.0]))
    assert not episodes.complete
    # Environment 1 is in its second episode now: nothing of it counts any more.
    episodes.add(record(1, [True, True], [False, False], speed=[3.0, 100.0]))
    episodes.add(record(2, [False, True], [True, True], [True, False], speed=[2.0, 100.0]))
    assert episodes.complete
    statistics = episodes.statistics()
    assert statistics.episodes == 2
    assert statistics.env_steps == 4
    assert statistics.gates_per_episode.mean == 1.0  # 2 and 0
    assert statistics.crash_rate.mean == 0.5  # environment 1 ended otherwise than by time
    assert statistics.mean_speed.mean == pytest.approx((2.0 + 5.0) / 2)
    assert statistics.gate_auroc is None


def test_the_track_is_the_one_that_the_first_episode_began_on():
    episodes = FirstEpisodes(2)
    episodes.add(record(0, [False, False], [False, True], track_id=[2**62, 5]))
    # Environment 1 is on another track in its second episode.
    episodes.add(record(1, [False, False], [True, False], track_id=[2**62, 7]))
    assert episodes.track_id.tolist() == [2**62, 5]
    untold = FirstEpisodes(1)
    untold.add(record(0, [False], [True]))
    assert untold.track_id is None


def test_gate_auroc_is_taken_over_the_steps_of_first_episodes():
    episodes = FirstEpisodes(2)
    episodes.add(record(0, [False, True], [False, True], logit=[-1.0, 2.0]))
    episodes.add(record(1, [True, True], [False, False], logit=[0.5, -9.0]))  # -9 is of a second episode
    episodes.add(record(2, [False, False], [True, True], logit=[1.0, 9.0]))
    # positives 2.0, 0.5; negatives -1.0, 1.0: of four pairs (0.5, 1.0) is out of order.
    assert episodes.statistics().gate_auroc.mean == 0.75


def test_statistics_of_a_scripted_flight(network):
    env = scripted_racing.ScriptedEnv(4, seed=0, device="cpu")
    episodes = FirstEpisodes(4)
    for step in rollout(env, network, max_steps=8):
        episodes.add(step)
    statistics = episodes.statistics()
    lengths = [scripted_racing.length_of(i, 0) for i in range(4)]
    gates = [sum(scripted_racing.label_of(i, 0, s) for s in range(lengths[i])) for i in range(4)]
    assert episodes.gates.tolist() == gates
    assert episodes.length.tolist() == lengths
    assert episodes.crashed.tolist() == [not scripted_racing.ends_by_time(i, 0) for i in range(4)]
    assert statistics.mean_speed is None


def test_intervals():
    estimate = mean_estimate(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446305 * np.std([1, 2, 3, 4], ddof=1) / 2  # Student's t, three degrees of freedom
    assert estimate.ci95 == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))
    # Wilson's interval for 0 of 96 and 5 of 10 (values from the closed form).
    assert rate_estimate(0, 96).ci95 == (0.0, pytest.approx(0.03847, abs=1e-5))
    assert rate_estimate(5, 10).ci95 == (pytest.approx(0.23659, abs=1e-5), pytest.approx(0.76341, abs=1e-5))


def test_bootstrap_resamples_whole_clusters_with_a_seed():
    values = np.arange(50.0)

    def mean(index):
        return float(values[index].mean())

    first, second = bootstrap_estimate(mean, 50, seed=1), bootstrap_estimate(mean, 50, seed=1)
    assert first == second
    assert first.mean == 24.5
    spread = 1.96 * values.std() / np.sqrt(50)
    assert first.ci95[0] == pytest.approx(24.5 - spread, abs=0.8)
    assert first.ci95[1] == pytest.approx(24.5 + spread, abs=0.8)
    assert bootstrap_estimate(lambda index: None, 50, seed=1) is None
