"""Replay of a feature file: held-out rows through the head, kept observations through everything."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from deploy_kit.bundle.parity import Limit, ParityCheck, ParityComparison
from deploy_kit.bundle.runners import Float32, Runner
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.data.rows import Matrix, Rows
from deploy_kit.data.schema import KeepReason
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.progress import Progress
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.replay import FEATURE_BATCH_SIZES, reference_outputs, replay_features
from deploy_kit.verify.report import Check, NotRun
from deploy_kit.verify.samples import SampleSet


@dataclass(frozen=True)
class KeptSamples:
    """Kept observations.

    Attributes:
        samples: the observations, to replay.
        features: (n, 192) what the policy made of them when they were collected.
    """

    samples: SampleSet
    features: Float32


class Dataset:
    """A feature file that fits the policy. Use it as a context manager.

    Args:
        file: the open file.
    """

    def __init__(self, file: FeatureFile) -> None:
        self._file = file

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return self._file.sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def heldout_checks(
        self,
        subject: BundleAndCheckpoint,
        artifact: str,
        head: Runner | None,
        max_rows: int | None,
        progress: Callable[[Progress], None],
        switch: str | None = None,
        profile: str | None = None,
    ) -> Iterator[Check]:
        """Replay held-out rows through an artifact's part features → outputs.

        A file without held-out rows is replayed on its training rows instead, and the check is named after them.

        Args:
            subject: what is verified.
            artifact: name of the artifact.
            head: its part, None if there is none.
            max_rows: most rows, spread evenly; None for all.
            progress: told the rows done.
            switch: option by which the user switched the artifact off.
            profile: profile whose limits judge it; None for the report's.
        """
        heldout = self._file.num_heldout > 0
        rows = self._file.heldout() if heldout else self._file.train
        name = f"replay/{'heldout' if heldout else 'training-rows'}/{artifact}-head"
        if head is None:
            reason = "the graph cannot be cut at its features" if artifact == "onnx" else "not opened: see above"
            yield NotRun(name, switch or reason, switch)
            return
        chosen = spread(len(rows), max_rows)
        described = f"{'held-out' if heldout else 'training'} rows of {self.path.name}, features → outputs"
        # The header's heads give action and logit, whatever the graph puts out.
        plain = ("action",) if subject.contract.gate is None else ("action", "gate_logit")
        roles = subject.roles if artifact == "onnx" else plain
        comparison = ParityComparison(name, described, roles, subject.semantics)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(Progress("replay held-out rows" if heldout else "replay training rows", done, chosen.size))

        blocks = _select(rows.matrix, chosen).blocks(FEATURE_BATCH_SIZES[-1])
        replay_features(blocks, subject.reference, head, comparison, advance)
        check = comparison.result(
            lambda row: _where("row", rows, int(chosen[row])), self._note(heldout, chosen.size, len(rows))
        )
        yield replace(check, profile=profile)

    def kept_samples(self, max_observations: int | None) -> KeptSamples | None:
        """Return kept observations, at most so many, spread evenly; None if the file has none."""
        kept = self._file.observations
        if kept is None or not len(kept):
            return None
        chosen = spread(len(kept), max_observations)

        def where(row: int) -> str:
            index = int(chosen[row])
            tags = "|".join(reason.name or "" for reason in KeepReason(int(kept.reason[index]))).lower()
            return f"{_where('observation', kept.rows, index)}{f' [{tags}]' if tags else ''}"

        count = f"{chosen.size}" if chosen.size == len(kept) else f"{chosen.size} of {len(kept)}"
        described = f"{count} recorded observations of {self.path.name}"
        samples = SampleSet("kept", described, _select(kept.matrix, chosen).load(), where, recorded=True)
        return KeptSamples(samples, _select(kept.rows.matrix, chosen).load())

    def stored_features_check(self, subject: BundleAndCheckpoint, kept: KeptSamples) -> ParityCheck:
        """Return the comparison of stored features with what the checkpoint makes of the same observations."""
        comparison = ParityComparison(
            "replay/stored-features",
            f"features in {self.path.name} against the checkpoint",
            ("features",),
            subject.semantics,
            Limit.STORED_FEATURES,
        )
        reference = reference_outputs(subject.reference, kept.samples.observation)
        comparison.add(reference, {"features": kept.features})
        return comparison.result(kept.samples.where)

    def flown_inputs(self, state_size: int, most: int = 50_000) -> tuple[Float32, Float32 | None]:
        """Return features of held-out rows (training rows where there are none) and the kept observations' states.

        Args:
            state_size: numbers of the state.
            most: rows of each, spread evenly.

        Returns:
            (n, F), and (k, state_size) or None where the file keeps no observations.
        """
        rows = self._file.heldout() if self._file.num_heldout > 0 else self._file.train
        features = _select(rows.matrix, spread(len(rows), most)).load()
        kept = self._file.observations
        if kept is None or not len(kept):
            return features, None
        return features, _select(kept.matrix, spread(len(kept), most // 10)).load()[:, :state_size]

    def _note(self, heldout: bool, chosen: int, total: int) -> str | None:
        notes = [] if heldout else [f"{self.path.name} has no held-out rows; its training rows were replayed instead"]
        if chosen < total:
            notes.append(f"{chosen} of {total} rows, spread evenly")
        return "; ".join(notes) or None


def open_dataset(path: Path, network: VisionActorCritic) -> Dataset:
    """Open a feature file that was collected with a policy.

    Raises:
        DatasetError: it cannot be read, or was collected with another policy.
    """
    file = open_feature_file(path)
    try:
        file.require_policy(network)
    except BaseException:
        file.close()
        raise
    return Dataset(file)


def spread(total: int, limit: int | None) -> np.ndarray:
    """Return at most `limit` row numbers below `total`, ascending, spread evenly."""
    if limit is None or limit >= total:
        return np.arange(total)
    return np.arange(limit) * total // limit


def _select(matrix: Matrix, chosen: np.ndarray) -> Matrix:
    return Matrix(matrix.path, matrix.dataset, matrix.index[chosen])


def _where(what: str, rows: Rows, index: int) -> str:
    text = f"{what} {int(rows.index[index])}"
    if rows.episode_id is None or rows.step is None:
        return text
    return f"{text} (episode {int(rows.episode_id[index])}, step {int(rows.step[index])})"
