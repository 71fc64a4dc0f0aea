"""Run an exported bundle on one simulated quadruped by its contract's terms, as a robot's own program would.

    python examples/quadruped/run_on_board.py bundles/quadruped

The robot gives and takes its joints in an order of its own, knees first; the runner puts them right by their names.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from quadruped import ACTION_SCALE, DEFAULT, JOINTS, QuadrupedEnv

from deploy_kit.onboard import OnboardOptions, TermPolicy

ROBOT_JOINTS = sorted(JOINTS, key=lambda name: (not name.endswith("knee"), name))
"""Joints in the robot's order."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Drive the robot and print falls, and how long before each the head said so."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="flight log to write")
    given = parser.parse_args(arguments)
    policy = TermPolicy(given.bundle, OnboardOptions(joint_order=ROBOT_JOINTS), log=given.log)
    robot = QuadrupedEnv(num_envs=1, seed=given.seed)
    order = [JOINTS.index(name) for name in ROBOT_JOINTS]
    falls, warned, since = 0, 0, None
    for step in range(given.steps):
        sensors = robot.sensors()
        joints = {name: sensors[name][order] for name in ("joint_pos", "joint_vel")}
        output = policy.step({**sensors, **joints}, now=step * robot.step_dt, terms_time=step * robot.step_dt)
        if output.event:
            since = step
        # The simulator takes actions; a robot's drives take the command itself.
        target = np.empty(len(JOINTS))
        target[order] = output.command
        action = torch.from_numpy((target - DEFAULT) / ACTION_SCALE)[None]
        _, _, done, extras = robot.step(action)
        if done.item():
            fell = not extras["time_outs"].item()
            falls += fell
            warned += fell and since is not None
            if fell:
                said = "unannounced" if since is None else f"announced {(step - since) * robot.step_dt:.2f} s before"
                print(f"step {step}: fell, {said}")
            since = None
            policy.reset()
    robot.close()
    policy.close()
    print(f"{given.steps} steps, {falls} falls, {warned} of them announced by the head")


if __name__ == "__main__":
    main()
