"""A small quadruped in MuJoCo as a rsl_rl vector environment: it trots at a commanded speed, is pushed, and falls.

Nothing is downloaded: the robot is written below. Each leg has a hip and a knee that bend forward and back, so that a
push from the side is hard to recover from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
import torch
from mujoco.rollout import Rollout
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

Array = npt.NDArray[np.float64]

LEGS = {
    "front_left": (0.18, 0.11),
    "front_right": (0.18, -0.11),
    "rear_left": (-0.18, 0.11),
    "rear_right": (-0.18, -0.11),
}
JOINTS = tuple(f"{leg}_{joint}" for leg in LEGS for joint in ("hip", "knee"))
DEFAULT = np.array([0.7, -1.4] * 4)
"""Joint positions of standing, rad."""

ACTION_SCALE, ACTION_LIMIT, STIFFNESS, DAMPING, TORQUE = 0.3, 4.0, 25.0, 0.7, 12.0
PHYSICS_PERIOD, DECIMATION, EPISODE_STEPS = 0.005, 4, 500
STANDING_HEIGHT = 0.25

GOING_DOWN_TILT, FALLEN_TILT = np.cos(np.radians(30.0)), np.cos(np.radians(60.0))
"""Cosines of the trunk's tilt: of a robot that is about to fall, and of one that has fallen."""

PUSH_PROBABILITY, PUSH_SPEED = 0.012, 1.5
"""Pushes a policy step, and the largest change of the trunk's horizontal speed, m/s."""


