"""One share of the live flights: environments of its own, under seeds of its own.

Shares are what several processes divide among them. What a share flies follows from the seed, its number and how many
there are, not from which process flies it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Runner
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.rollout import StepRecord, require_checkpoint
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.contract_flight import ContractFlights
from deploy_kit.verify.header_flight import HeaderDriver, HeaderFigures, HeaderFlights
from deploy_kit.verify.options import DEFAULT_RUNTIME
from deploy_kit.verify.outputs.evidence import Watch
from deploy_kit.verify.rollouts import SHADOW, ShadowComparison, close, fly_artifact, reference_driver
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.sim.options import EnvOptions

HEADER_MODE = "driving@cpp"
"""The C++ header drives; flown where the bundle has one and the mode `driving` is."""


@dataclass(frozen=True)
class LiveOptions:
    """What to fly.

    Attributes:
        modes: modes of `LIVE_MODES`.
        episodes: environments of the first rollout, of all shares together, each of which flies one episode.
        env: options of the environment, None for the task's defaults with `seed`.
        seed: where `env` is None.
        task: task id, or ``module:factory``.
        backend: simulator.
        thorough: whether to fly until the full margins are supported.
        max_episodes: most episodes in each mode.
        thresholds: margins.
        runtime: how the graph is run.
        shares: into how many shares the flights are divided.
        header_alone: whether the C++ header flies, and the graph does not.
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
    shares: int = 1
    header_alone: bool = False


@dataclass(frozen=True)
class Order:
    """What every share is to fly next.

    Attributes:
        part: number of the rollout.
        episodes: of all shares together.
        modes: besides the checkpoint.
    """

    part: int
    episodes: int
    modes: tuple[str, ...]


@dataclass(frozen=True)
class ModeFlight:
    """One mode's episodes, and whether each began as the checkpoint's did."""

    episodes: FirstEpisodes
    paired: bool


@dataclass(frozen=True)
class FlownPart:
    """What one share flew by one order.

    Attributes:
        reference: the checkpoint's episodes.
        modes: those of each mode.
        broken: why a mode could not be flown.
    """

    reference: FirstEpisodes
    modes: dict[str, ModeFlight]
    broken: dict[str, str]


@dataclass(frozen=True)
class ShareFigures:
    """What one share compared in all of its flights.

    Attributes:
        shadow: onnxruntime's outputs with PyTorch's, None if that was not asked for.
        commands: the onboard runner's commands with PyTorch's, None if nothing was compared.
        faults: how often the onboard runner refused a step, by its reason.
        steps: that the onboard runner was given.
        header: what the C++ header gave beside PyTorch, None if the bundle has none or that was not asked for.
    """

    shadow: ParityCheck | None
    commands: ParityCheck | None
    faults: dict[str, int]
    steps: int
    header: HeaderFigures | None = None


@dataclass
class Times:
    """What the flights of one process took; they are reported and not judged.

    Attributes:
        built_s: making environments, s.
        flown_s: flights, s.
        waited_s: waiting for other processes, s.
        cpu_s: processor time of the whole process, s.
        env_steps: steps of all environments.
    """

    built_s: float = 0.0
    flown_s: float = 0.0
    waited_s: float = 0.0
    cpu_s: float = 0.0
    env_steps: int = 0


def share_of(total: int, index: int, count: int) -> int:
    """Return how many of a number of episodes one of several shares flies."""
    return total // count + (index < total % count)


def share_seed(seed: int, part: int, index: int) -> int:
    """Return the seed of one share's environments in one rollout.

    The first share flies what a verification without shares flies; the others take children of the tree of seeds.
    """
    if index == 0:
        return seed + part
    return int(np.random.SeedSequence(seed, spawn_key=(part, index)).generate_state(1)[0])


