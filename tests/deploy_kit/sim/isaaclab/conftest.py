"""Isaac Lab is launched once for all tests of this folder; an environment then takes two seconds."""

import pytest


@pytest.fixture
def build():
    """Build Isaac Lab environments that are closed at the end of the test."""
    from deploy_kit.sim.registry import make_env

    built = []

    def make(options, **kwargs):
        env = make_env(options, backend="isaaclab", **kwargs)
        built.append(env)
        return env

    yield make
    for env in built:
        env.close()


@pytest.fixture(scope="module")
def calm():
    from deploy_kit.sim.registry import make_env
    from tests.deploy_kit.sim.isaaclab.support import CALM

    env = make_env(CALM, backend="isaaclab")
    yield env
    env.close()
