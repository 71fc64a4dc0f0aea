"""Options of `verify_bundle`."""

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit.bundle.runtime import Runtime, runtimes
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.sim.options import EnvOptions

SEED_BITS = 31
"""Of seeds drawn from the operating system: every generator takes such a number."""

DEFAULT_RUNTIME = Runtime()
"""What the onboard runner flies unless it is told otherwise, and what export verifies."""

LIVE_MODES: tuple[str, ...] = ("shadow", "driving", "contract")


@dataclass(frozen=True)
class ReplayOptions:
    """Which inputs to replay.

    Attributes:
        seed: seed of all inputs that are drawn.
        random_rows: how many inputs to draw within the contract's ranges, and as many as in flight.
        search_evaluations: how many inputs a search for the largest difference may try.
        max_rows: most held-out rows, spread evenly; None for all.
        max_observations: most kept observations, spread evenly; None for all.
        observations: whether the feature file must hold whole observations.
        torchscript: whether to run TorchScript; switch it off where it cannot be kept from writing.
        cpp: whether to build and run the C++ header, where the bundle has one; switch it off without a compiler.
        runtimes: ways to run the graph; the first one flies.
    """

    seed: int = 0
    random_rows: int = 512
    search_evaluations: int = 2048
    max_rows: int | None = None
    max_observations: int | None = 2000
    observations: bool = True
    torchscript: bool = True
    cpp: bool = True
    runtimes: tuple[Runtime, ...] = (DEFAULT_RUNTIME,)


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify_bundle`.

    Attributes:
        bundle: folder that `export` wrote.
        checkpoint: the truth: the file that the bundle claims to come from.
        feature_file: feature file of that policy, for replay.
        replay: whether to replay the feature file; switch it off where there is none.
        live: whether to fly.
        live_modes: some of "shadow", "driving" and "contract".
        episodes: live episodes in each mode, flown side by side.
        thorough: whether to fly as many more as the profile's full margins need.
        max_episodes: most live episodes in each mode.
        num_processes: processes that fly live episodes, this one included; each takes a GPU of its own where `env`
            names one.
        shares: into how many shares the live episodes are divided, each with seeds of its own; None for one a process.
            With the same shares, any number of processes flies the same episodes.
        log_all_ranks: show what every process prints, not only what the first one does.
        env: options of the environment, None for the task's defaults; `episodes` sets its number of environments.
        task: task id, or ``module:factory``.
        backend: simulator.
        seed: of all inputs that are drawn, and of the flights unless `env` is given. None draws one for the inputs from
            the operating system, which a bundle cannot have been made for and the report names; flights then have 0.
        random_rows: how many inputs to draw within the contract's ranges, and as many as in flight.
        search_evaluations: how many inputs a search for the largest difference may try.
        max_rows: most held-out rows to replay, spread evenly; None for all.
        max_observations: most kept observations to replay, spread evenly; None for all.
        observations: whether the feature file must hold whole observations; switch it off where it has none.
        torchscript: whether to run TorchScript; switch it off where it cannot be kept from writing.
        cpp: whether to build and run the C++ header, where the bundle has one.
        flight: log of a flight to replay; None for none.
        providers: of onnxruntime, "cpu", "cuda" or "tensorrt"; each is verified, and the first one flies.
        optimisation_levels: of the graph, "disabled", "basic", "extended" or "all"; likewise.
        onnx_threads: threads of one inference; likewise.
        tf32: whether CUDA may round to TF32; what it gives is then judged by the profile tf32.
        report: where to write the report; None for report.json in the bundle's folder.
        vehicle: whether to hold the contract against the vehicle's numbers; they come from `vehicle_file`, else from
            the run beside the checkpoint, else from the task.
        vehicle_file: the vehicle's numbers, where export was given such a file.
        hints: what the checkpoint's weights do not tell.
        thresholds: limits of the verdicts.
        trust: file of the public key whose signature the bundle must bear; None takes any bundle.
    """

    bundle: Path
    checkpoint: Path
    feature_file: Path | None = None
    replay: bool = True
    live: bool = True
    live_modes: tuple[str, ...] = LIVE_MODES
    episodes: int = 32
    thorough: bool = False
    max_episodes: int = 4096
    num_processes: int = 1
    shares: int | None = None
    log_all_ranks: bool = False
    env: "EnvOptions | None" = None
    task: str = TASK_ID
    backend: str = "mujoco"
    seed: int | None = None
    random_rows: int = ReplayOptions.random_rows
    search_evaluations: int = ReplayOptions.search_evaluations
    max_rows: int | None = ReplayOptions.max_rows
    max_observations: int | None = ReplayOptions.max_observations
    observations: bool = ReplayOptions.observations
    torchscript: bool = ReplayOptions.torchscript
    cpp: bool = ReplayOptions.cpp
    providers: tuple[str, ...] = (DEFAULT_RUNTIME.provider,)
    optimisation_levels: tuple[str, ...] = (DEFAULT_RUNTIME.level,)
    onnx_threads: tuple[int, ...] = (DEFAULT_RUNTIME.threads,)
    tf32: bool = False
    flight: Path | None = None
    report: Path | None = None
    vehicle: bool = True
    vehicle_file: Path | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)
    thresholds: Thresholds = field(default_factory=Thresholds)
    trust: Path | None = None

    @property
    def replayed(self) -> ReplayOptions:
        """Which inputs to replay."""
        return ReplayOptions(
            ReplayOptions.seed if self.seed is None else self.seed,
            self.random_rows,
            self.search_evaluations,
            self.max_rows,
            self.max_observations,
            self.observations,
            self.torchscript,
            self.cpp,
            self.runtimes,
        )

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Ways to run the graph; the first one flies."""
        return runtimes(self.providers, self.optimisation_levels, self.onnx_threads, self.tf32)

    def with_seed(self) -> "VerifyOptions":
        """Return these options with a seed: their own, or else one drawn from the operating system."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(SEED_BITS))

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: a value is out of range, or two contradict each other.
        """
        if self.replay and self.feature_file is None:
            raise OptionError("there is no feature file to replay: give --feature-file FILE, or --no-replay")
        if not self.replay and self.feature_file is not None:
            raise OptionError(f"--feature-file {self.feature_file} contradicts --no-replay; leave one out")
        if unknown := [mode for mode in self.live_modes if mode not in LIVE_MODES]:
            raise OptionError(f"unknown live mode {unknown[0]!r}; known: {', '.join(LIVE_MODES)}")
        if not self.vehicle and self.vehicle_file is not None:
            raise OptionError(f"--vehicle {self.vehicle_file} and --no-vehicle contradict each other; leave one out")
        if self.live and not self.live_modes:
            raise OptionError("no live mode is left; give shadow, driving or contract, or --no-live")
        if self.live and self.episodes < self.thresholds.min_episodes:
            raise OptionError(
                f"--episodes {self.episodes}: at least {self.thresholds.min_episodes} are needed, by the profile "
                f"{self.thresholds.profile}"
            )
        if self.seed is not None and self.seed < 0:
            raise OptionError(f"--seed {self.seed}: a seed is 0 or more")
        if not (self.providers and self.optimisation_levels and self.onnx_threads):
            raise OptionError("no provider, level or number of threads is left")
        if 0 in self.onnx_threads:
            raise OptionError("--onnx-threads 0: a number from 1 is needed, since only what is verified may fly")
        for runtime in self.runtimes:
            runtime.check()
        if self.tf32 and "cuda" not in self.providers:
            raise OptionError("--tf32 has no effect without --provider cuda; leave it out")
        if self.live and self.max_episodes < self.episodes:
            raise OptionError(f"--max-episodes {self.max_episodes} is below --episodes {self.episodes}")
        if self.num_processes < 1 or (self.shares is not None and self.shares < 1):
            raise OptionError("--num-processes and --shares: at least 1 is needed")
        for name in ("random_rows", "search_evaluations", "max_rows", "max_observations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
