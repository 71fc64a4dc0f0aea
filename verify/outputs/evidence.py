"""What a page shows besides the report's figures: inputs, margins of decisions, flights.

None of it is judged, and none is stored in report.json: a report that is judged again has a page without it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.parity import ParityCheck, share_of_tolerance, tolerance_of
from deploy_kit.bundle.runners import Float32, Outputs
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.flight.rollout import StepRecord, policy_period
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.samples import SampleSet

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

RECORDED = ("golden", "kept")
"""Sample sets whose decisions are those of real observations."""

_KEPT_CASES = 6
_KEPT_EPISODES = 4
"""Environments of a rollout whose episodes are kept, some 4 MB of memory each."""

Watch = Callable[[StepRecord], None]


@dataclass(frozen=True)
class WorstCase:
    """The input at which an output came nearest to its limit.

    Attributes:
        check: name.
        output: name.
        channel: index within the output.
        error: absolute difference, in units of the output's scale.
        share: of the limit, under the limits that the run began with.
        where: the row in words.
        observation: (6928,) what went in.
    """

    check: str
    output: str
    channel: int
    error: float
    share: float
    where: str
    observation: Float32


@dataclass(frozen=True)
class ShownEpisode:
    """One episode of a live rollout.

    Attributes:
        driver: who flew.
        trace: what happened.
        transform: from raw actions to commands.
    """

    driver: str
    trace: FlightTrace
    transform: ActionTransform


@dataclass
class Evidence:
    """Gathers what a page shows while the checks run.

    Attributes:
        thresholds: limits that choose the worst cases.
        threshold_logit: where gate decisions are cut, None without a gate.
        image_shape: (rows, columns) of the depth image.
        state_names: what each number of the state is; empty if unknown.
        cases: worst cases, the worst first; at most one a check and output.
        margins: distances of the checkpoint's logits from the threshold on recorded rows, (n,) each.
        episodes: of the first environments of each live rollout, driver by driver.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    threshold_logit: float | None = None
    image_shape: tuple[int, int] = (0, 0)
    state_names: tuple[str, ...] = ()
    cases: list[WorstCase] = field(default_factory=list)
    margins: list[npt.NDArray[np.float64]] = field(default_factory=list)
    episodes: list[ShownEpisode] = field(default_factory=list)

    def recorder(self, driver: str, env: "VecEnv", transform: ActionTransform, watch: Watch | None) -> Watch:
        """Return a watch of a rollout that keeps its first environments' episodes, besides what `watch` does.

        Args:
            driver: who flies.
            env: freshly made.
            transform: from raw actions to commands.
            watch: sees every step too, None for none.
        """
        tracks = env.tracks() if hasattr(env, "tracks") else [None] * env.num_envs
        image_start = env.get_observations()["policy"].shape[1] - self.image_shape[0] * self.image_shape[1]
        traces = [
            FlightTrace(index, policy_period(env), image_start, track)
            for index, track in enumerate(tracks[:_KEPT_EPISODES])
        ]
        self.episodes += [ShownEpisode(driver, trace, transform) for trace in traces]

        def see(record: StepRecord) -> None:
            if watch is not None:
                watch(record)
            for trace in traces:
                trace.add(record)

        return see

    def compared_episodes(self) -> list[ShownEpisode]:
        """Return one environment's episodes, one a driver: that in which the first driver passed the most gates."""
        if not self.episodes:
            return []
        first = [episode for episode in self.episodes if episode.driver == self.episodes[0].driver]
        best = max(first, key=lambda episode: len(episode.trace.pass_steps)).trace.env
        return [episode for episode in self.episodes if episode.trace.env == best and episode.trace.action]

    def add_replay(self, samples: SampleSet, reference: Outputs, check: ParityCheck) -> None:
        """Take in one replayed sample set: its worst inputs and, once a set, the margins of its decisions."""
        count = len(samples.observation)
        for output in check.outputs:
            tolerance = tolerance_of(check, self.thresholds)
            share, worst = share_of_tolerance(output, tolerance), output.worst(tolerance)
            if worst is None or share is None or not np.isfinite(share) or count == 0:
                continue
            element = worst[0]
            self.cases.append(
                WorstCase(
                    check.name,
                    output.name,
                    element.channel,
                    element.error,
                    share,
                    element.where,
                    samples.observation[element.row % count].copy(),
                )
            )
        self.cases.sort(key=lambda case: -case.share)
        del self.cases[_KEPT_CASES:]
        first = check.name.endswith("/onnx")
        if first and samples.name in RECORDED and self.threshold_logit is not None and "gate_logit" in reference:
            self.margins.append(reference["gate_logit"][:, 0].astype(np.float64) - self.threshold_logit)
