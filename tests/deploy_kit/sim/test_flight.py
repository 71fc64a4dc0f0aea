"""The reference policy flies the embedded simulator: whatever frame, sign, order or delay is wrong shows here."""

import numpy as np
import pytest
import torch

from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.sim.registry import EnvOptions, make_env

pytestmark = [pytest.mark.reference, pytest.mark.slow]
EPISODES = 96


@pytest.fixture(scope="module")
def policy(reference_run):
    threads = torch.get_num_threads()
    # More of them spin on the simulator's cores between batches.
    torch.set_num_threads(1)
    yield load_checkpoint(reference_run / "model_7998.pt").network.eval()
    torch.set_num_threads(threads)


def first_episodes(policy, track, obstacles, episodes=EPISODES):
    """Fly the first episode of each environment; returns gates passed and whether it crashed, shape (episodes,)."""
    # The nominal airframe, as the figures that the task's reference gives.
    options = EnvOptions(num_envs=episodes, tracks=(track,), obstacles=obstacles, randomisation=False)
    gates, crashed, flying = np.zeros(episodes), np.zeros(episodes, bool), np.ones(episodes, bool)
    env = make_env(options)
    observations = env.get_observations()
    while flying.any():
        with torch.inference_mode():
            actions = policy(observations["policy"]).action
        observations, _, dones, extras = env.step(actions)
        ending = flying & dones.bool().numpy()
        gates[ending] = extras["gates_passed"].numpy()[ending]
        crashed[ending] = extras["crashed"].numpy()[ending]
        flying &= ~ending
    env.close()
    return gates, crashed


def test_circular_tracks(policy):
    gates, crashed = first_episodes(policy, "circular", obstacles=False)
    assert gates.mean() >= 6.8
    assert crashed.mean() <= 0.02


def test_circular_tracks_with_obstacles(policy):
    gates, _ = first_episodes(policy, "circular", obstacles=True)
    assert gates.mean() - 1.96 * gates.std(ddof=1) / EPISODES**0.5 >= 4.6


def test_ellipses(policy):
    gates, _ = first_episodes(policy, "ellipse", obstacles=False)
    assert gates.mean() >= 5.8


def test_zigzags_are_flown_to_their_end(policy):
    gates, crashed = first_episodes(policy, "zigzag", obstacles=False, episodes=32)
    assert gates.mean() >= 6.8
    assert crashed.sum() <= 1
