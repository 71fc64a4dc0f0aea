import math
from types import SimpleNamespace

import pytest
import torch

from deploy_kit.errors import TaskError
from deploy_kit.flight import finite
from deploy_kit.flight.rollout import policy_period, require_checkpoint, rollout
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.sim.options import EnvOptions
from helpers import failing_racing, scripted_racing


def test_a_record_pairs_what_the_policy_saw_with_what_its_step_led_to(network):
    env = scripted_racing.ScriptedEnv(3, seed=5, device="cpu")
    episode, step = [0, 0, 0], [0, 0, 0]
    for record in rollout(env, network, max_steps=12):
        for i in range(3):
            expected = scripted_racing.observation_of(5, i, episode[i], step[i])
            assert torch.equal(record.observation[i], expected)
            assert bool(record.label[i]) is scripted_racing.label_of(i, episode[i], step[i])
            ends = step[i] + 1 == scripted_racing.length_of(i, episode[i])
            assert bool(record.done[i]) is ends
            assert bool(record.time_out[i]) is (ends and scripted_racing.ends_by_time(i, episode[i]))
            episode[i], step[i] = (episode[i] + 1, 0) if ends else (episode[i], step[i] + 1)
        output = network(record.observation)
        assert torch.equal(record.output.features, output.features)
        assert torch.equal(env.log[record.step], output.action)
    assert len(env.log) == 12


def test_an_action_that_is_not_finite_stops_the_flight():
    def driver(observation):
        action = torch.zeros(len(observation), 4)
        action[1, 2] = math.nan
        return PolicyOutput(action, None, torch.empty(len(observation), 0))

    env = scripted_racing.ScriptedEnv(2, seed=0, device="cpu")
    with pytest.raises(TaskError, match="not finite in environment 1 at step 0"):
        next(rollout(env, driver))
    assert env.log == []


def test_where_the_answer_comes_late_it_comes_after_the_step_and_says_the_same(monkeypatch):
    """As on a GPU, where asking whether numbers are finite would hold up the host."""
    monkeypatch.setattr(finite, "LATE_DEVICES", ("cpu",))

    def driver(observation):
        action = torch.zeros(len(observation), 4)
        action[1, 2] = math.nan if len(env.log) == 1 else 0.0
        return PolicyOutput(action, None, torch.empty(len(observation), 0))

    env = scripted_racing.ScriptedEnv(2, seed=0, device="cpu")
    flight = rollout(env, driver)
    assert next(flight).broken is None
    with pytest.raises(TaskError, match="action is not finite in environment 1 at step 1"):
        next(flight)
    assert len(env.log) == 2


@pytest.mark.parametrize("late", [False, True])
def test_an_observation_that_is_not_finite_is_seen_as_zeros_or_ends_the_flight(monkeypatch, late):
    monkeypatch.setattr(finite, "LATE_DEVICES", ("cpu",) if late else ("cuda",))
    seen = []

    def driver(observation):
        seen.append(observation.clone())
        return PolicyOutput(torch.zeros(len(observation), 4), None, torch.empty(len(observation), 0))

    def flight(**changes):
        env = failing_racing.make_not_finite(EnvOptions(num_envs=3, seed=0))
        return rollout(env, driver, 60, **changes)

    records = list(flight(go_on_broken=True))
    broken = [record for record in records if record.broken is not None]
    assert [record.broken.tolist() for record in broken] == [[False, True, False]]
    assert (seen[broken[0].step][1] == 0).all()
    assert all(torch.isfinite(observation).all() for observation in seen)
    with pytest.raises(TaskError, match=f"not finite in environment 1 at step {broken[0].step}"):
        list(flight())


def test_a_checkpoint_needs_an_environment_that_takes_its_actions(network):
    env, checkpoint = scripted_racing.ScriptedEnv(2, seed=0, device="cpu"), SimpleNamespace(network=network)
    require_checkpoint(env, checkpoint, "toy")
    env.num_actions = 3
    with pytest.raises(TaskError, match="task 'toy' takes 3 actions, the policy gives 4"):
        require_checkpoint(env, checkpoint, "toy")


def test_an_environment_that_knows_its_agent_is_asked_for_it(network):
    env, checkpoint, asked = scripted_racing.ScriptedEnv(2, seed=0, device="cpu"), SimpleNamespace(network=network), []
    env.require_policy = asked.append
    require_checkpoint(env, checkpoint, "toy")
    assert asked == [checkpoint]


def test_the_policys_period_is_the_environments_own_or_the_racing_tasks():
    env = scripted_racing.ScriptedEnv(1, seed=0, device="cpu")
    assert policy_period(env) == pytest.approx(0.03)
    env.unwrapped = SimpleNamespace(step_dt=0.02)
    assert policy_period(env) == pytest.approx(0.02)
