"""The racing task's vehicle, as users and as Isaac Lab write it down."""

from pathlib import Path

VEHICLE = """\
max_thrust_to_weight: 3.0
max_body_rate: 6.0
gravity: 9.81
policy_period_s: 0.03
depth_period_s: 0.04
action_latency_steps: 1
depth_range_m: 10.0
"""

ENV_YAML = """\
sim: {dt: 0.01, gravity: [0.0, 0.0, -9.81]}
decimation: 3
scene: {camera: {update_period: 0.04}}
actions: {ctbr: {max_thrust_weight_ratio: 3.0, action_lag: 1, controller_cfg: {body_rate_bound: [-6, 6]}}}
"""


def write_vehicle(folder: Path) -> Path:
    """Write a file for ``--vehicle``."""
    path = folder / "vehicle.yaml"
    path.write_text(VEHICLE, encoding="utf-8")
    return path


def write_env_yaml(checkpoint: Path) -> Path:
    """Put the run's ``env.yaml`` beside a checkpoint."""
    path = checkpoint.parent / "params" / "env.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(ENV_YAML, encoding="utf-8")
    return path
