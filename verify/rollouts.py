"""Live flights: onnxruntime beside PyTorch on the same observations, and onnxruntime in its place.

Shadow: PyTorch drives, onnxruntime sees every observation, each output must agree as in replay. Driving: onnxruntime
drives the same environments from the same seed. Differences of 1e-6 grow in closed loop until the two flights have
nothing in common, so single flights are not compared, only the figures of all: the paired difference of each must lie,
with its whole 95 % interval, within a margin (equivalence, not merely no difference found). Where the environment does
not repeat itself under one seed, episodes are no pairs, and two one-sided tests must find both sides equal.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs, Reference, Runner
from deploy_kit.flight.drivers import ArtifactDriver
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.paired import paired_differences
from deploy_kit.flight.rollout import Driver, StepRecord
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.progress import Progress
from deploy_kit.verify.report import Check, FactCheck, FlightCheck, ReferenceFlight

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

EnvFactory = Callable[[], "VecEnv"]

REFERENCE = "live/reference"
SHADOW = "live/shadow"
DRIVING = "live/driving"


class ShadowComparison:
    """Runs an artifact on the observations of a flight that another driver flies.

    Args:
        runner: the artifact.
        reference: the checkpoint.
        comparison: a fresh accumulator.
        num_envs: environments of the flight.
    """

    def __init__(self, runner: Runner, reference: Reference, comparison: ParityComparison, num_envs: int) -> None:
        self._runner, self._reference, self._comparison, self._num_envs = runner, reference, comparison, num_envs
        self._broken = False

    def __call__(self, record: StepRecord) -> None:
        """Compare the artifact's outputs on this step's observations with what flew."""
        if self._broken:
            return
        observation = np.ascontiguousarray(record.observation.cpu().numpy())
        try:
            self._comparison.add(self._reference.roles(record.output), self._runner(observation))
        except ArtifactError as error:
            self._broken = True
            self._comparison.fail(str(error))

    def result(self, note: str | None = None) -> ParityCheck:
        """Return the check's figures."""
        return self._comparison.result(self._where, note)

    def _where(self, row: int) -> str:
        step, env = divmod(row, self._num_envs)
        return f"step {step}, environment {env}"


def reference_driver(reference: Reference) -> Driver:
    """Return the checkpoint as a driver, on the CPU, wherever the environment lives."""

    def drive(observation: torch.Tensor) -> PolicyOutput:
        output = reference.network(observation.cpu())
        logit = None if output.gate_logit is None else output.gate_logit.to(observation.device)
        return PolicyOutput(output.action.to(observation.device), logit, output.features)

    return drive


def fly_artifact(
    make: EnvFactory, runner: Runner, reference: Reference, progress: Callable[[Progress], None], phase: str
) -> Flight:
    """Fly with an artifact instead of the checkpoint.

    Raises:
        ArtifactError: it cannot be run, or its action is not finite.
    """
    driver = ArtifactDriver(_finite(runner), reference.transform)
    env = make()
    try:
        return fly_first_episodes(env, driver, progress=progress, phase=phase)
    finally:
        close(env)


def reference_check(reference: Flight) -> ReferenceFlight:
    """Return the check that the checkpoint itself flies."""
    statistics = reference.episodes.statistics()
    return ReferenceFlight(
        name=REFERENCE,
        compared="the checkpoint flies, in PyTorch",
        episodes=statistics.episodes,
        gates=statistics.gates_per_episode.mean,
        statistics=statistics.to_json(),
    )


def driving_check(reference: Flight, candidate: Flight, compared: str) -> Check:
    """Return the comparison of two flights of the same environments from the same seed."""
    ours, theirs = reference.episodes, candidate.episodes
    differences = paired_differences(ours, theirs)
    paired = reference.starts_like(candidate)
    equal = differences[0].equal_pairs
    if paired:
        note = f"{equal} of {ours.num_envs} episodes passed exactly as many gates"
    else:
        note = "the environment did not repeat itself under one seed: episodes are not paired"
    margins = ", ".join(f"{figure.name} ±{figure.supported:.2g}" for figure in differences)
    note += f"; these flights support margins of {margins}"
    return FlightCheck(
        name=DRIVING,
        compared=compared,
        differences=differences,
        reference=ours.statistics().to_json(),
        candidate=theirs.statistics().to_json(),
        paired=paired,
        note=note,
    )


def broken_flight(compared: str, error: ArtifactError) -> FactCheck:
    """Return the failed check of an artifact that cannot fly."""
    return FactCheck(DRIVING, compared, 1, (str(error),))


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
