"""The live part of a verification: which flights to fly, and the checks that they give."""

import dataclasses
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deploy_kit.bundle.parity import ParityComparison
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.rollout import require_checkpoint
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.report import Check, NotRun
from deploy_kit.verify.rollouts import (
    SHADOW,
    ShadowComparison,
    broken_flight,
    close,
    driving_check,
    fly_artifact,
    reference_check,
    reference_driver,
)

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.sim.options import EnvOptions


class LiveTest:
    """Flies the checkpoint, with onnxruntime in its shadow, then onnxruntime. Use it as a context manager.

    Args:
        modes: modes of `LIVE_MODES`.
        episodes: environments, each of which flies one episode.
        env: options of the environment, None for the task's defaults with `seed`.
        seed: where `env` is None.
        task: task id, or ``module:factory``.
        backend: simulator.
    """

    def __init__(
        self, modes: tuple[str, ...], episodes: int, env: "EnvOptions | None", seed: int, task: str, backend: str
    ) -> None:
        self.modes, self._episodes, self._options, self._seed = modes, episodes, env, seed
        self._task, self._backend = task, backend
        self._first: VecEnv | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            close(self._first)

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Make the first environment, so that a wrong task fails before the long work.

        Raises:
            TaskError: the task is unknown, or does not fit the policy.
            CheckpointError: the agent that the task registers cannot be restored from the checkpoint.
        """
        self._first = self._make()
        require_checkpoint(self._first, checkpoint, self._task)

    def run(
        self, subject: BundleAndCheckpoint, onnx: OnnxRunner | None, progress: Callable[[Progress], None]
    ) -> Iterator[Check]:
        """Fly, and yield the checks of the modes asked for."""
        if onnx is None:
            yield from (NotRun(f"live/{mode}", "onnxruntime cannot load the graph") for mode in self.modes)
            return
        reference, shadow = self._fly_reference(subject, onnx, progress)
        yield reference_check(reference)
        if shadow is not None:
            yield shadow.result(subject.note)
        if "driving" in self.modes:
            yield self._drive(subject, onnx, reference, progress)

    def _fly_reference(
        self, subject: BundleAndCheckpoint, onnx: OnnxRunner, progress: Callable[[Progress], None]
    ) -> tuple[Flight, ShadowComparison | None]:
        assert self._first is not None, "prepare() comes first"
        shadow: ShadowComparison | None = None
        if "shadow" in self.modes:
            comparison = ParityComparison(
                SHADOW, "PyTorch drives, onnxruntime sees the same observations", subject.roles, subject.semantics
            )
            shadow = ShadowComparison(onnx, subject.reference, comparison, self._first.num_envs)
        phase = "flights, PyTorch drives" + (", onnxruntime in its shadow" if shadow else "")
        try:
            flight = fly_first_episodes(self._first, reference_driver(subject.reference), shadow, progress, phase)
        finally:
            close(self._first)
            self._first = None
        return flight, shadow

    def _drive(
        self, subject: BundleAndCheckpoint, onnx: OnnxRunner, reference: Flight, progress: Callable[[Progress], None]
    ) -> Check:
        compared = "onnxruntime drives, against PyTorch from the same seed"
        try:
            flight = fly_artifact(self._make, onnx, subject.reference, progress, "flights, onnxruntime drives")
        except ArtifactError as error:
            return broken_flight(compared, error)
        return driving_check(reference, flight, compared)

    def _make(self) -> "VecEnv":
        from deploy_kit.sim.options import EnvOptions
        from deploy_kit.sim.registry import make_env

        options = self._options or EnvOptions(seed=self._seed)
        return make_env(dataclasses.replace(options, num_envs=self._episodes), self._task, self._backend)
