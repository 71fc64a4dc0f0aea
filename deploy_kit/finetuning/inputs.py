"""What a finetuning reads: the checkpoint with its gate head, and the feature files."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy_kit.arrays import FloatArray
from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.schema import FeatureFileInfo
from deploy_kit.errors import CheckpointError
from deploy_kit.finetuning.options import EVENTS, FinetuneOptions
from deploy_kit.finetuning.rows import FinetuneRows, load_rows
from deploy_kit.finetuning.step_duration import step_duration
from deploy_kit.gate.correction import Correction
from deploy_kit.policy.any_policy import AnyCheckpoint, head_of, head_vector, with_new_head
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.shipped import with_known_vehicle


@dataclass(frozen=True)
class DatasetRecord:
    """The feature files, as they stand in metrics.json.

    Attributes:
        path: names, joined with commas.
        sha256: hash of the file; of several, the hash of their hashes in their order.
        complete: whether no collection was interrupted, None where the files do not say.
        training_rows: number of rows.
        training_positives: how many of them pass a gate.
        streamed: whether they were read from the files in every epoch.
    """

    path: str
    sha256: str
    complete: bool | None
    training_rows: int
    training_positives: int
    streamed: bool


@dataclass(frozen=True)
class FinetuneInputs:
    """What a finetuning reads.

    Attributes:
        source: the checkpoint.
        rows: what is trained and judged on.
        info: info of the first feature file, None where it does not say.
        dataset: the feature files.
    """

    source: AnyCheckpoint
    rows: FinetuneRows
    info: FeatureFileInfo | None
    dataset: DatasetRecord

    @property
    def head(self) -> FloatArray:
        """(F + 1,) weights and bias as they were read."""
        return head_vector(self.source.network)

    @property
    def start(self) -> FloatArray:
        """(F + 1,) where training begins: a head that deploy-kit corrected is taken as it was before that."""
        calibration = self.source.calibration
        correction = Correction.from_json(None if calibration is None else calibration.training.get("correction"))
        return self.head if correction is None else correction.undo(self.head)


def label_facts(info: FeatureFileInfo | None) -> dict[str, Any]:
    """Return what a calibration says of the labels and of the flights that they were taken on.

    Args:
        info: of the feature file; None for MasterRacing's files, which do not say. They pair an observation with the
            label of the step it led to.
    """
    if info is None:
        return {
            "label_rule": "not recorded in the feature file",
            "label_distance_m": None,
            "label_offset_steps": 1,
            "policy_period_s": None,
            "clip_actions": None,
        }
    return {
        "label_rule": info.label_rule,
        "label_distance_m": _known(info.label_threshold_m),
        "label_offset_steps": info.label_offset_steps,
        "policy_period_s": _known(info.policy_period_s),
        "clip_actions": _known(info.clip_actions),
    }


def label_record(info: FeatureFileInfo | None) -> dict[str, Any]:
    """Return what a training record says of the function that judged the labels; nothing where the task did."""
    if info is None or not info.label_function:
        return {}
    return {"label": {"function": info.label_function, "source_sha256": info.label_sha256}}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def load_source(options: FinetuneOptions) -> AnyCheckpoint:
    """Read the checkpoint, with a new head if one is asked for.

    Raises:
        CheckpointError: it cannot be read, has no head, or has one where a new one is asked for.
    """
    source = load_policy(options.checkpoint, options.hints)
    if options.new_head:
        source = with_new_head(source)
    require_gate_head(source)
    return with_known_vehicle(source) if isinstance(source, Checkpoint) else source


def require_gate_head(source: AnyCheckpoint) -> None:
    """Raise CheckpointError if a checkpoint has no head."""
    if head_of(source.network) is not None:
        return
    if isinstance(source, Checkpoint):
        raise CheckpointError(
            f"{source.path}: aux_decoder.weight is missing, so this policy was trained without the gate head and "
            "there is none; train the policy with its auxiliary head, or give it one with --new-head"
        )
    raise CheckpointError(f"{source.path} has no head yet; give it one with finetune --new-head")


def dataset_sha256(files: Sequence[FeatureFile]) -> str:
    """Return the hash of a feature file; of several, the hash of their hashes in their order."""
    hashes = [file.sha256 for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_inputs(source: AnyCheckpoint, files: Sequence[FeatureFile], options: FinetuneOptions) -> FinetuneInputs:
    """Read the rows of feature files, which must be the policy's.

    Raises:
        DatasetError: a file is another policy's, or lacks rows of a class.
        OptionError: see `step_duration`.
    """
    for file in files:
        file.require_policy(source.network)
    for_events = options.objective == EVENTS
    seconds_per_step = step_duration(files, options.seconds_per_step, source)
    rows = load_rows(files, options.seed, options.memory, seconds_per_step, for_events)
    return FinetuneInputs(source, rows, files[0].attrs, _dataset(files, rows))


def _dataset(files: Sequence[FeatureFile], rows: FinetuneRows) -> DatasetRecord:
    return DatasetRecord(
        path=", ".join(str(file.path) for file in files),
        sha256=dataset_sha256(files),
        complete=all(file.attrs.complete for file in files if file.attrs) if files[0].attrs else None,
        training_rows=rows.train.rows,
        training_positives=rows.train.positives,
        streamed=rows.train.streamed,
    )
