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


@pytest.fixture
def calm(build):
    from tests.deploy_kit.sim.isaaclab.support import CALM

    return build(CALM)
