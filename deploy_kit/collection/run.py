"""Collecting: fly the policy, store its fused features with the gate label of the step that followed.

Held-out episodes come first, whole and on tracks of their own, so that a run that is stopped early can still be
judged; then training rows until both classes are full.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.collection.estimate import CollectEstimate, Forecast, silent_estimate
from deploy_kit.collection.feed import TrainingFeed
from deploy_kit.collection.options import CollectOptions
from deploy_kit.collection.rows import ObservationSample, RowMaker
from deploy_kit.data.partial_file import check_target
from deploy_kit.data.schema import SUFFIX, FeatureFileInfo
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError, InputError
from deploy_kit.flight.cpu_driver import fast_driver
from deploy_kit.flight.meter import Meter
from deploy_kit.flight.pictures.video import DepthVideo, require_video
from deploy_kit.flight.rollout import StepRecord, policy_period, require_checkpoint, rollout
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256
from deploy_kit.progress import Progress, silent
from deploy_kit.sim.registry import make_env
from deploy_kit.task.racing import RACING_TASK, TASK_ID

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

__all__ = ["CollectOptions", "CollectResult", "collect", "feature_file_path"]

logger = logging.getLogger(__name__)

LABEL_OFFSET_STEPS = 1
"""A row's label is judged on the state that the step which consumed its observation led to."""

EPISODES_PER_TRACK = 1
"""A new track each episode: a head that has seen few tracks learns those tracks."""

FIRST_TRAINING_ID = 1 << 40
"""Training episodes are numbered from here, held-out ones from 0, so that a number is unique in the file."""


@dataclass
class CollectResult:
    """What was collected.

    Attributes:
        path: the feature file.
        video: the mp4, if one was asked for.
        num_positive: positive training rows.
        num_negative: negative training rows.
        heldout_episodes: held-out episodes.
        observations: whole observations kept.
        complete: whether everything that was asked for is there.
        stopped_by: "full", "max_steps", "video" or "interrupt".
        env_steps: environment steps flown.
        seconds: wall time.
    """

    path: Path
    video: Path | None = None
    num_positive: int = 0
    num_negative: int = 0
    heldout_episodes: int = 0
    observations: int = 0
    complete: bool = False
    stopped_by: str = "full"
    env_steps: int = 0
    seconds: float = field(default=0.0)


def feature_file_path(name: Path) -> Path:
    """Return where a feature file goes: a bare name to ``datasets/``, a path as it is.

    Raises:
        DatasetError: the name does not end in ``.h5``.
    """
    if name.suffix != SUFFIX:
        raise DatasetError(f"{name}: a dataset's name must end in {SUFFIX}; call it {name.with_suffix(SUFFIX).name}")
    return Path("datasets") / name if name.parent == Path() and not str(name).startswith("./") else name


def collect(
    options: CollectOptions,
    progress: Callable[[Progress], None] = silent,
    tell_estimate: Callable[[CollectEstimate], None] = silent_estimate,
) -> CollectResult:
    """Collect a feature file.

    Ctrl-C ends collecting as `max_steps` does: the file is trimmed, valid and in place.

    Args:
        options: what to fly and how much to store.
        progress: called about ten times a second.
        tell_estimate: told once, after the first seconds, how long the training rows will take.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DatasetError: the dataset's name is wrong, it exists and `overwrite` is off, or it cannot be written.
        TaskError: the task is unknown or does not fit the policy.
    """
    path = feature_file_path(options.feature_file)
    check_target(path, options.overwrite)
    checkpoint = load_checkpoint(options.checkpoint, options.hints)
    if options.video:
        require_video()
    result, forecast = CollectResult(path=path), Forecast(options, tell_estimate)
    started = time.monotonic()
    writer = FeatureFileWriter(
        path,
        _file_info(options, checkpoint),
        num_positive=options.num_positive,
        num_negative=options.num_negative,
        seed=options.env.seed,
        overwrite=options.overwrite,
    )
    with writer:
        try:
            if not options.only_video:
                _collect_heldout(options, checkpoint, writer, result, forecast, progress)
            if not writer.full:
                _collect_training(options, checkpoint, writer, result, forecast, progress)
        except KeyboardInterrupt:
            result.stopped_by = "interrupt"
        result.complete = result.stopped_by == "full"
        writer.finish(complete=result.complete)
    result.num_positive, result.num_negative = writer.num_positive, writer.num_negative
    result.heldout_episodes, result.observations = writer.num_heldout_episodes, writer.num_observations
    result.seconds = time.monotonic() - started
    return result


def _file_info(options: CollectOptions, checkpoint: Checkpoint) -> FeatureFileInfo:
    if checkpoint.network.aux_decoder is None:
        logger.info("%s has no gate head; its features can be collected all the same", checkpoint.path)
    return FeatureFileInfo(
        feature_size=checkpoint.network.config.feature_size,
        feature_sha256=feature_sha256(checkpoint.network),
        policy_sha256=checkpoint.sha256,
        label_rule=_label_rule(options.task),
        label_threshold_m=RACING_TASK.pass_radius if options.task == TASK_ID else float("nan"),
        label_offset_steps=LABEL_OFFSET_STEPS,
        seed=options.env.seed,
        stage=options.env.stage,
        backend=options.backend,
        env_config={"task": options.task, **asdict(options.env), "episodes_per_track": EPISODES_PER_TRACK},
    )


def _label_rule(task: str) -> str:
    if task == TASK_ID:
        return "drone's centre within label_threshold_m of the gate's true centre after the step"
    return f"observation group 'auxiliary' of task {task}"


def _period(env: "VecEnv", task: str) -> float | None:
    """Return the duration of a step, None where the environment does not say."""
    known = task == TASK_ID or hasattr(getattr(env, "unwrapped", None), "step_dt")
    return policy_period(env) if known else None


