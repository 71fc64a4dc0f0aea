"""An environment that is put into the state of another one flies on as that one does, to the last bit."""

import numpy as np
import pytest
import torch

from deploy_kit.errors import InputError
from deploy_kit.generators import generator_state, set_generator_state
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.options import EnvOptions

BASE = {"num_envs": 3, "seed": 5, "num_threads": 1, "difficulty": 0.0}


def actions(step: int, num_envs: int = 3) -> torch.Tensor:
    return torch.randn(num_envs, 4, generator=torch.Generator().manual_seed(step))


def fly(env, first: int, steps: int):
    """Return all that an environment gives in some steps, as numpy arrays."""
    found = []
    for step in range(first, first + steps):
        observations, rewards, dones, extras = env.step(actions(step))
        items = {**dict(observations.items()), "rewards": rewards, "dones": dones, **extras}.items()
        found.append({name: value.numpy().copy() for name, value in items if name != "log"})
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"episodes_per_track": 1},
        {"episodes_per_track": 2, "track_pool": 2, "stage": 1, "finish": "cyclic"},
        {"levels": True, "neighbours": True, "difficulty": None},
    ],
)
def test_a_restored_environment_flies_on_as_the_other_one(changes):
    options = EnvOptions(**{**BASE, **changes})
    # Random actions end an episode within some fifty steps: tracks, generators and levels are those of later episodes.
    with MujocoRacingEnv(options) as env, MujocoRacingEnv(options) as other:
        fly(env, 0, 130)
        # As after a long flight: these gates are behind the drones, each is in the next one, and time is over soon.
        env._gate[:], env._gates_passed[:], env.episode_length_buf[:] = 3, 5, 250
        env._fleet.physics.position[:] = env._gates[:, 3]
        taken = env.snapshot()
        expected = fly(env, 130, 70)
        # Nothing of what it was before may show.
        fly(other, 1000, 37)
        other.restore(taken)
        for name, value in env.get_observations().items():
            assert value.shape == other.get_observations()[name].shape
        found = fly(other, 130, 70)
        assert sum(step["dones"].sum() for step in expected) >= 2
        for step, (one, two) in enumerate(zip(expected, found, strict=True)):
            for name, values in one.items():
                np.testing.assert_array_equal(values, two[name], err_msg=f"{name} in step {step}")


def test_a_snapshot_is_a_copy_and_holds_the_observation():
    with MujocoRacingEnv(EnvOptions(**BASE)) as env, MujocoRacingEnv(EnvOptions(**BASE)) as other:
        env._fleet.physics.position[:] = env._gates[:, 0]
        fly(env, 0, 1)
        assert env.get_observations()["auxiliary"].any()
        seen = {name: value.clone() for name, value in env.get_observations().items()}
        taken = env.snapshot()
        fly(env, 3, 2)
        other.restore(taken)
        for name, value in seen.items():
            assert torch.equal(other.get_observations()[name], value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gate", lambda a: a + 99, "gate is not between 0 and 7"),
        ("state", lambda a: a * np.nan, "state is not finite"),
        ("state", lambda a: a[:2], "state is float64 \\(2, 14\\), not float64 \\(3, 14\\)"),
        ("depth", lambda a: a.astype(np.float64), "depth is float64"),
        ("room", lambda a: a + 10**6, "room for 10000"),
        ("generators", lambda a: a + np.uint64(2**40), "generator of environment 0"),
        ("more", None, "'more' is in one of them alone"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(name, change, message):
    with MujocoRacingEnv(EnvOptions(**BASE)) as env:
        taken = env.snapshot()
        taken[name] = change(taken[name]) if change else np.zeros(1)
        with pytest.raises(InputError, match=message):
            env.restore(taken)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.SFC64])
def test_a_generator_goes_on_from_its_stored_state(kind):
    rng, other = np.random.Generator(kind(1)), np.random.Generator(kind(2))
    rng.integers(0, 10, 5, np.uint32)  # half a draw is held back
    set_generator_state(other, generator_state(rng))
    np.testing.assert_array_equal(rng.integers(0, 10, 5, np.uint32), other.integers(0, 10, 5, np.uint32))
    np.testing.assert_array_equal(rng.random(5), other.random(5))
    with pytest.raises(TypeError, match="MT19937"):
        generator_state(np.random.Generator(np.random.MT19937(1)))
