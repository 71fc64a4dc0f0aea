"""Options of the demo."""

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID


@dataclass(frozen=True)
class DemoOptions:
    """Options of `run_demo`.

    Attributes:
        checkpoint: file of the policy.
        output: folder for everything that is written; must not exist.
        env: the vector environment's options.
        task: task id, or ``module:factory``.
        num_rows: training rows with a gate passage, and as many without.
        heldout_episodes: whole episodes to judge the gate head on.
        live_episodes: flights of the verification, in each mode.
        flights: flights with the bundle in control, for the statistics; the pictures show the one with the most gates.
        vehicle_file: the vehicle's numbers, where neither task nor run has them, or where they contradict each other.
        hints: what the checkpoint's weights do not tell.
    """

    checkpoint: Path
    output: Path = Path("outputs/demo")
    env: EnvOptions = field(default_factory=EnvOptions)
    task: str = TASK_ID
    num_rows: int = 400
    heldout_episodes: int = 32
    live_episodes: int = 16
    flights: int = 16
    vehicle_file: Path | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)