def robot_xml() -> str:
    """Return the robot as MJCF."""
    legs = "".join(
        f"""
      <body name="{leg}_thigh" pos="{x} {y} 0">
        <joint name="{leg}_hip" type="hinge" axis="0 1 0" range="-1 2.2" armature="0.01" damping="{DAMPING}"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.15" size="0.02" mass="0.4"/>
        <body name="{leg}_shank" pos="0 0 -0.15">
          <joint name="{leg}_knee" type="hinge" axis="0 1 0" range="-2.5 -0.3" armature="0.01" damping="{DAMPING}"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.15" size="0.014" mass="0.1"/>
          <geom name="{leg}_foot" type="sphere" pos="0 0 -0.15" size="0.022" mass="0.05"/>
        </body>
      </body>"""
        for leg, (x, y) in LEGS.items()
    )
    motors = "".join(
        f'<position name="{name}" joint="{name}" kp="{STIFFNESS}" forcerange="-{TORQUE} {TORQUE}"/>' for name in JOINTS
    )
    return f"""
<mujoco model="quadruped">
  <compiler angle="radian"/>
  <option timestep="{PHYSICS_PERIOD}" integrator="implicitfast" iterations="10"/>
  <default><geom friction="0.9 0.02 0.01" contype="0" conaffinity="1"/></default>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1" contype="1" conaffinity="0"/>
    <body name="trunk" pos="0 0 {STANDING_HEIGHT}">
      <freejoint/>
      <geom type="box" size="0.22 0.09 0.045" mass="4"/>{legs}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


def interface() -> dict[str, Any]:
    """Return what the policy reads and commands, as `params/interface.yaml` holds it."""
    return {
        "policy_period_s": PHYSICS_PERIOD * DECIMATION,
        "physics_period_s": PHYSICS_PERIOD,
        "decimation": DECIMATION,
        "action_latency_steps": 0,
        "observations": {
            "policy": [
                {"name": "base_ang_vel", "size": 3, "unit": "rad/s", "frame": "body", "scale": 0.25},
                {"name": "projected_gravity", "size": 3, "unit": "1", "frame": "body", "low": -1.0, "high": 1.0},
                {"name": "speed_command", "size": 1, "unit": "m/s", "frame": "body", "low": 0.0, "high": 0.8},
                {
                    "name": "joint_pos",
                    "size": len(JOINTS),
                    "unit": "rad",
                    "joints": list(JOINTS),
                    "offset": [-value for value in DEFAULT.tolist()],
                    "description": "position of each joint; the observation holds it relative to standing",
                },
                {"name": "joint_vel", "size": len(JOINTS), "unit": "rad/s", "joints": list(JOINTS), "scale": 0.05},
                {
                    "name": "last_action",
                    "size": len(JOINTS),
                    "unit": "1",
                    "joints": list(JOINTS),
                    "quantity": "last_action",
                    "description": "action of the step before, as the network gave it",
                },
            ]
        },
        "actions": {
            "joints": list(JOINTS),
            "quantity": "joint position target",
            "unit": "rad",
            "scale": ACTION_SCALE,
            "offset": DEFAULT.tolist(),
            "default_positions": DEFAULT.tolist(),
            "stiffness": STIFFNESS,
            "damping": DAMPING,
        },
    }


class QuadrupedEnv(VecEnv):
    """Quadrupeds on flat ground, each with its own random numbers.

    Args:
        num_envs: robots.
        seed: seed of commands, starts and pushes.
        pushes: whether robots are pushed.

    Attributes:
        tilt: (N,) cosine of the angle between the trunk's z axis and the vertical, after the last step and before any
            reset.
        height: (N,) of the trunk above the ground, m, likewise.
        episode_length_buf: (N,) steps of the present episodes.
    """

    def __init__(self, num_envs: int, seed: int = 0, pushes: bool = True) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, len(JOINTS), EPISODE_STEPS
        self.device, self.cfg = "cpu", {"seed": seed, "pushes": pushes}
        self.step_dt = PHYSICS_PERIOD * DECIMATION
        self._model = mujoco.MjModel.from_xml_string(robot_xml())
        self._data = [mujoco.MjData(self._model)]
        self._rollout = Rollout(nthread=0)
        self._rng = np.random.default_rng(seed)
        self._pushes = pushes
        self._num_qpos, self._num_qvel = self._model.nq, self._model.nv
        self._state = np.zeros((num_envs, mujoco.mj_stateSize(self._model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        self._action = np.zeros((num_envs, len(JOINTS)))
        self._command, self._course = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.tilt, self.height = np.ones(num_envs), np.full(num_envs, STANDING_HEIGHT)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self._reset_idx(np.arange(num_envs))

    @property
    def _qpos(self) -> Array:
        return self._state[:, 1 : 1 + self._num_qpos]

    @property
    def _qvel(self) -> Array:
        return self._state[:, 1 + self._num_qpos : 1 + self._num_qpos + self._num_qvel]

    def _reset_idx(self, envs: npt.NDArray[np.int64]) -> None:
        count = len(envs)
        self._state[envs] = 0.0
        qpos = np.zeros((count, self._num_qpos))
        qpos[:, 2], qpos[:, 3] = STANDING_HEIGHT + 0.01, 1.0
        qpos[:, 7:] = DEFAULT + self._rng.uniform(-0.15, 0.15, (count, len(JOINTS)))
        self._qpos[envs] = qpos
        self._qvel[envs] = self._rng.uniform(-0.2, 0.2, (count, self._num_qvel))
        self._action[envs] = 0.0
        self._command[envs] = self._rng.uniform(0.0, 0.8, count)
        # What deploy-kit keeps apart for validation and test; here each episode has pushes of its own.
        self._course[envs] = self._rng.integers(1 << 62, size=count)
        self.episode_length_buf[torch.from_numpy(envs)] = 0

    def _gravity(self) -> Array:
        """Return the direction of gravity in body axes, (N, 3)."""
        w, x, y, z = self._qpos[:, 3:7].T
        return -np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1)

    def sensors(self, env: int = 0) -> dict[str, Array]:
        """Return what one robot measures, by the names and in the units of `interface`."""
        return {
            "base_ang_vel": self._qvel[env, 3:6].copy(),
            "projected_gravity": self._gravity()[env],
            "speed_command": self._command[env : env + 1].copy(),
            "joint_pos": self._qpos[env, 7:].copy(),
            "joint_vel": self._qvel[env, 6:].copy(),
        }

    def get_observations(self) -> TensorDict:
        """Return group `policy` (N, 31)."""
        observation = np.concatenate(
            [
                0.25 * self._qvel[:, 3:6],
                self._gravity(),
                self._command[:, None],
                self._qpos[:, 7:] - DEFAULT,
                0.05 * self._qvel[:, 6:],
                self._action,
            ],
            axis=1,
        )
        return TensorDict({"policy": torch.from_numpy(observation.astype(np.float32))}, batch_size=[self.num_envs])

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Move all robots for one policy period; those that fell or whose time is over begin anew."""
        before = self._action
        self._action = np.clip(actions.detach().cpu().numpy().astype(np.float64), -ACTION_LIMIT, ACTION_LIMIT)
        if self._pushes:
            pushed = np.flatnonzero(self._rng.random(self.num_envs) < PUSH_PROBABILITY)
            self._qvel[pushed, :2] += self._rng.uniform(-PUSH_SPEED, PUSH_SPEED, (len(pushed), 2))
        target = DEFAULT + ACTION_SCALE * self._action
        states, _ = self._rollout.rollout(
            self._model, self._data, self._state, control=np.repeat(target[:, None], DECIMATION, axis=1)
        )
        self._state = np.ascontiguousarray(states[:, -1])
        self.episode_length_buf += 1
        gravity = self._gravity()
        self.tilt, self.height = -gravity[:, 2], self._qpos[:, 2].copy()
        fell = (self.tilt < FALLEN_TILT) | (self.height < 0.4 * STANDING_HEIGHT)
        rewards = self._rewards(before, gravity, fell)
        time_out = (self.episode_length_buf.numpy() >= EPISODE_STEPS) & ~fell
        done = fell | time_out
        extras = {
            "time_outs": torch.from_numpy(time_out),
            "track_id": torch.from_numpy(self._course.copy()),
            "log": {"falls": float(fell.mean())},
        }
        return self._finish(done, rewards, extras)

    def _finish(
        self, done: Any, rewards: Array, extras: dict[str, Any]
    ) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        if done.any():
            self._reset_idx(np.flatnonzero(done))
        return self.get_observations(), torch.from_numpy(rewards.astype(np.float32)), torch.from_numpy(done), extras

    def _rewards(self, before: Array, gravity: Array, fell: Any) -> Array:
        w, x, y, z = self._qpos[:, 3:7].T
        heading = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z)], axis=1)
        forward = (self._qvel[:, :2] * heading).sum(axis=1)
        sideways = self._qvel[:, 1] * heading[:, 0] - self._qvel[:, 0] * heading[:, 1]
        rewards: Array = (
            1.5 * np.exp(-((forward - self._command) ** 2) / 0.06)
            + 0.3
            - 0.5 * sideways**2
            - 0.3 * self._qvel[:, 5] ** 2
            - 1.0 * (gravity[:, :2] ** 2).sum(axis=1)
            - 8.0 * (self.height - STANDING_HEIGHT) ** 2
            - 0.02 * ((self._action - before) ** 2).sum(axis=1)
            - 0.0005 * (self._qvel[:, 6:] ** 2).sum(axis=1)
            - 5.0 * fell
        )
        return rewards * self.step_dt * 5

    def interface(self) -> dict[str, Any]:
        """Return what the policy reads and commands; `collect` holds it against the run's `params/interface.yaml`."""
        return interface()

    def close(self) -> None:
        """Stop the threads of the physics."""
        self._rollout.close()


