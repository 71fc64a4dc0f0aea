"""What finetuning leaves in its folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_kit import __version__
from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.files import require_same_or_absent
from deploy_kit.finetuning.epoch import Epoch
from deploy_kit.finetuning.inputs import FinetuneInputs, label_facts, label_record
from deploy_kit.finetuning.options import ADAM, FinetuneOptions
from deploy_kit.policy.any_policy import AnyCheckpoint, is_safetensors, save_with_head
from deploy_kit.policy.calibration import GateCalibration
from deploy_kit.policy.run.directory import FINETUNED_STEM, METRICS_NAME
from deploy_kit.policy.run.params import PARAMS_FILES, PARAMS_FOLDER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_NAME = "tensorboard"
PLOTS_NAME = "plots"
REPORT_NAME = "report.html"
STATE_NAME = "training_state.npz"

_SET_ASIDE = "earlier_results."
"""Begins the name of the folder in which earlier results wait until the first new epoch is on disk."""


def checkpoint_name(epoch: int, source: AnyCheckpoint) -> str:
    """Return the file name of an epoch's checkpoint."""
    suffix = "safetensors" if is_safetensors(source) else "pt"
    return f"{FINETUNED_STEM}{epoch}.{suffix}"


def earlier_results(options: FinetuneOptions) -> list[Path]:
    """Return what an earlier finetuning left in the output folder, which is made if need be.

    Raises:
        OptionError: the folder cannot be written, or it holds earlier results that are to be kept.
    """
    folder, checkpoint = options.output, options.checkpoint
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output {folder} cannot be made a folder ({error.strerror}); give another") from error
    if not os.access(folder, os.W_OK):
        raise OptionError(f"--output {folder} cannot be written to; give another folder")
    names = (METRICS_NAME, TENSORBOARD_NAME, PLOTS_NAME, REPORT_NAME, STATE_NAME)
    patterns = (f"{FINETUNED_STEM}*", f"{_SET_ASIDE}*")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    found = sorted([*found, *(folder / name for name in names if (folder / name).exists())])
    if found and not (options.overwrite or options.resume):
        raise OptionError(
            f"--output {folder} holds the results of an earlier finetuning ({found[0].name}); "
            "give another folder, --overwrite to replace them, or --resume to go on"
        )
    for path in found:
        if checkpoint.exists() and path.samefile(checkpoint):
            raise OptionError(f"--checkpoint {path} would be removed by --overwrite; give another --output")
    return found


def require_own_params(options: FinetuneOptions, source: AnyCheckpoint) -> None:
    """Check that the run's parameters can be copied beside the new checkpoints, before anything is trained.

    Raises:
        CheckpointError: the output folder holds another run's ``params/``.
    """
    own, there = source.params.directory, options.output / PARAMS_FOLDER
    if own is not None:
        require_same_or_absent(own, there)
    # A file that the source lacks would be taken for the new checkpoints' own: another vehicle, another camera.
    for name in PARAMS_FILES:
        if (there / name).exists() and (own is None or not (own / name).exists()):
            raise CheckpointError(
                f"{there / name} belongs to another run than {source.path}, which has none: save into a folder of its "
                "own"
            )


class ResultFolder:
    """Writes epochs as they are finished.

    Args:
        options: gives the folder.
        inputs: what is trained.
        earlier: results of an earlier finetuning, removed when the first epoch is on disk; none when resuming.
    """

    def __init__(self, options: FinetuneOptions, inputs: FinetuneInputs, earlier: Sequence[Path]) -> None:
        self._options, self._inputs = options, inputs
        self._earlier = list(earlier)
        self._board: SummaryWriter | None = None

    @contextmanager
    def replacing_earlier(self) -> Iterator[None]:
        """Set earlier results aside while the first epoch is written; then remove them, or put them back on failure."""
        earlier, self._earlier = self._earlier, []
        if not earlier:
            yield
            return
        aside = Path(tempfile.mkdtemp(prefix=_SET_ASIDE, dir=self._options.output))
        try:
            for path in earlier:
                path.rename(aside / path.name)
            yield
        except BaseException:
            for path in aside.iterdir():
                _remove(self._options.output / path.name)
                path.rename(self._options.output / path.name)
            aside.rmdir()
            raise
        shutil.rmtree(aside)

    def write_checkpoint(self, epoch: Epoch) -> None:
        """Write an epoch's checkpoint with the record of its calibration."""
        path = self._options.output / epoch.record.checkpoint
        save_with_head(path, self._inputs.source, epoch.head.vector, self._calibration(epoch))

    def log(self, epoch: Epoch) -> None:
        """Add an epoch to the TensorBoard log."""
        from torch.utils.tensorboard import SummaryWriter

        if self._board is None:
            self._board = SummaryWriter(str(self._options.output / TENSORBOARD_NAME))
        record, figures = epoch.record, epoch.head.figures
        for name, value in (
            ("loss/training", record.training_loss),
            ("loss/validation", record.validation_loss),
            ("validation/auroc", record.validation_auroc),
            ("validation/average_precision", record.validation_average_precision),
            ("validation/threshold_logit", record.threshold_logit),
            *((f"test/{name}", figures[name]) for name in ("auroc", "auroc_pgd", "precision", "recall")),
        ):
            self._board.add_scalar(name, value, record.epoch)
        self._board.flush()

    def close(self) -> None:
        """Close the TensorBoard log."""
        if self._board is not None:
            self._board.close()

    def _calibration(self, epoch: Epoch) -> GateCalibration:
        options, inputs, head = self._options, self._inputs, epoch.head
        return GateCalibration(
            detector=head.detector,
            rule=head.rule,
            base_rate=float(inputs.rows.validation.label.mean()),
            **label_facts(inputs.info),
            dataset_sha256=inputs.dataset.sha256,
            metrics=head.figures,
            tool_version=__version__,
            training={
                "policy_sha256": inputs.source.sha256,
                "epoch": epoch.record.epoch,
                "rows": inputs.rows.train.rows,
                "solver": options.solver,
                "objective": options.objective,
                **({"batch_size": options.adam.batch_size, "lr": options.adam.lr} if options.solver == ADAM else {}),
                "seed": options.seed,
                **asdict(options.attack),
                "correction": None if head.correction is None else head.correction.to_json(),
                **label_record(inputs.info),
            },
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
