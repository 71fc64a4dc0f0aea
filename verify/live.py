"""The live part of a verification: which flights to fly, how many, and the checks that they give."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deploy_kit.bundle.parity import ParityComparison
from deploy_kit.bundle.runners import ArtifactError, OnnxRunner
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.paired import paired_differences
from deploy_kit.flight.rollout import require_checkpoint
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.contract_flight import CONTRACT, ContractFlights
from deploy_kit.verify.options import DEFAULT_RUNTIME
from deploy_kit.verify.outputs.evidence import Watch
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.rollouts import (
    DRIVING,
    SHADOW,
    ShadowComparison,
    close,
    flight_check,
    fly_artifact,
    reference_check,
    reference_driver,
)

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.sim.options import EnvOptions

MAX_ROLLOUTS = 8
"""Most rollouts, one after the other: each one's spread says how many episodes are still missing."""

MAX_QUICK = 1024
"""Most episodes of a run that was not asked to be thorough: many, where a simulator does not repeat itself."""

MAX_SIDE_BY_SIDE = 1024
"""Most environments of a further rollout."""

_COMPARED = {
    "driving": "onnxruntime drives, against PyTorch from the same seed",
    "contract": "the onboard runner drives, knowing the contract alone, against PyTorch from the same seed",
}


@dataclass(frozen=True)
class LiveOptions:
    """What to fly.

    Attributes:
        modes: modes of `LIVE_MODES`.
        episodes: environments of the first rollout, each of which flies one episode.
        env: options of the environment, None for the task's defaults with `seed`.
        seed: where `env` is None.
        task: task id, or ``module:factory``.
        backend: simulator.
        thorough: whether to fly until the full margins are supported.
        max_episodes: most episodes in each mode.
        thresholds: margins.
        runtime: how the graph is run.
    """

    modes: tuple[str, ...]
    episodes: int
    env: "EnvOptions | None"
    seed: int
    task: str
    backend: str
    thorough: bool = False
    max_episodes: int = 4096
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    runtime: Runtime = DEFAULT_RUNTIME