def make(options: Any) -> QuadrupedEnv:
    """Build the task for `deploy-kit … --task quadruped:make`."""
    return QuadrupedEnv(options.num_envs, options.seed)


def going_down(env: QuadrupedEnv) -> npt.NDArray[np.bool_]:
    """Return whether each robot is about to fall, (N,): its trunk is tilted by more than 30°, or is half as high."""
    falling: npt.NDArray[np.bool_] = (env.tilt < GOING_DOWN_TILT) | (env.height < 0.6 * STANDING_HEIGHT)
    return falling


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the policy with rsl_rl's PPO."""
    import argparse

    import yaml
    from rsl_rl.runners import OnPolicyRunner

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path, help="run folder")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    agent = agent_cfg(given.seed)
    (given.output / "params").mkdir(parents=True, exist_ok=True)
    for name, content in (("agent", agent), ("interface", interface())):
        text = yaml.safe_dump(content, sort_keys=False)
        (given.output / "params" / f"{name}.yaml").write_text(text, encoding="utf-8")
    env = QuadrupedEnv(given.num_envs, given.seed)
    runner = OnPolicyRunner(env, agent, log_dir=str(given.output), device="cpu")
    runner.learn(given.iterations, init_at_random_ep_len=True)
    env.close()


def agent_cfg(seed: int) -> dict[str, Any]:
    """Return rsl_rl's settings of policy and training."""
    return {
        "seed": seed,
        "clip_actions": ACTION_LIMIT,
        "num_steps_per_env": 24,
        "save_interval": 100,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {
            "class_name": "MLPModel",
            "hidden_dims": [64, 64],
            "activation": "elu",
            "obs_normalization": True,
            "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.8, "std_type": "scalar"},
        },
        "critic": {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "elu", "obs_normalization": True},
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": 4,
            "num_mini_batches": 4,
            "learning_rate": 1e-3,
            "schedule": "adaptive",
            "desired_kl": 0.01,
            "gamma": 0.99,
            "lam": 0.95,
            "clip_param": 0.2,
            "entropy_coef": 0.003,
            "value_loss_coef": 1.0,
            "use_clipped_value_loss": True,
            "max_grad_norm": 1.0,
        },
    }


if __name__ == "__main__":
    main()
