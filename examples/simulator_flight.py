"""Fly a bundle in the embedded simulator through `OnboardPolicy`, as flight code would, and write the flight's log.

The observation is taken apart into what a drone measures (metres, m/s, a depth image with infinity where nothing
returned), and the command in SI units goes back as the simulator's action.

    pip install '.[cpu,sim]'
    python examples/simulator_flight.py BUNDLE --log flight.dklog
    deploy-kit verify BUNDLE --checkpoint model.pt --no-replay --no-live --flight flight.dklog
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from deploy_kit.onboard import OnboardPolicy, RecordingOptions
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import RACING_TASK

STATE_SIZE = 12
"""Numbers of the state that a drone measures; the last command, 4 more, is the runner's own."""

BELOW_ONE = 1.0 - 2.0**-53
"""A command at the end of its range becomes a finite action."""


def fly(policy: OnboardPolicy, seconds: float, seed: int = 0) -> tuple[int, int]:
    """Fly until the first episode ends; return gates passed and gates announced.

    Args:
        policy: the bundle's runner.
        seconds: longest flight.
        seed: of track, start and noise.
    """
    env = make_env(EnvOptions(num_envs=1, seed=seed, tracks=("circular",), obstacles=False, randomisation=False))
    controller, shape = RACING_TASK.controller, policy.contract.image_shape
    # The simulator's own transform, not the contract's: a wrong one there must show.
    simulator = ActionTransform.from_limits(
        controller.max_thrust_to_weight, controller.max_body_rate, RACING_TASK.gravity
    )
    period = policy.contract.policy_period_s
    passed = announced = 0
    observation = env.get_observations()["policy"]
    for step in range(round(seconds / period)):
        numbers = observation[0].double().numpy()
        image = numbers[-shape[0] * shape[1] :].reshape(shape)
        depth = np.where(image >= 1.0, np.inf, image * RACING_TASK.camera.max_range).astype(np.float32)
        now = step * period
        output = policy.step(numbers[:STATE_SIZE], depth, now, now, now)
        announced += bool(output.gate_event)
        share = (output.command - simulator.offset) / simulator.scale
        action = np.arctanh(np.clip(share, -BELOW_ONE, BELOW_ONE))
        groups, _, dones, _ = env.step(torch.tensor(action[None], dtype=torch.float32))
        passed += int(groups["auxiliary"][0, 0] > 0)
        observation = groups["policy"]
        if dones[0]:
            break
    env.close()
    return passed, announced


def main() -> None:
    """Parse the command line and fly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--log", type=Path, help="file to record the flight in")
    parser.add_argument("--seconds", type=float, default=RACING_TASK.stages[2].episode_length_s, help="longest flight")
    parser.add_argument("--seed", type=int, default=0, help="of track, start and noise")
    options = parser.parse_args()
    recording = RecordingOptions(lossless=True) if options.log is not None else None
    policy = OnboardPolicy(options.bundle, log=options.log, recording=recording)
    passed, announced = fly(policy, options.seconds, options.seed)
    policy.close()
    print(f"{passed} gates passed, {announced} announced")


if __name__ == "__main__":
    main()
