"""Isaac Lab is launched once for all tests of this folder; an environment then takes two seconds."""

import gc

import pytest


def _close(env):
    env.close()
    # Closing collects garbage among a million objects of imported modules, for seconds; they live for ever anyway.
    gc.freeze()


@pytest.fixture
def build():
    """Build Isaac Lab environments; each is closed when the next one is built, or the test ends."""
    from deploy_kit.sim.registry import make_env

    built = []

    def make(options, **kwargs):
        # Isaac Lab has one environment at a time.
        while built:
            _close(built.pop())
        built.append(make_env(options, backend="isaaclab", **kwargs))
        return built[-1]

    yield make
    for env in built:
        _close(env)


@pytest.fixture(scope="session")
def cube_checkpoint(tmp_path_factory):
    """A checkpoint of rsl_rl 5, untrained, for the tests' own tasks: 7 numbers of state and 18 x 36 pixels."""
    import torch
    from tensordict import TensorDict

    from deploy_kit.policy.rsl_rl_models import VisionActor, VisionCritic

    torch.manual_seed(0)
    observations = TensorDict({"policy": torch.zeros(1, 7 + 18 * 36)}, batch_size=[1])
    arguments = (observations, {"actor": ["policy"], "critic": ["policy"]})
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0}
    actor = VisionActor(*arguments, "actor", 4, image_shape=(18, 36), distribution_cfg=gaussian, obs_normalization=True)
    critic = VisionCritic(*arguments, "critic", 1, cnns=actor.cnns, obs_normalization=True)
    path = tmp_path_factory.mktemp("cube_run") / "model_0.pt"
    torch.save({"actor_state_dict": actor.state_dict(), "critic_state_dict": critic.state_dict(), "iter": 0}, path)
    return path


@pytest.fixture
def calm(build):
    from helpers.isaaclab.states import CALM

    return build(CALM)
