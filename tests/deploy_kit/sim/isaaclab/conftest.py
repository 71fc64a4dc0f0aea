"""Isaac Lab is launched once for all tests of this folder; an environment then takes two seconds."""

import pytest


@pytest.fixture
def build():
    """Build Isaac Lab environments; each is closed when the next one is built, or the test ends."""
    from deploy_kit.sim.registry import make_env

    built = []

    def make(options, **kwargs):
        # Isaac Lab has one environment at a time.
        while built:
            built.pop().close()
        built.append(make_env(options, backend="isaaclab", **kwargs))
        return built[-1]

    yield make
    for env in built:
        env.close()


@pytest.fixture
def calm(build):
    from tests.deploy_kit.sim.isaaclab.support import CALM

    return build(CALM)
