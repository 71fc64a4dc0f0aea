"""Collecting: fly the policy, store its fused features with the gate label of the step that followed."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit.collection.estimate import CollectEstimate, Forecast, silent_estimate
from deploy_kit.collection.flight import FIRST_TRAINING_ID, CollectionFlight, episodes_per_track
from deploy_kit.collection.interrupts import interruptible
from deploy_kit.collection.options import CollectOptions
from deploy_kit.data.fusing import Fused, fuse
from deploy_kit.data.schema import SUFFIX, FeatureFileInfo
from deploy_kit.data.shard_folder import ShardFolder, check_target, folder_of
from deploy_kit.data.writer import FeatureFileWriter
from deploy_kit.errors import DatasetError, OptionError
from deploy_kit.flight.pictures.video import DepthVideo, require_video
from deploy_kit.flight.rollout import StepRecord, policy_period
from deploy_kit.policy.any_policy import (
    AnyCheckpoint,
    feature_size_of,
    features_in_words,
    features_sha256,
    head_of,
)
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.progress import Progress, silent
from deploy_kit.ranks import ALONE, launched_rank
from deploy_kit.sim.labels import find_label
from deploy_kit.task.racing import RACING_TASK, TASK_ID

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

__all__ = ["FIRST_TRAINING_ID", "CollectOptions", "CollectResult", "collect", "feature_file_path", "recover"]

logger = logging.getLogger(__name__)

LABEL_OFFSET_STEPS = 1
"""A row's label is judged on the state that the step which consumed its observation led to."""


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
        dropped_episodes: episodes that were left out, since the simulator's numbers were not finite.
        complete: whether everything that was asked for is there.
        stopped_by: "full", "max_steps", "video", "interrupt", or "failure" where a process of several died.
        env_steps: environment steps flown, those before an interruption included.
        seconds: wall time.
        failures: what became of processes that did not end well, by their number.
        worker: whether this is one of several processes, whose first one writes the file.
        kept_rows: folder with the rows so far where an older file was kept, since they are only a part; the counts are
            theirs.
        has_head: whether the policy has a head to train.
    """

    path: Path
    video: Path | None = None
    num_positive: int = 0
    num_negative: int = 0
    heldout_episodes: int = 0
    observations: int = 0
    dropped_episodes: int = 0
    complete: bool = False
    stopped_by: str = "full"
    env_steps: int = 0
    seconds: float = field(default=0.0)
    failures: dict[int, str] = field(default_factory=dict)
    worker: bool = False
    kept_rows: Path | None = None
    has_head: bool = True

    def take(self, fused: Fused) -> None:
        """Take over what the feature file holds, or would hold."""
        for name in ("num_positive", "num_negative", "heldout_episodes", "observations", "dropped_episodes"):
            setattr(self, name, getattr(fused, name))
        self.env_steps = fused.env_steps
        self.kept_rows = None if fused.written else folder_of(self.path)


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

    Ctrl-C, and a request to terminate, end collecting as `max_steps` does: the file is valid and in place. Only a file
    of another collection is not replaced by a part; the rows so far then stay in the collection's folder. In a process
    that ``torchrun`` started, it flies this process's share, and the first process makes the file.

    Args:
        options: what to fly and how much to store.
        progress: called about ten times a second.
        tell_estimate: told once, after the first seconds, how long the training rows will take.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DatasetError: the dataset's name is wrong, it exists and `overwrite` is off, somebody else collects it, or it
            cannot be written.
        OptionError: options contradict each other.
        TaskError: the task is unknown or does not fit the policy.
        KeyboardInterrupt: Ctrl-C before there was any row.
    """
    options.check()
    rank = launched_rank()
    path = feature_file_path(options.feature_file)
    if rank.leads:
        check_target(path, options.overwrite, options.resume)
    checkpoint = load_policy(options.checkpoint, options.hints)
    if options.video:
        if not isinstance(checkpoint, Checkpoint):
            raise OptionError(f"--video shows a depth image, which {checkpoint.path} does not read; leave it out")
        require_video()
    info = file_info(options, checkpoint)
    result, started = CollectResult(path=path, has_head=head_of(checkpoint.network) is not None), time.monotonic()
    with interruptible():
        if rank.count > 1 or options.num_processes > 1:
            from deploy_kit.collection.processes import collect_as_rank, collect_in_processes

            if rank.count > 1:
                collect_as_rank(options, checkpoint, info, rank, result, progress, tell_estimate)
            else:
                collect_in_processes(options, info, result, progress, tell_estimate)
        else:
            _collect_alone(options, checkpoint, info, result, progress, tell_estimate)
    result.seconds = time.monotonic() - started
    return result


