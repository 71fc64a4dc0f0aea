"""What one environment did in its first episode, step by step, for the pictures."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploy_kit.flight.rollout import StepRecord
from deploy_kit.sim.tracks import Track


@dataclass
class FlightTrace:
    """One environment's first episode, step by step.

    Attributes:
        env: index of the environment.
        policy_period: seconds a step.
        image_start: where the depth image begins in the observation.
        track: the track it flew on, None where the environment has none to show.
        position: world position after each step, m, (3,) each.
        quaternion: attitude after each step, (w, x, y, z), body to world; stays empty where it is not reported.
        speed: m/s.
        probability: gate probability; stays empty without a gate head.
        action: raw network action, (4,) each.
        depth: what the camera saw before the step, scaled to [0, 1], (pixels,) each; about 14 kB a step.
        passed: whether the step passed a gate.
        crashed: whether the episode ended otherwise than by its time.
    """

    env: int
    policy_period: float
    image_start: int
    track: Track | None = None
    position: list[npt.NDArray[np.float64]] = field(default_factory=list)
    quaternion: list[npt.NDArray[np.float64]] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    action: list[npt.NDArray[np.float32]] = field(default_factory=list)
    depth: list[npt.NDArray[np.float16]] = field(default_factory=list)
    passed: list[bool] = field(default_factory=list)
    crashed: bool = False
    finished: bool = False

    def add(self, record: StepRecord) -> None:
        """Take in one step; steps after the end of the episode are ignored."""
        if self.finished:
            return
        if "position" in record.extras:
            self.position.append(record.extras["position"][self.env].cpu().numpy().astype(np.float64))
            self.speed.append(float(record.extras["speed"][self.env]))
        if "quaternion" in record.extras:
            self.quaternion.append(record.extras["quaternion"][self.env].cpu().numpy().astype(np.float64))
        if record.output.gate_logit is not None:
            self.probability.append(float(record.output.gate_logit[self.env, 0].sigmoid()))
        self.action.append(record.output.action[self.env].cpu().numpy())
        self.depth.append(record.observation[self.env, self.image_start :].cpu().numpy().astype(np.float16))
        self.passed.append(bool(record.label[self.env]))
        self.finished = bool(record.done[self.env])
        self.crashed = self.finished and not bool(record.time_out[self.env])

    @property
    def time(self) -> npt.NDArray[np.float64]:
        """Time of each step's start, s."""
        return np.arange(len(self.action), dtype=np.float64) * self.policy_period

    @property
    def duration(self) -> float:
        """Time from the first step's start to the last one's end, s."""
        return len(self.action) * self.policy_period

    @property
    def pass_steps(self) -> npt.NDArray[np.int64]:
        """Steps in which a gate was passed; the k-th passage is of gate k, modulo the number of gates."""
        return np.flatnonzero(np.asarray(self.passed, dtype=bool)).astype(np.int64)
