"""Judging: choose the detector of the gate head that a checkpoint has and say how good it is, without training."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit import __version__
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.finetuning.calibrator import VALIDATION
from deploy_kit.finetuning.comparison import evaluate_under_attack
from deploy_kit.finetuning.inputs import dataset_sha256, label_facts, require_gate_head
from deploy_kit.finetuning.learners.attack import Attack
from deploy_kit.finetuning.options import feature_paths
from deploy_kit.finetuning.rows import load_heldout
from deploy_kit.finetuning.step_duration import step_duration
from deploy_kit.gate.evaluation import FigureIntervals, evaluate_with_intervals
from deploy_kit.gate.threshold import ThresholdRule
from deploy_kit.policy.any_policy import head_vector, save_with_head
from deploy_kit.policy.calibration import GateCalibration
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.shipped import with_known_vehicle


@dataclass(frozen=True)
class JudgeOptions:
    """Options of `judge_head`.

    Attributes:
        checkpoint: whose gate head is judged.
        feature_files: feature file or files with held-out episodes, collected with this policy; a name may hold ``*``
            and ``?``.
        output: copy of the checkpoint with the calibration; ``outputs/judge/`` and the checkpoint's name if None.
        threshold_rule: see `ThresholdRule.parse`.
        seconds_per_step: the policy's period, s, where the feature files do not say; if None the run's, else the
            racing task's for its policies.
        seed: seed of the resampling behind the intervals.
        overwrite: replace an existing copy.
        hints: what neither checkpoint nor run say of the network.
    """

    checkpoint: Path
    feature_files: Path | tuple[Path, ...]
    output: Path | None = None
    threshold_rule: str = "f1"
    seconds_per_step: float | None = None
    seed: int = 0
    overwrite: bool = False
    hints: NetworkHints = field(default_factory=NetworkHints)


@dataclass(frozen=True)
class JudgeResult:
    """What judging found.

    Attributes:
        checkpoint: the copy that was written.
        calibration: what was stored in it.
        figures: on the test episodes, with intervals.
    """

    checkpoint: Path
    calibration: GateCalibration
    figures: FigureIntervals


def judge_head(options: JudgeOptions) -> JudgeResult:
    """Choose detector and threshold on the validation episodes and store them in a copy of the checkpoint.

    Every tensor stays as it is, and so does what an earlier calibration says of the training.

    Raises:
        OptionError: an option makes no sense, no detector keeps the rule, or the copy exists and is kept.
        CheckpointError: the checkpoint cannot be read, has no gate head, or would be written over itself.
        DatasetError: a feature file cannot be read, is another policy's, or has no held-out episodes.
    """
    rule = ThresholdRule.parse(options.threshold_rule)
    target = options.output or Path("outputs/judge") / options.checkpoint.name
    _check_target(options, target)
    source = load_policy(options.checkpoint, options.hints)
    if isinstance(source, Checkpoint):
        source = with_known_vehicle(source)
    require_gate_head(source)
    head = head_vector(source.network)
    with ExitStack() as stack:
        files = [stack.enter_context(open_feature_file(path)) for path in feature_paths(options.feature_files)]
        for file in files:
            file.require_policy(source.network)
        validation, test = load_heldout(files, step_duration(files, options.seconds_per_step, source))
        detector = rule.choose(
            validation.score(head), validation.label, validation.timeline, validation.seconds_per_step
        )
        calibration = GateCalibration(
            detector=detector,
            rule=f"{rule} on {VALIDATION}",
            base_rate=float(validation.label.mean()),
            **label_facts(files[0].attrs),
            dataset_sha256=dataset_sha256(files),
            metrics=evaluate_under_attack(head, test, detector, Attack()),
            tool_version=__version__,
            training={} if source.calibration is None else dict(source.calibration.training),
        )
    figures = evaluate_with_intervals(test.score(head), test, detector, options.seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_with_head(target, source, head, calibration)
    return JudgeResult(target, calibration, figures)


def _check_target(options: JudgeOptions, target: Path) -> None:
    if target.suffix != options.checkpoint.suffix:
        raise OptionError(
            f"--output {target}: the copy has the checkpoint's format; end its name in {options.checkpoint.suffix}"
        )
    if not target.exists():
        return
    if options.checkpoint.exists() and target.samefile(options.checkpoint):
        raise CheckpointError(f"--output {target} is the checkpoint itself; give another name")
    if not options.overwrite:
        raise OptionError(f"{target} exists and is kept; pass --overwrite to replace it, or give another --output")
