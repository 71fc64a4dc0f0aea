"""Flying: one policy or two, checkpoints or bundles, in simulation, for statistics, a record and pictures."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.flight.cpu_driver import fast_driver
from deploy_kit.flight.episodes import FlightStatistics
from deploy_kit.flight.first_episodes import Flight, fly_first_episodes
from deploy_kit.flight.flown_policy import FlownPolicy, load_policy
from deploy_kit.flight.paired import paired_differences
from deploy_kit.flight.pictures.flight import draw_flight, picture_paths
from deploy_kit.flight.pictures.index import PAGE_NAME, FlownFlights, chosen_traces, flight_page, named_flights
from deploy_kit.flight.pictures.video import require_video
from deploy_kit.flight.pictures.widget import ShownFlight
from deploy_kit.flight.record import FlightComparison, PolicyFlight, episode_rows, write_record
from deploy_kit.flight.rollout import StepRecord, policy_period
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.flight.viewers.browser import require_viewer
from deploy_kit.flight.viewers.recording import require_rerun, write_recording
from deploy_kit.page.blocks import Page
from deploy_kit.page.render import write_page
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.progress import Progress, silent
from deploy_kit.sim.registry import make_env
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from deploy_kit.sim.options import EnvOptions
    from deploy_kit.sim.tracks import Track

MOST_WATCHED = 16
"""Environments that viewers can choose from: a flight takes some 4 MB of memory."""

SECOND_FOLDER = "second"
"""Folder of the second policy's pictures, in that of the first one's."""


@dataclass(frozen=True)
class FlyOptions:
    """Options of `fly`.

    Attributes:
        policy: a checkpoint file or a bundle folder.
        compare_with: a second one, which flies from the same starts; None to fly one.
        env: the vector environment's options; each environment flies one episode.
        task: task id, or ``module:factory``.
        backend: simulator.
        json_path: where to write the record: options, versions, statistics, one row an episode; None for nowhere.
        pictures: folder for the page (`PAGE_NAME`), the pictures and the video of one environment, None for none. Those
            of a second policy go to `SECOND_FOLDER` in it; both are on one page.
        picture_env: environment that the pictures show; None for the one that passes the most gates, and on the page
            also the crash with the fewest (the depth images of all are then held in memory, some 4 MB each).
        recording: where to write a recording for Rerun's viewer (``.rrd``); None for nowhere.
        viewer: whether the flights are kept for `FlightViewer`, which the caller starts.
        overwrite: replace existing pictures, record and recording.
        vehicle_file: vehicle numbers for the actions' units, where neither task nor run has them.
        hints: what the checkpoint's weights do not tell.
    """

    policy: Path
    env: "EnvOptions"
    compare_with: Path | None = None
    task: str = TASK_ID
    backend: str = "mujoco"
    json_path: Path | None = None
    pictures: Path | None = None
    picture_env: int | None = 0
    recording: Path | None = None
    viewer: bool = False
    overwrite: bool = False
    vehicle_file: Path | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)

    def check(self) -> None:
        """Check the options against each other and against the files that exist.

        Raises:
            OptionError: a file to be written exists and `overwrite` is off, `picture_env` does not exist, or a
                comparison has one episode.
        """
        if self.compare_with is not None and self.env.num_envs < 2:
            raise OptionError("--num-envs 1: differences of paired flights need at least 2")
        if self.picture_env is not None and not 0 <= self.picture_env < self.env.num_envs:
            last = self.env.num_envs - 1
            raise OptionError(f"--picture-env {self.picture_env}: there are environments 0 to {last}")
        pictures = [path for folder in self.picture_folders() for path in picture_paths(folder).values()]
        pages = [] if self.pictures is None else [self.pictures / PAGE_NAME]
        for path in (*pages, *pictures, *filter(None, [self.json_path, self.recording])):
            if path.exists() and not self.overwrite:
                raise OptionError(f"{path} exists and is kept; pass --overwrite to replace it, or another name")

    def policies(self) -> tuple[Path, ...]:
        """Return what flies, in order."""
        return (self.policy,) if self.compare_with is None else (self.policy, self.compare_with)

    def picture_folders(self) -> tuple[Path, ...]:
        """Return where each policy's pictures go, none if none are wanted."""
        if self.pictures is None:
            return ()
        return (self.pictures, self.pictures / SECOND_FOLDER)[: len(self.policies())]


@dataclass(frozen=True)
class WatchedFlights:
    """Flights for viewers.

    Attributes:
        flights: with their names.
        image_shape: (rows, columns) of the depth image.
        threshold: of the gate probability, None if unknown.
    """

    flights: tuple[ShownFlight, ...]
    image_shape: tuple[int, int]
    threshold: float | None


@dataclass(frozen=True)
class FlyResult:
    """What flying gave.

    Attributes:
        flights: flights of each policy, in order.
        comparison: comparison of two policies, None for one.
        pictures: files written, the page last.
        page: what the page shows, None without pictures.
        watched: flights for viewers, None unless they were asked for.
    """

    flights: tuple[PolicyFlight, ...]
    comparison: FlightComparison | None
    pictures: tuple[Path, ...]
    page: Page | None = None
    watched: WatchedFlights | None = None

    @property
    def statistics(self) -> FlightStatistics:
        """Statistics of the first policy."""
        return self.flights[0].statistics


