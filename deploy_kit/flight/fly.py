"""Flying: a checkpoint or a bundle in simulation, for statistics and pictures."""

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.reader import MANIFEST_NAME, open_bundle
from deploy_kit.bundle.runners import OnnxRunner
from deploy_kit.errors import OptionError
from deploy_kit.files import replace_file
from deploy_kit.flight.drivers import ArtifactDriver
from deploy_kit.flight.episodes import FlightStatistics
from deploy_kit.flight.first_episodes import fly_first_episodes
from deploy_kit.flight.pictures.flight import draw_flight, picture_paths
from deploy_kit.flight.rollout import Driver, StepRecord, policy_period, require_checkpoint, require_interface
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.vehicle_checkpoint import load_with_vehicle
from deploy_kit.progress import Progress, silent
from deploy_kit.sim.registry import make_env
from deploy_kit.task.interface import ActionTransform, ObservationLayout
from deploy_kit.task.racing import TASK_ID

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.sim.options import EnvOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlyOptions:
    """Options of `fly`.

    Attributes:
        policy: a checkpoint file or a bundle folder.
        env: the vector environment's options; each environment flies one episode.
        task: task id, or ``module:factory``.
        backend: simulator.
        json_path: where to write the statistics, None to leave them.
        pictures: folder for the pictures and the video of one environment, None for none.
        picture_env: environment that the pictures show; None for the one that passes the most gates (the depth images
            of all are then held in memory, some 4 MB each).
        overwrite: replace existing pictures and statistics.
        vehicle_file: vehicle numbers for the actions' units, where neither task nor run has them.
        hints: what the checkpoint's weights do not tell.
    """

    policy: Path
    env: "EnvOptions"
    task: str = TASK_ID
    backend: str = "mujoco"
    json_path: Path | None = None
    pictures: Path | None = None
    picture_env: int | None = 0
    overwrite: bool = False
    vehicle_file: Path | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)


@dataclass(frozen=True)
class FlyResult:
    """What a flight gave.

    Attributes:
        statistics: over the first episode of each environment.
        pictures: files written.
    """

    statistics: FlightStatistics
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class _Policy:
    """A driver with what the pictures need to know; `threshold` is a probability, a bundle has no `checkpoint`."""

    driver: Driver
    layout: ObservationLayout
    transform: ActionTransform
    threshold: float | None
    checkpoint: Checkpoint | None = None


def fly(options: FlyOptions, progress: Callable[[Progress], None] = silent) -> FlyResult:
    """Fly the first episode of each environment.

    Args:
        options: what to fly, and what to write.
        progress: called about ten times a second with the episodes finished.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        BundleError: the bundle cannot be read.
        TaskError: the task is unknown or does not fit.
        OptionError: a file to be written exists and `overwrite` is off.
    """
    targets = () if options.pictures is None else tuple(picture_paths(options.pictures).values())
    if not options.overwrite:
        for path in (*targets, *filter(None, [options.json_path])):
            if path.exists():
                raise OptionError(f"{path} exists and is kept; pass --overwrite to replace it, or another name")
    if options.picture_env is not None and not 0 <= options.picture_env < options.env.num_envs:
        last = options.env.num_envs - 1
        raise OptionError(f"--picture-env {options.picture_env}: there are environments 0 to {last}")
    env = make_env(options.env, options.task, options.backend)
    with ExitStack() as stack:
        if hasattr(env, "close"):
            stack.callback(env.close)
        policy = _load(options, str(env.device))
        if policy.checkpoint is None:
            require_interface(env, policy.layout, len(policy.transform.scale), options.task)
        else:
            require_checkpoint(env, policy.checkpoint, options.task)
        traces = _traces(env, policy.layout, options) if options.pictures is not None else []

        def trace_step(record: StepRecord) -> None:
            for trace in traces:
                trace.add(record)

        flight = fly_first_episodes(env, policy.driver, trace_step, progress)
    statistics = flight.episodes.statistics(options.env.seed)
    pictures: tuple[Path, ...] = ()
    if options.pictures is not None:
        progress(Progress("pictures", 0))
        shown = max(traces, key=lambda trace: (sum(trace.passed), not trace.crashed))
        pictures = draw_flight(options.pictures, shown, policy.layout.image_shape, policy.transform, policy.threshold)
    if options.json_path is not None:
        text = json.dumps(statistics.to_json(), indent=2) + "\n"
        replace_file(options.json_path, lambda path: path.write_text(text, encoding="utf-8"))
    return FlyResult(statistics, pictures)


def _traces(env: "VecEnv", layout: ObservationLayout, options: FlyOptions) -> list[FlightTrace]:
    tracks = env.tracks() if hasattr(env, "tracks") else [None] * env.num_envs
    shown = range(env.num_envs) if options.picture_env is None else [options.picture_env]
    return [FlightTrace(index, policy_period(env), layout.state_size, tracks[index]) for index in shown]


def _load(options: FlyOptions, device: str) -> _Policy:
    if options.policy.is_dir() or options.policy.name == MANIFEST_NAME:
        return _load_bundle(options.policy if options.policy.is_dir() else options.policy.parent)
    checkpoint, vehicle = load_with_vehicle(options.policy, options.hints, options.task, options.vehicle_file)
    calibration = checkpoint.calibration
    return _Policy(
        driver=checkpoint.network.to(device),
        layout=checkpoint.network.config.layout,
        transform=vehicle.action_transform,
        threshold=None if calibration is None else float(sigmoid(calibration.threshold_logit)),
        checkpoint=checkpoint,
    )


def _load_bundle(folder: Path) -> _Policy:
    bundle = open_bundle(folder)
    contract = bundle.contract
    spec = contract.observation
    transform = ActionTransform(contract.action.scale, contract.action.offset)
    threshold = None if contract.gate is None else contract.gate.threshold_logit
    return _Policy(
        driver=ArtifactDriver(OnnxRunner(bundle.onnx_path, contract), transform),
        layout=ObservationLayout(spec.state_size, (spec.depth.rows, spec.depth.columns)),
        transform=transform,
        threshold=None if threshold is None else float(sigmoid(threshold)),
    )
