import numpy as np
import pytest

from deploy_kit.flight.pictures.widget import ShownFlight
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.sim.rotations import quaternion_from_euler
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.interface import ActionTransform

SHAPE, STEPS = (18, 24), 12
TRANSFORM = ActionTransform.from_limits(3.0, (6.0, 6.0, 6.0), 9.81)


def make_flight(name: str, env: int, probability: bool = True) -> ShownFlight:
    rng = np.random.default_rng(env)
    track = make_track(3 + env, ("circular",), obstacles=True)
    trace = FlightTrace(
        env=env,
        policy_period=0.03,
        image_start=16,
        track=track,
        position=list(np.linspace(track.gate_positions[0], track.gate_positions[1], STEPS)),
        quaternion=[quaternion_from_euler(0.0, 0.1, 0.2 * step) for step in range(STEPS)],
        speed=list(rng.uniform(2, 5, STEPS)),
        probability=list(rng.uniform(0, 1, STEPS)) if probability else [],
        action=list(rng.normal(size=(STEPS, 4)).astype(np.float32)),
        depth=list(rng.uniform(0, 1, (STEPS, SHAPE[0] * SHAPE[1])).astype(np.float16)),
        passed=[step == 7 for step in range(STEPS)],
        finished=True,
    )
    return ShownFlight(name, "about", trace, TRANSFORM)


@pytest.fixture
def flights() -> list[ShownFlight]:
    return [make_flight("same", 0), make_flight("same", 1, probability=False)]