def _collect_alone(
    options: CollectOptions,
    checkpoint: AnyCheckpoint,
    info: FeatureFileInfo,
    result: CollectResult,
    progress: Callable[[Progress], None],
    tell_estimate: Callable[[CollectEstimate], None],
) -> None:
    writer = FeatureFileWriter(
        result.path,
        info,
        num_positive=options.num_positive,
        num_negative=options.num_negative,
        seed=options.env.seed,
        overwrite=options.overwrite,
        resume=options.resume,
        keep_observations=options.keep_observations,
        every=options.checkpoint_every,
        keep_shards=options.keep_shards,
        num_envs=options.env.num_envs,
    )
    forecast = Forecast(options, tell_estimate)
    flight = CollectionFlight(options, checkpoint, writer.shards, ALONE, forecast, progress)
    with writer:
        try:
            if not options.only_video and not writer.heldout_flown(options.heldout_episodes):
                flight.heldout()
            else:
                writer.shards.heldout_complete = True
            if not writer.full:
                picture = _Pictures(options, checkpoint, result).begin if options.video else None
                result.stopped_by = flight.training(picture)
        except KeyboardInterrupt:
            result.stopped_by = "interrupt"
            if not writer.rows:
                logger.warning("%s: interrupted before any row was stored, so nothing was written", result.path)
                raise
        result.complete = result.stopped_by == "full"
        interrupted = result.stopped_by == "interrupt"
        writer.finish(result.complete, resumable=interrupted, progress=progress, spare_older=interrupted)
        assert writer.fused is not None
        result.take(writer.fused)


def recover(
    feature_file: Path,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = silent,
    keep_shards: bool = False,
) -> CollectResult:
    """Make the feature file of an interrupted collection's rows, without flying; the shards stay.

    Args:
        feature_file: file as in `CollectOptions`.
        overwrite: replace an existing file.
        progress: told of the making of the file.
        keep_shards: leave the rows in shards beside the file, which points to them.

    Raises:
        DatasetError: there is no interrupted collection, it still goes on, or the file exists.
    """
    path = feature_file_path(feature_file)
    check_target(path, overwrite, resume=True)
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} exists and is kept; pass --overwrite to replace it")
    folder = ShardFolder(path)
    folder.lock()
    try:
        fused = fuse(folder, folder.read_plan(), None, progress, keep_shards)
    finally:
        folder.unlock()
    result = CollectResult(path, complete=fused.whole)
    result.take(fused)
    return result


def file_info(options: CollectOptions, checkpoint: AnyCheckpoint) -> FeatureFileInfo:
    """Return the attributes of the feature file that options and checkpoint tell."""
    if head_of(checkpoint.network) is None:
        logger.info("%s has no head; its features can be collected all the same", checkpoint.path)
    label = None if options.label is None else find_label(options.label)
    return FeatureFileInfo(
        feature_size=feature_size_of(checkpoint.network),
        feature_sha256=features_sha256(checkpoint.network),
        feature_layer=features_in_words(checkpoint.network),
        policy_sha256=checkpoint.sha256,
        label_rule=_label_rule(options.task) if label is None else label.rule,
        label_threshold_m=RACING_TASK.pass_radius if label is None and options.task == TASK_ID else float("nan"),
        label_function="" if label is None else label.name,
        label_sha256="" if label is None else label.source_sha256,
        label_offset_steps=LABEL_OFFSET_STEPS,
        seed=options.env.seed,
        stage=options.env.stage,
        backend=options.backend,
        env_config={"task": options.task, **asdict(options.env), "episodes_per_track": episodes_per_track(options.env)},
    )


def _label_rule(task: str) -> str:
    if task == TASK_ID:
        return "drone's centre within label_threshold_m of the gate's true centre after the step"
    return f"observation group 'auxiliary' of task {task}"


class _Pictures:
    """Writes the video of environment 0 while training rows are collected."""

    def __init__(self, options: CollectOptions, checkpoint: AnyCheckpoint, result: CollectResult) -> None:
        assert isinstance(checkpoint, Checkpoint)
        self._options, self._layout, self._result = options, checkpoint.network.config.layout, result

    def begin(self, env: "VecEnv", stack: ExitStack) -> Callable[[StepRecord], bool]:
        """Open the video; return what takes each step and says whether collecting ends with it."""
        self._result.video = self._result.path.with_suffix(".mp4")
        video = stack.enter_context(DepthVideo(self._result.video, self._layout.image_shape, 1 / policy_period(env)))

        def take(record: StepRecord) -> bool:
            if video.frames < self._options.video_length:
                logit = record.output.gate_logit
                video.add(
                    record.observation[0, self._layout.state_size :].cpu().numpy(),
                    None if logit is None else float(logit[0, 0].sigmoid()),
                    bool(record.label[0]),
                )
            return self._options.only_video and video.frames >= self._options.video_length

        return take


def with_share(options: CollectOptions, threads: int) -> CollectOptions:
    """Return the options of one process of several: its share of the CPU, unless the user gave one."""
    if options.env.num_threads is not None or options.backend != "mujoco":
        return options
    return replace(options, env=replace(options.env, num_threads=threads))


__all__ += ["file_info", "with_share"]
