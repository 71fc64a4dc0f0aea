"""The live part of a verification: which flights to fly, how many, and the checks that they give."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from deploy_kit.bundle.runners import Runner
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.flight.paired import paired_differences
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.contract_flight import CONTRACT, accepted_check
from deploy_kit.verify.crew import Crew, LostProcessError, Processes
from deploy_kit.verify.header_flight import steps_check
from deploy_kit.verify.merging import merged_parity
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.rollouts import DRIVING, flight_check, reference_check
from deploy_kit.verify.share import (
    HEADER_MODE,
    Environments,
    FlownPart,
    LiveOptions,
    Order,
    ShareFigures,
    Times,
)
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

__all__ = ["LiveOptions", "LiveTest"]

PROCESSES = "live/processes"

MAX_ROLLOUTS = 8
"""Most rollouts, one after the other: each one's spread says how many episodes are still missing."""

MAX_QUICK = 1024
"""Most episodes of a run that was not asked to be thorough: many, where a simulator does not repeat itself."""

MAX_SIDE_BY_SIDE = 1024
"""Most environments of a share's further rollout."""

_COMPARED = {
    "driving": "onnxruntime drives, against PyTorch from the same seed",
    "contract": "the onboard runner drives, knowing the contract alone, against PyTorch from the same seed",
    HEADER_MODE: "the C++ header drives, against PyTorch from the same seed",
}


class LiveTest:
    """Flies the checkpoint, with onnxruntime in its shadow, then the bundle. Use it as a context manager.

    Args:
        options: what to fly.
        processes: other processes that fly some of the shares, None for none.

    Attributes:
        times: what the flights took in each process, once they are over.
    """

    def __init__(self, options: LiveOptions, processes: Processes | None = None) -> None:
        self._options, self._processes = options, processes
        self._environments = Environments(options)
        self.times: list[Times] = []

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes asked for."""
        return self._options.modes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._environments.close()

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Make the first environment; see `Environments.prepare`."""
        self._environments.prepare(checkpoint)

    def run(
        self,
        subject: BundleAndCheckpoint,
        onnx: Runner | None,
        progress: Callable[[Progress], None],
        header: SandboxedLibrary | None = None,
    ) -> Iterator[Check]:
        """Fly, and yield the checks of the modes asked for; with the C++ header too, where there is one."""
        if onnx is None:
            yield from (NotRun(f"live/{mode}", "onnxruntime cannot load the graph") for mode in self.modes)
            return
        crew = Crew(self._options, self._environments, self._processes, subject, onnx, progress, header)
        flights = _Flights(self._options, subject, crew, header is not None)
        try:
            if (reason := flights.unwanted()) is not None:
                yield NotRun(CONTRACT, reason, "--no-vehicle")
            figures = flights.fly()
            self.times = crew.times()
        except LostProcessError as error:
            yield FactCheck(PROCESSES, "every process flies its share", crew.processes, (str(error),))
            yield from (NotRun(f"live/{mode}", "the flights are not whole") for mode in self.modes)
            return
        if crew.processes > 1:
            described = f"every process flies its share: {self._options.shares} shares, {crew.processes} processes"
            yield FactCheck(PROCESSES, described, crew.processes, ())
        yield from flights.checks(figures)


class _Flights:
    """The rollouts of one verification.

    Args:
        options: what to fly.
        subject: bundle, checkpoint, vehicle.
        crew: flies all shares.
        header: whether the C++ header flies too.
    """

    def __init__(self, options: LiveOptions, subject: BundleAndCheckpoint, crew: Crew, header: bool) -> None:
        self._options, self._subject, self._crew = options, subject, crew
        # By number of the rollout, then by share.
        self._parts: list[list[FlownPart]] = []
        # Rollouts of each mode.
        self._flown: dict[str, list[int]] = {m: [] for m in ("driving", "contract") if m in options.modes}
        if options.header_alone:
            self._flown = {}
        if header and "driving" in options.modes:
            self._flown[HEADER_MODE] = []
        self._broken: dict[str, str] = {}

    def unwanted(self) -> str | None:
        """Give up the mode `contract` if it cannot be flown without the vehicle, and return why."""
        named, task = self._subject.named, self._options.task
        if "contract" not in self._flown or named.wanted or task == TASK_ID:
            return None
        self._flown.pop("contract")
        return f"--no-vehicle: nothing tells what the observations of {task} measure and what its commands do"

    def fly(self) -> list[ShareFigures]:
        """Fly as often as it takes, and return what each share compared.

        Raises:
            LostProcessError: a process did not fly its share.
        """
        episodes, modes = self._options.episodes, tuple(self._flown)
        for part in range(MAX_ROLLOUTS):
            self._take(part, self._crew.fly(Order(part, episodes, modes)))
            missing = {mode: self._missing(mode) for mode in self._flown}
            modes = tuple(mode for mode in missing if missing[mode] > 0)
            if not modes:
                break
            shares = self._options.shares
            episodes = min(max(shares, *missing.values()), MAX_SIDE_BY_SIDE * shares)
        return self._crew.figures()

    def _take(self, part: int, flown: list[FlownPart]) -> None:
        self._parts.append(flown)
        for index, share in enumerate(flown):
            for mode, problem in share.broken.items():
                self._broken.setdefault(mode, f"share {index}: {problem}" if len(flown) > 1 else problem)
        for mode, parts in self._flown.items():
            if all(mode in share.modes for share in flown):
                parts.append(part)

    def checks(self, figures: list[ShareFigures]) -> Iterator[Check]:
        """Yield the checks of everything flown."""
        yield reference_check(self._reference().statistics())
        if shadows := [share.shadow for share in figures if share.shadow is not None]:
            yield merged_parity(shadows)
        if headers := [share.header for share in figures if share.header is not None]:
            yield merged_parity([share.shadow for share in headers])
            if (stepped := steps_check(headers)) is not None:
                yield stepped
        for mode in self._flown:
            yield from self._mode(mode, figures)

    def _reference(self, mode: str | None = None) -> FirstEpisodes:
        """Return the checkpoint's episodes: all, or those that a mode flew too."""
        parts = range(len(self._parts)) if mode is None else self._flown[mode]
        return FirstEpisodes.joined([share.reference for part in parts for share in self._parts[part]])

    def _candidate(self, mode: str) -> FirstEpisodes:
        flown = (share.modes[mode] for part in self._flown[mode] for share in self._parts[part])
        return FirstEpisodes.joined([flight.episodes for flight in flown])

    def _paired(self, mode: str) -> bool:
        return all(share.modes[mode].paired for part in self._flown[mode] for share in self._parts[part])

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

    def _mode(self, mode: str, figures: list[ShareFigures]) -> Iterator[Check]:
        name = {"driving": DRIVING, "contract": CONTRACT, HEADER_MODE: f"live/{HEADER_MODE}"}[mode]
        if mode in self._broken:
            yield FactCheck(name, _COMPARED[mode], 1, (self._broken[mode],))
            return
        if mode == "contract":
            yield merged_parity([share.commands for share in figures if share.commands is not None])
            yield accepted_check([share.faults for share in figures], sum(share.steps for share in figures))
        yield flight_check(
            name,
            _COMPARED[mode],
            self._reference(mode),
            self._candidate(mode),
            self._paired(mode),
            self._options.thorough,
        )
