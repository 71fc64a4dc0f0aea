"""Options of `collect`."""

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.data.cadence import DEFAULT_CADENCE, CheckpointEvery
from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import TASK_ID


@dataclass(frozen=True)
class CollectOptions:
    """Options of `collect`.

    Attributes:
        checkpoint: the policy to fly.
        feature_file: file to write, ``.h5``; a bare name goes to ``datasets/``.
        env: the vector environment's options, for each process; its seed is the collection's seed.
        task: task id, or ``module:factory``.
        backend: simulator.
        label: ``module:function`` that judges the labels, None for the task's observation group `auxiliary`.
        num_positive: training rows in which a gate is passed.
        num_negative: training rows in which none is.
        heldout_episodes: whole episodes on tracks of their own; half of the tracks are test tracks.
        keep_observations: full observations to keep from held-out episodes, for replay and golden samples.
        max_steps: stop collecting training rows after this many steps of all environments.
        overwrite: replace an existing dataset once the new one is whole, or ended as it was told to.
        resume: go on with an interrupted collection into the same file.
        keep_shards: leave the rows in shards beside the feature file, which points to them.
        checkpoint_every: when rows are brought to the disk for good.
        num_processes: simulators side by side, each in a process of its own.
        log_all_ranks: show what every process prints, not only what the first one does.
        video: also write the depth view of environment 0 as an mp4 beside the dataset.
        video_length: policy steps of video.
        keep_collecting: go on after the video instead of stopping.
        hints: what the checkpoint's weights do not tell.
    """

    checkpoint: Path
    feature_file: Path = Path("features.h5")
    env: EnvOptions = field(default_factory=EnvOptions)
    task: str = TASK_ID
    backend: str = "mujoco"
    label: str | None = None
    num_positive: int = 1_000_000
    num_negative: int = 1_000_000
    heldout_episodes: int = 128
    keep_observations: int = 256
    max_steps: int | None = None
    overwrite: bool = False
    resume: bool = False
    keep_shards: bool = False
    checkpoint_every: CheckpointEvery = DEFAULT_CADENCE
    num_processes: int = 1
    log_all_ranks: bool = False
    video: bool = False
    video_length: int = 200
    keep_collecting: bool = False
    hints: NetworkHints = field(default_factory=NetworkHints)

    @property
    def only_video(self) -> bool:
        """Whether collecting ends with the video."""
        return self.video and not self.keep_collecting

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: values contradict each other.
        """
        if self.num_processes < 1:
            raise OptionError(f"num_processes is {self.num_processes}; at least one process is needed")
        if self.overwrite and self.resume:
            raise OptionError("--overwrite begins anew and --resume goes on; give one of them")
        if self.video and (self.num_processes > 1 or self.resume):
            raise OptionError("--video is of one process that begins anew; leave out --num-processes and --resume")