def fly(options: FlyOptions, progress: Callable[[Progress], None] = silent) -> FlyResult:
    """Fly the first episode of each environment with one policy, or with two from the same starts.

    Args:
        options: what to fly, and what to write.
        progress: told the steps flown, about ten times a second.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        BundleError: a bundle cannot be read.
        TaskError: the task is unknown or does not fit.
        OptionError: see `FlyOptions.check`; or a checkpoint's parameters are missing.
    """
    options.check()
    if options.pictures is not None:
        require_video()
    if options.recording is not None:
        require_rerun(options.recording)
    if options.viewer:
        require_viewer()
    policies = [load_policy(path, options.hints, options.task, options.vehicle_file) for path in options.policies()]
    flown: list[FlownFlights] = []
    pictures: list[Path] = []
    for index, policy in enumerate(policies):
        phase = "flights" if len(policies) == 1 else f"flights of policy {index + 1} of {len(policies)}"
        flight, summary, traces = _fly_one(options, policy, policies, progress, phase)
        pictured, watched = _pictured(options, options.env.num_envs), _watched(options, options.env.num_envs)
        shown = chosen_traces([trace for trace in traces.values() if trace.env in pictured])
        flown.append(FlownFlights(policy, flight, summary, shown, tuple(traces[env] for env in watched)))
        if shown:
            progress(Progress("pictures", 0))
            folder = options.picture_folders()[index]
            pictures += draw_flight(folder, shown[0], policy.layout.image_shape, policy.transform, policy.threshold)
    comparison = None
    if len(flown) == 2:
        first, second = (flights.flight for flights in flown)
        differences = paired_differences(first.episodes, second.episodes)
        comparison = FlightComparison(first.starts_like(second), differences)
    page = None
    if options.pictures is not None:
        page = flight_page(flown, comparison, _facts(options))
        pictures.append(options.pictures / PAGE_NAME)
        write_page(pictures[-1], page)
    flights = tuple(one.summary for one in flown)
    if options.json_path is not None:
        write_record(options.json_path, flights, comparison, asdict(options))
    watched_flights = _watched_flights(options, flown)
    if options.recording is not None and watched_flights is not None:
        progress(Progress("recording", 0))
        write_recording(
            options.recording, watched_flights.flights, watched_flights.image_shape, watched_flights.threshold
        )
    return FlyResult(flights, comparison, tuple(pictures), page, watched_flights)


def _watched_flights(options: FlyOptions, flown: Sequence[FlownFlights]) -> WatchedFlights | None:
    flights = named_flights(flown, [one.watched for one in flown])
    if not flights:
        return None
    if options.viewer and not all(flight.trace.position for flight in flights):
        raise TaskError(f"--viewer: task {options.task!r} does not report positions, so there is no flight to show")
    policy = flown[0].policy
    return WatchedFlights(flights, policy.layout.image_shape, policy.threshold)


def _pictured(options: FlyOptions, count: int) -> range:
    """Return the environments that pictures and page choose from."""
    if options.pictures is None:
        return range(0)
    return range(count) if options.picture_env is None else range(options.picture_env, options.picture_env + 1)


def _watched(options: FlyOptions, count: int) -> range:
    """Return the environments that viewers can choose from."""
    wanted = options.viewer or options.recording is not None
    return range(min(count, MOST_WATCHED) if wanted else 0)


def _facts(options: FlyOptions) -> dict[str, str]:
    env = options.env
    obstacles = "with obstacles" if env.obstacles else "without obstacles"
    difficulty = "drawn for each track" if env.difficulty is None else f"{env.difficulty:g}"
    return {
        "Task": f"{options.task} on {options.backend}, stage {env.stage}, seed {env.seed}",
        "Tracks": f"{', '.join(env.tracks)}, {obstacles}, difficulty {difficulty}",
        "Randomisation": "on" if env.randomisation else "off",
    }


def _fly_one(
    options: FlyOptions,
    policy: FlownPolicy,
    all_policies: list[FlownPolicy],
    progress: Callable[[Progress], None],
    phase: str,
) -> tuple[Flight, PolicyFlight, dict[int, FlightTrace]]:
    """Fly one policy in an environment of its own; all policies must fit, so that the second fails before the first."""
    env = make_env(options.env, options.task, options.backend)
    with ExitStack() as stack:
        if hasattr(env, "close"):
            stack.callback(env.close)
        for other in all_policies:
            other.move_to(str(env.device))
            other.require_fits(env, options.task)
        tracks = env.tracks() if hasattr(env, "tracks") else [None] * env.num_envs
        period = policy_period(env)
        traces = _traces(options, policy, tracks, period)

        def trace_step(record: StepRecord) -> None:
            for trace in traces.values():
                trace.add(record)

        driver = stack.enter_context(fast_driver(env, policy.driver, options.env.num_threads))
        flight = fly_first_episodes(env, driver, trace_step, progress, phase)
    statistics = flight.episodes.statistics(options.env.seed)
    return flight, PolicyFlight(policy.identity, statistics, episode_rows(flight, tracks, period)), traces


def _traces(
    options: FlyOptions, policy: FlownPolicy, tracks: "list[Track | None]", period: float
) -> dict[int, FlightTrace]:
    wanted = sorted({*_pictured(options, len(tracks)), *_watched(options, len(tracks))})
    return {index: FlightTrace(index, period, policy.layout.state_size, tracks[index]) for index in wanted}