def _make_env(options: CollectOptions, checkpoint: Checkpoint, purpose: int) -> "VecEnv":
    """Build the environment of one purpose (0 held-out, 1 training), with tracks of its own, new each episode."""
    seed = int(np.random.SeedSequence([options.env.seed, purpose]).generate_state(1)[0])
    env_options = replace(options.env, seed=seed, episodes_per_track=EPISODES_PER_TRACK)
    env = make_env(env_options, options.task, options.backend)
    try:
        require_checkpoint(env, checkpoint, options.task)
    except InputError:
        _close(env)
        raise
    return env


def _collect_heldout(
    options: CollectOptions,
    checkpoint: Checkpoint,
    writer: FeatureFileWriter,
    result: CollectResult,
    forecast: Forecast,
    progress: Callable[[Progress], None],
) -> None:
    """Store whole episodes.

    Each environment gives a fixed number of its first episodes. Taking the first to finish, whichever they are, would
    prefer those that crash early.
    """
    if options.heldout_episodes == 0:
        return
    num_envs = min(options.env.num_envs, options.heldout_episodes)
    env_options = replace(options, env=replace(options.env, num_envs=num_envs))
    env = _make_env(env_options, checkpoint, purpose=0)
    writer.record_steps(_period(env, options.task), getattr(env, "clip_actions", None))
    quota, rest = divmod(options.heldout_episodes, num_envs)
    left = quota + (np.arange(num_envs) < rest)
    steps: list[list[tuple[npt.NDArray[np.float32], np.int8]]] = [[] for _ in range(num_envs)]
    maker, sample = RowMaker(num_envs), ObservationSample(options.keep_observations, options.env.seed)
    meter = Meter(num_envs)
    with ExitStack() as stack:
        stack.callback(_close, env)
        stack.callback(sample.write, writer)
        driver = stack.enter_context(fast_driver(env, checkpoint.network, options.env.num_threads))
        for record in rollout(env, driver):
            rows = maker.rows(record)
            forecast.add(rows.label)
            active = np.flatnonzero(left > 0)
            sample.offer(rows, active)
            for i in active:
                steps[i].append((rows.features[i], rows.label[i]))
            for i in active[record.done.cpu().numpy()[active]]:
                features, labels = zip(*steps[i], strict=True)
                writer.add_heldout_episode(
                    np.stack(features), np.array(labels), rows.episode_id[i], rows.env_id[i], rows.track_id[i]
                )
                steps[i], left[i] = [], left[i] - 1
            result.env_steps += num_envs
            if meter.due():
                done = writer.num_heldout_episodes
                progress(Progress("held-out episodes", done, options.heldout_episodes, meter.note()))
            if not left.any():
                break
        progress(Progress("held-out episodes", options.heldout_episodes, options.heldout_episodes, meter.note()))


def _collect_training(
    options: CollectOptions,
    checkpoint: Checkpoint,
    writer: FeatureFileWriter,
    result: CollectResult,
    forecast: Forecast,
    progress: Callable[[Progress], None],
) -> None:
    """Store training rows until the file is full or something else ends it."""
    env = _make_env(options, checkpoint, purpose=1)
    writer.record_steps(_period(env, options.task), getattr(env, "clip_actions", None))
    maker, meter = RowMaker(env.num_envs, FIRST_TRAINING_ID), Meter(env.num_envs)
    total = options.num_positive + options.num_negative
    with ExitStack() as stack:
        stack.callback(_close, env)
        video = _video(options, checkpoint, result, stack, 1 / policy_period(env))
        writer.hold_rate(env.num_envs * int(torch.as_tensor(env.max_episode_length).max()))
        feed = stack.enter_context(TrainingFeed(writer, maker))
        driver = stack.enter_context(fast_driver(env, checkpoint.network, options.env.num_threads))
        for record in rollout(env, driver, options.max_steps):
            feed.add(record)
            forecast.add(record.label.cpu().numpy())
            result.env_steps += env.num_envs
            if video is not None and video.frames < options.video_length:
                _add_frame(video, record, checkpoint)
            if meter.due():
                note = f"{feed.num_positive:,} positive, {feed.num_negative:,} negative, {meter.note()}"
                progress(Progress("training rows", feed.num_positive + feed.num_negative, total, note))
            if feed.full:
                result.stopped_by = "full"
                break
            if options.only_video and video is not None and video.frames >= options.video_length:
                result.stopped_by = "video"
                break
        else:
            result.stopped_by = "max_steps"
    if writer.full and result.stopped_by == "max_steps":
        result.stopped_by = "full"
    note = f"{writer.num_positive:,} positive, {writer.num_negative:,} negative, {meter.note()}"
    progress(Progress("training rows", writer.num_positive + writer.num_negative, total, note))


def _video(
    options: CollectOptions, checkpoint: Checkpoint, result: CollectResult, stack: ExitStack, fps: float
) -> DepthVideo | None:
    if not options.video:
        return None
    result.video = result.path.with_suffix(".mp4")
    return stack.enter_context(DepthVideo(result.video, checkpoint.network.config.layout.image_shape, fps))


def _add_frame(video: DepthVideo, record: StepRecord, checkpoint: Checkpoint) -> None:
    logit = record.output.gate_logit
    video.add(
        record.observation[0, checkpoint.network.config.layout.state_size :].cpu().numpy(),
        None if logit is None else float(logit[0, 0].sigmoid()),
        bool(record.label[0]),
    )


def _close(env: "VecEnv") -> None:
    # rsl_rl's VecEnv has no close of its own.
    if hasattr(env, "close"):
        env.close()
