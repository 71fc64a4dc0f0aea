"""Live flights: onnxruntime beside PyTorch on the same observations, and onnxruntime in its place.

Shadow: PyTorch drives, onnxruntime sees every observation, each output must agree as in replay. Driving: onnxruntime
drives the same environments from the same seed. Differences of 1e-6 grow in closed loop until the two flights have
nothing in common, so single flights are not compared, only the figures of all: the paired difference of each must lie,
with its whole 95 % interval, within a margin (equivalence, not merely no difference found). Where the environment does
not repeat itself under one seed, episodes are no pairs, and two one-sided tests must find both sides equal.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs, Reference, Runner
from deploy_kit.flight.drivers import ArtifactDriver
from deploy_kit.flight.episodes import FirstEpisodes, FlightStatistics
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.paired import paired_differences
from deploy_kit.flight.rollout import Driver, StepRecord
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.progress import Progress
from deploy_kit.verify.report import FlightCheck, ReferenceFlight

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

REFERENCE = "live/reference"
SHADOW = "live/shadow"
DRIVING = "live/driving"


class RowNames:
    """Remembers which step and environment each compared row was of.

    Args:
        share: the words that name the share of the flights, empty for all of them.
    """

    def __init__(self, share: str = "") -> None:
        self._share = share
        self._firsts: list[int] = []
        self._steps: list[tuple[int, int, list[int]]] = []
        self._rows = 0

    def add(self, part: int, step: int, envs: list[int]) -> None:
        """Take in the rows of one step of one rollout."""
        self._firsts.append(self._rows)
        self._steps.append((part, step, envs))
        self._rows += len(envs)

    def __call__(self, row: int) -> str:
        """Return a row in words."""
        if row >= self._rows:
            return "no row"
        index = bisect_right(self._firsts, row) - 1
        part, step, envs = self._steps[index]
        rollout = f"rollout {part}, " if part else ""
        return f"{self._share}{rollout}step {step}, environment {envs[row - self._firsts[index]]}"


class ShadowComparison:
    """Runs an artifact on the observations of flights that another driver flies.

    Args:
        runner: the artifact.
        reference: the checkpoint.
        comparison: a fresh accumulator.
        share: the words that name the share of the flights, empty for all of them.
    """

    def __init__(self, runner: Runner, reference: Reference, comparison: ParityComparison, share: str = "") -> None:
        self._runner, self._reference, self._comparison = runner, reference, comparison
        self._names, self._part, self._envs = RowNames(share), 0, list[int]()
        self._broken = False

    def begin(self, num_envs: int, part: int) -> None:
        """Begin a rollout."""
        self._part, self._envs = part, list(range(num_envs))

    def __call__(self, record: StepRecord) -> None:
        """Compare the artifact's outputs on this step's observations with what flew."""
        if self._broken:
            return
        self._names.add(self._part, record.step, self._envs)
        observation = np.ascontiguousarray(record.observation.cpu().numpy())
        try:
            self._comparison.add(self._reference.roles(record.output), self._runner(observation))
        except ArtifactError as error:
            self._broken = True
            self._comparison.fail(str(error))

    def result(self, note: str | None = None) -> ParityCheck:
        """Return the check's figures."""
        return self._comparison.result(self._names, note)


def reference_driver(reference: Reference) -> Driver:
    """Return the checkpoint as a driver, on the CPU, wherever the environment lives."""

    def drive(observation: torch.Tensor) -> PolicyOutput:
        output = reference.network(observation.cpu())
        logit = None if output.gate_logit is None else output.gate_logit.to(observation.device)
        return PolicyOutput(output.action.to(observation.device), logit, output.features)

    return drive


def fly_artifact(
    env: "VecEnv",
    runner: Runner,
    reference: Reference,
    progress: Callable[[Progress], None],
    phase: str,
    watch: Callable[[StepRecord], None] | None = None,
) -> Flight:
    """Fly with an artifact instead of the checkpoint; `watch` sees every step.

    Raises:
        ArtifactError: it cannot be run, or its action is not finite.
    """
    driver = ArtifactDriver(_finite(runner), reference.transform)
    return fly_first_episodes(env, driver, watch, progress, phase)


def reference_check(statistics: FlightStatistics) -> ReferenceFlight:
    """Return the check that the checkpoint itself flies."""
    return ReferenceFlight(
        name=REFERENCE,
        compared="the checkpoint flies, in PyTorch",
        episodes=statistics.episodes,
        gates=statistics.gates_per_episode.mean,
        statistics=statistics.to_json(),
    )


def flight_check(
    name: str, compared: str, reference: FirstEpisodes, candidate: FirstEpisodes, paired: bool, thorough: bool
) -> FlightCheck:
    """Return the comparison of two sets of flights.

    Args:
        name: of the check.
        compared: what with what.
        reference: episodes with the checkpoint driving.
        candidate: episodes with the artifact driving, in the same environments from the same seeds.
        paired: whether each pair of episodes began alike.
        thorough: whether they were flown until the full margins are supported.
    """
    differences = paired_differences(reference, candidate)
    if paired:
        note = f"{differences[0].equal_pairs} of {reference.num_envs} episodes passed exactly as many gates"
    else:
        note = "the environment did not repeat itself under one seed: episodes are not paired"
    margins = ", ".join(f"{figure.name} ±{figure.supported:.2g}" for figure in differences)
    return FlightCheck(
        name=name,
        compared=compared,
        differences=differences,
        reference=reference.statistics().to_json(),
        candidate=candidate.statistics().to_json(),
        paired=paired,
        thorough=thorough,
        note=f"{note}; these flights support margins of {margins}{'' if thorough else ' (--thorough flies more)'}",
    )


def close(env: "VecEnv") -> None:
    """Close an environment, if it can be closed."""
    if hasattr(env, "close"):
        env.close()


def _finite(runner: Runner) -> Runner:
    def run(observation: Float32) -> Outputs:
        outputs = runner(observation)
        for role in ("action", "command"):
            if role in outputs and not np.isfinite(outputs[role]).all():
                raise ArtifactError(f"its {role} is not finite in flight")
        return outputs

    return run