class LiveTest:
    """Flies the checkpoint, with onnxruntime in its shadow, then the bundle. Use it as a context manager.

    Args:
        options: what to fly.
    """

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._first: VecEnv | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes asked for."""
        return self._options.modes

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
        self._first = self._make(self._options.episodes, 0)
        require_checkpoint(self._first, checkpoint, self._options.task)

    def run(
        self, subject: BundleAndCheckpoint, onnx: OnnxRunner | None, progress: Callable[[Progress], None]
    ) -> Iterator[Check]:
        """Fly, and yield the checks of the modes asked for."""
        if onnx is None:
            yield from (NotRun(f"live/{mode}", "onnxruntime cannot load the graph") for mode in self.modes)
            return
        yield from _Flights(self, self._options, subject, onnx, progress).checks()

    def take(self, episodes: int, part: int) -> "VecEnv":
        """Return a fresh environment for one rollout; the first one was made by `prepare`."""
        if self._first is not None and part == 0:
            first, self._first = self._first, None
            return first
        return self._make(episodes, part)

    def _make(self, episodes: int, part: int) -> "VecEnv":
        from deploy_kit.sim.options import EnvOptions
        from deploy_kit.sim.registry import make_env

        options = self._options.env or EnvOptions(seed=self._options.seed)
        options = dataclasses.replace(options, num_envs=episodes, seed=options.seed + part)
        return make_env(options, self._options.task, self._options.backend)


class _Flights:
    """The rollouts of one verification.

    Args:
        live: makes environments.
        options: what to fly.
        subject: bundle, checkpoint, vehicle.
        onnx: the graph.
        progress: told the steps flown.
    """

    def __init__(
        self,
        live: LiveTest,
        options: LiveOptions,
        subject: BundleAndCheckpoint,
        onnx: OnnxRunner,
        progress: Callable[[Progress], None],
    ) -> None:
        self._live, self._options, self._subject, self._onnx, self._progress = live, options, subject, onnx, progress
        self._references: list[Flight] = []
        # By mode, then by number of the rollout.
        self._flown: dict[str, dict[int, Flight]] = {m: {} for m in ("driving", "contract") if m in options.modes}
        self._broken: dict[str, str] = {}
        self._contract = ContractFlights(subject, options.task, options.runtime)
        self._shadow: ShadowComparison | None = None
        if "shadow" in options.modes:
            compared = "PyTorch drives, onnxruntime sees the same observations"
            comparison = ParityComparison(SHADOW, compared, subject.roles, subject.semantics)
            self._shadow = ShadowComparison(onnx, subject.reference, comparison)

    def checks(self) -> Iterator[Check]:
        """Fly as often as it takes, and yield the checks."""
        if (reason := self._unwanted()) is not None:
            self._flown.pop("contract")
            yield NotRun(CONTRACT, reason, "--no-vehicle")
        episodes, modes = self._options.episodes, tuple(self._flown)
        for part in range(MAX_ROLLOUTS):
            self._fly(part, episodes, modes)
            missing = {mode: self._missing(mode) for mode in self._flown}
            modes = tuple(mode for mode in missing if missing[mode] > 0)
            if not modes:
                break
            episodes = min(max(missing.values()), MAX_SIDE_BY_SIDE)
        yield reference_check(self._reference().statistics())
        if self._shadow is not None:
            yield self._shadow.result(self._subject.note)
        for mode in self._flown:
            yield from self._mode(mode)

    def _unwanted(self) -> str | None:
        """Return why the mode `contract` cannot be flown without the vehicle that the user does not name."""
        named, task = self._subject.named, self._options.task
        if "contract" not in self._flown or named.wanted or task == TASK_ID:
            return None
        return f"--no-vehicle: nothing tells what the observations of {task} measure and what its commands do"

    def _fly(self, part: int, episodes: int, modes: tuple[str, ...]) -> None:
        phase = "flights, PyTorch drives" + (", onnxruntime in its shadow" if self._shadow else "")
        env = self._live.take(episodes, part)
        driver = reference_driver(self._subject.reference)
        try:
            if self._shadow is not None:
                self._shadow.begin(env.num_envs, part)
            watch = self._recorded("PyTorch", part, env, self._shadow)
            self._references.append(fly_first_episodes(env, driver, watch, self._progress, phase))
        finally:
            close(env)
        for mode in modes:
            try:
                self._flown[mode][part] = self._drive(mode, part, episodes)
            except ArtifactError as error:
                self._broken[mode] = str(error)

    def _recorded(self, name: str, part: int, env: "VecEnv", watch: Watch | None = None) -> Watch | None:
        """Return a watch that also keeps flights of the first rollout for the report's page."""
        if part > 0:
            return watch
        return self._subject.evidence.recorder(name, env, self._subject.reference.transform, watch)

    def _drive(self, mode: str, part: int, episodes: int) -> Flight:
        env = self._live.take(episodes, part)
        try:
            if mode == "driving":
                phase, watch = "flights, onnxruntime drives", self._recorded("onnxruntime", part, env)
                return fly_artifact(env, self._onnx, self._subject.reference, self._progress, phase, watch)
            driver = self._contract.driver(env)
            phase = "flights from the contract alone"
            watch = self._recorded("contract", part, env, driver.watch)
            return fly_first_episodes(env, driver, watch, self._progress, phase)
        finally:
            close(env)

    def _reference(self, mode: str | None = None) -> FirstEpisodes:
        """Return the checkpoint's episodes: all, or those that a mode flew too."""
        parts = range(len(self._references)) if mode is None else self._flown[mode]
        return FirstEpisodes.joined([self._references[part].episodes for part in parts])

    def _candidate(self, mode: str) -> FirstEpisodes:
        return FirstEpisodes.joined([flight.episodes for flight in self._flown[mode].values()])

    def _paired(self, mode: str) -> bool:
        return all(self._references[part].starts_like(flight) for part, flight in self._flown[mode].items())

    def _missing(self, mode: str) -> int:
        """Return how many episodes the margins still need, by the spread so far."""
        if mode in self._broken:
            return 0
        options, limits = self._options, self._options.thresholds
        margins = limits.margins if options.thorough else limits.quick_margins
        most = options.max_episodes if options.thorough else min(options.max_episodes, MAX_QUICK)
        reference = self._reference(mode)
        figures = paired_differences(reference, self._candidate(mode))
        if any(figure.outside(margins.of(figure.name)) for figure in figures):
            return 0
        planned = max(figure.episodes_for(margins.of(figure.name), options.thorough) for figure in figures)
        return min(planned, most) - reference.num_envs

    def _mode(self, mode: str) -> Iterator[Check]:
        name = {"driving": DRIVING, "contract": CONTRACT}[mode]
        if mode in self._broken:
            yield FactCheck(name, _COMPARED[mode], 1, (self._broken[mode],))
            return
        if mode == "contract":
            yield self._contract.commands_check()
            yield self._contract.accepted_check()
        yield flight_check(
            name,
            _COMPARED[mode],
            self._reference(mode),
            self._candidate(mode),
            self._paired(mode),
            self._options.thorough,
        )
