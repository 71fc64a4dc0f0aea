"""The back ends side by side: the same tracks, states and actions give the same observations, rewards and flights."""

import numpy as np
import pytest
import torch

pytest.importorskip("isaaclab")
pytest.importorskip("mujoco")
pytest.importorskip("numba")

from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.randomisation import Start
from deploy_kit.sim.registry import make_env
from deploy_kit.task.interface import STATE_TERMS
from helpers.isaaclab.states import CALM, state

STEPS = 30


@pytest.fixture(scope="module")
def calm():
    env = make_env(CALM, backend="isaaclab")
    yield env
    env.close()


@pytest.fixture(scope="module")
def embedded():
    with MujocoRacingEnv(CALM) as env:
        yield env


def copy_state(source, target: MujocoRacingEnv):
    """Begin an episode in both, the embedded simulator's from the state that Isaac Lab drew."""
    source.reset()
    target.reset()
    for index, values in enumerate(zip(*state(source), strict=True)):
        target._fleet.physics.reset(index, Start(*values))
        target._sensors.forget_frame(index)
    target._observations = target._observe(np.zeros(target.num_envs, bool), np.zeros(target.num_envs, np.float32))


@pytest.fixture(scope="module")
def flights(calm, embedded):
    """Noise-free observations, rewards and extras of both over the same actions."""
    copy_state(calm, embedded)
    rng = torch.Generator().manual_seed(0)
    flights = []
    actions = [0.4 * torch.randn(CALM.num_envs, 4, generator=rng) for _ in range(STEPS)]
    for env in (calm, embedded):
        steps = [(env.get_observations()["critic"].clone(), None, None)]
        for action in actions:
            observations, rewards, _, extras = env.step(action)
            steps.append((observations["critic"].clone(), rewards.clone(), extras))
        flights.append(steps)
    return flights


def test_tracks_are_the_same(calm, embedded):
    assert [track.seed for track in calm.tracks()] == [track.seed for track in embedded.tracks()]


@pytest.mark.parametrize("term", STATE_TERMS, ids=lambda term: term.name)
def test_state_terms_agree(flights, term):
    for step, ((ours, *_), (theirs, *_)) in enumerate(zip(*flights, strict=True)):
        difference = (ours - theirs)[:, term.start : term.stop].abs().max()
        # The two engines' integrators differ by rounding, which grows as the flight goes on.
        assert difference < 2e-4 * (1 + step), f"step {step}"


def test_state_terms_agree_to_float_precision_in_the_same_state(flights):
    ours, theirs = flights[0][0][0][:, :16], flights[1][0][0][:, :16]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_images_agree(flights):
    for step in (0, 2, 4):
        difference = (flights[0][step][0] - flights[1][step][0])[:, 16:].abs()
        # A pixel on an edge falls to either side; all others agree.
        assert (difference > 1e-4).float().mean() < 0.002, f"step {step}"
        assert difference.median() < 1e-5, f"step {step}"


def test_rewards_agree(flights):
    for (_, ours, _), (_, theirs, _) in list(zip(*flights, strict=True))[1:]:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_extras_have_the_same_names_types_and_cadence(flights):
    for (_, _, ours), (_, _, theirs) in list(zip(*flights, strict=True))[1:]:
        assert {name: v.dtype for name, v in ours.items() if isinstance(v, torch.Tensor)} == {
            name: v.dtype for name, v in theirs.items() if isinstance(v, torch.Tensor)
        }
        for name in ("fresh_image", "first_step", "episode_step", "gates_passed", "track_id", "crashed", "time_outs"):
            assert torch.equal(ours[name], theirs[name]), name
        torch.testing.assert_close(ours["position"], theirs["position"], rtol=0, atol=5e-3)
        # A quaternion and its negative are one attitude.
        assert ((ours["quaternion"] * theirs["quaternion"]).sum(-1).abs() > 0.9999).all()