class Environments:
    """Makes the environments of the flights; the first one early, so that a wrong task fails before the long work.

    Args:
        options: what to fly.
        first: the share that flies first.

    Attributes:
        times: of this process.
    """

    def __init__(self, options: LiveOptions, first: int = 0) -> None:
        self._options, self._share, self.times = options, first, Times()
        self._first: VecEnv | None = None

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Make the first environment.

        Raises:
            TaskError: the task is unknown, or does not fit the policy.
            CheckpointError: the agent that the task registers cannot be restored from the checkpoint.
        """
        options = self._options
        self._first = self._make(share_of(options.episodes, self._share, options.shares), 0, self._share)
        require_checkpoint(self._first, checkpoint, options.task)

    def take(self, episodes: int, part: int, share: int) -> "VecEnv":
        """Return a fresh environment for one rollout."""
        if self._first is not None and part == 0 and share == self._share:
            first, self._first = self._first, None
            return first
        return self._make(episodes, part, share)

    def close(self) -> None:
        """Close the first environment, if nobody took it."""
        if self._first is not None:
            close(self._first)
            self._first = None

    def _make(self, episodes: int, part: int, share: int) -> "VecEnv":
        from deploy_kit.sim.options import EnvOptions
        from deploy_kit.sim.registry import make_env

        options = self._options.env or EnvOptions(seed=self._options.seed)
        options = dataclasses.replace(options, num_envs=episodes, seed=share_seed(options.seed, part, share))
        began = time.monotonic()
        env = make_env(options, self._options.task, self._options.backend)
        self.times.built_s += time.monotonic() - began
        return env


class ShareFlights:
    """The rollouts of one share.

    Args:
        index: number of the share.
        options: what to fly.
        environments: makes them.
        subject: bundle, checkpoint, vehicle.
        onnx: the graph.
        progress: told the steps flown.
        header: the C++ header, built; None for none.
    """

    def __init__(
        self,
        index: int,
        options: LiveOptions,
        environments: Environments,
        subject: BundleAndCheckpoint,
        onnx: Runner,
        progress: Callable[[Progress], None],
        header: SandboxedLibrary | None = None,
    ) -> None:
        self._index, self._options, self._environments = index, options, environments
        self._subject, self._onnx, self._progress = subject, onnx, progress
        named = f"share {index}, " if options.shares > 1 else ""
        self._contract = ContractFlights(subject, options.task, options.runtime, named)
        self._header = None if header is None else HeaderFlights(subject, options.task, header, named)
        self._shadow: ShadowComparison | None = None
        if "shadow" in options.modes and not options.header_alone:
            compared = "PyTorch drives, onnxruntime sees the same observations"
            comparison = ParityComparison(SHADOW, compared, subject.roles, subject.semantics)
            self._shadow = ShadowComparison(onnx, subject.reference, comparison, named)

    def fly(self, order: Order) -> FlownPart:
        """Fly the checkpoint, then each mode from the same seed.

        Raises:
            TaskError: episodes do not end, or the simulator's numbers are not finite.
        """
        episodes = share_of(order.episodes, self._index, self._options.shares)
        phase = "flights, PyTorch drives" + (", onnxruntime in its shadow" if self._shadow else "")
        env = self._environments.take(episodes, order.part, self._index)
        driver = reference_driver(self._subject.reference)
        try:
            if self._shadow is not None:
                self._shadow.begin(env.num_envs, order.part)
            watches: list[Watch] = [] if self._shadow is None else [self._shadow]
            if "shadow" in self._options.modes and self._header is not None:
                watches.append(self._header.begin_shadow(env, order.part))
            watch = self._recorded("PyTorch", order.part, env, _together(watches))
            reference = self._flown(fly_first_episodes, env, driver, watch, self._progress, phase)
        finally:
            close(env)
        modes, broken = {}, {}
        for mode in order.modes:
            try:
                flight = self._drive(mode, order.part, episodes)
            except ArtifactError as error:
                broken[mode] = str(error)
            else:
                modes[mode] = ModeFlight(flight.episodes, reference.starts_like(flight))
        return FlownPart(reference.episodes, modes, broken)

    def figures(self) -> ShareFigures:
        """Return what was compared so far."""
        shadow = None if self._shadow is None else self._shadow.result(self._subject.note)
        contract = self._contract
        header = None if self._header is None else self._header.figures()
        return ShareFigures(shadow, contract.commands_check(), dict(contract.faults), contract.steps, header)

    def _flown(self, fly: Callable[..., Flight], env: "VecEnv", *arguments: object) -> Flight:
        """Fly, and note what it took."""
        began, times = time.monotonic(), self._environments.times
        flight = fly(env, *arguments)
        times.flown_s += time.monotonic() - began
        times.env_steps += int(flight.episodes.length.max()) * env.num_envs
        return flight

    def _recorded(self, name: str, part: int, env: "VecEnv", watch: Watch | None = None) -> Watch | None:
        """Return a watch that also keeps flights of the first rollout for the report's page."""
        if part > 0 or self._index > 0:
            return watch
        return self._subject.evidence.recorder(name, env, self._subject.reference.transform, watch)

    def _drive(self, mode: str, part: int, episodes: int) -> Flight:
        env = self._environments.take(episodes, part, self._index)
        try:
            if mode == "driving":
                phase, watch = "flights, onnxruntime drives", self._recorded("onnxruntime", part, env)
                reference = self._subject.reference
                return self._flown(fly_artifact, env, self._onnx, reference, self._progress, phase, watch)
            if mode == HEADER_MODE:
                return self._drive_header(env, part)
            driver = self._contract.driver(env)
            phase = "flights from the contract alone"
            watch = self._recorded("contract", part, env, driver.watch)
            return self._flown(fly_first_episodes, env, driver, watch, self._progress, phase)
        finally:
            close(env)

    def _drive_header(self, env: "VecEnv", part: int) -> Flight:
        assert self._header is not None
        phase, name = "flights, the C++ header drives", "C++ header"
        if not self._header.has_memory:
            rows, watch = self._header.library.rows, self._recorded(name, part, env)
            return self._flown(fly_artifact, env, rows, self._subject.reference, self._progress, phase, watch)
        driver = HeaderDriver(self._header.fleet(env))
        watch = self._recorded(name, part, env, driver.watch)
        return self._flown(fly_first_episodes, env, driver, watch, self._progress, phase)


def _together(watches: Sequence[Watch]) -> Watch | None:
    """Return one watch of several, None for none."""
    if len(watches) < 2:
        return watches[0] if watches else None

    def see(record: StepRecord) -> None:
        for watch in watches:
            watch(record)

    return see
