"""Where a finetuning stands, in a file beside its checkpoints, so that it can be resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.files import UNREADABLE_NPZ, replace_file
from deploy_kit.finetuning.calibrator import CalibratedHead
from deploy_kit.finetuning.epoch import Epoch, EpochRecord
from deploy_kit.finetuning.inputs import FinetuneInputs
from deploy_kit.finetuning.options import FinetuneOptions
from deploy_kit.finetuning.output import STATE_NAME
from deploy_kit.gate.correction import Correction
from deploy_kit.policy.any_policy import head_vector
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.run.directory import METRICS_NAME
from deploy_kit.text import one_line

_SAME = (
    *("pgd_steps", "epsilon", "alpha", "norm", "masterracing_compatible", "solver", "seed"),
    *("device", "threshold_rule", "prior_correction", "temperature", "seconds_per_step"),
)
"""Options that must be as they were: those of the training, and those that the finished epochs were calibrated with."""


class TrainingState:
    """Reads and writes the state.

    Args:
        options: what is trained and how.
        inputs: what it is trained from.
    """

    def __init__(self, options: FinetuneOptions, inputs: FinetuneInputs) -> None:
        self._folder, self._hints = options.output, options.hints
        self._same = {"policy": inputs.source.sha256, "dataset": inputs.dataset.sha256}
        self._same |= {name: str(getattr(options.adam, name)) for name in ("batch_size", "lr")}
        self._same |= {name: str(getattr(options, name)) for name in _SAME}

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Store a learner's state after an epoch."""
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in state.items()}
        arrays |= {"epoch": np.array(epoch), "options": np.array(json.dumps(self._same))}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        replace_file(self._folder / STATE_NAME, write)

    def load(self) -> tuple[list[Epoch], dict[str, Any]]:
        """Return the finished epochs and the learner's state after the last of them.

        Raises:
            OptionError: there is none, it cannot be read, or it is of other options, weights or rows.
            CheckpointError: an epoch's checkpoint cannot be read.
        """
        path = self._folder / STATE_NAME
        if not path.exists():
            raise OptionError(f"--resume: {path} does not exist, so there is nothing to go on with; leave --resume out")
        try:
            with np.load(path, allow_pickle=False) as file:
                state: dict[str, Any] = {name: file[name] for name in file.files}
            epoch, same = int(state.pop("epoch")), json.loads(str(state.pop("options")))
        except UNREADABLE_NPZ as error:
            raise OptionError(
                f"--resume: {path} cannot be read ({one_line(error)}); start again with --overwrite"
            ) from error
        for name, value in self._same.items():
            if same.get(name) != value:
                raise OptionError(
                    f"--resume: {self._folder} was trained with {name} {same.get(name)}, not {value}; "
                    "give the same, or start again with --overwrite"
                )
        return [self._read_epoch(record) for record in self._records()[:epoch]], state

    def _records(self) -> list[EpochRecord]:
        path = self._folder / METRICS_NAME
        try:
            return [EpochRecord(**record) for record in json.loads(path.read_text())["epochs"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"--resume: {path} cannot be read ({error}); start again with --overwrite") from error

    def _read_epoch(self, record: EpochRecord) -> Epoch:
        path = self._folder / record.checkpoint
        checkpoint = load_policy(path, self._hints)
        calibration = checkpoint.calibration
        if calibration is None:
            raise CheckpointError(f"{path} has no calibration, so it is no epoch to resume from; use --overwrite")
        return Epoch(
            record,
            CalibratedHead(
                vector=head_vector(checkpoint.network),
                correction=Correction.from_json(calibration.training.get("correction")),
                detector=calibration.detector,
                rule=calibration.rule,
                rule_kept=record.rule_kept,
                figures=calibration.metrics,
            ),
        )
