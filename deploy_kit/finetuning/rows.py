"""What finetuning trains on, chooses the threshold on, and is judged on."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.data.blocks import ShuffledRows
from deploy_kit.data.reader import FeatureFile, Split
from deploy_kit.data.rows import Rows
from deploy_kit.data.schema import UNKNOWN_TRACK
from deploy_kit.errors import DatasetError
from deploy_kit.gate.detector import TOLERANCE_S, steps_of
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.task.racing import TASK_ID

logger = logging.getLogger(__name__)

SUBSTITUTE_SHARE = 0.1
"""Share of the training rows that stands in for each held-out part where a file has none."""


@dataclass(frozen=True)
class FinetuneRows:
    """All rows of one finetuning.

    Attributes:
        train: class-balanced rows.
        validation: the threshold is chosen on these.
        test: figures come from these alone.
        source: where validation and test rows come from, in words.
        natural_prevalence: whether they hold as many positives as flights do.
        flight_prior: share of positives in flight, None where nothing tells it.
        negative_weight: how often each training row that passes no gate counts.
    """

    train: ShuffledRows
    validation: EvaluationRows
    test: EvaluationRows
    source: str
    natural_prevalence: bool
    flight_prior: float | None
    negative_weight: float = 1.0

    @property
    def training_prior(self) -> float:
        """Share of positives among the training rows, as often as they count."""
        positives = self.train.positives
        return positives / (positives + self.negative_weight * (self.train.rows - positives))


def load_rows(
    files: Sequence[FeatureFile], seed: int, memory: int | None, seconds_per_step: float, for_events: bool = False
) -> FinetuneRows:
    """Read the rows of one or several feature files.

    Files without held-out episodes give a tenth of their training rows to validation and another to test, with a
    warning: their figures are at the training rows' class balance and on the same tracks.

    Args:
        files: files of one policy; see `require_one_origin`. Their training rows' ids are dropped.
        seed: seed of that split.
        memory: bytes that the process may take, None for half of what is free.
        seconds_per_step: duration of a step, s; see `step_duration`.
        for_events: leave out negatives that are a passage within the detector's tolerance, and weight the others to
            flight's share of positives.

    Raises:
        DatasetError: there are no training rows, some part holds one class only, or memory is short.
        OptionError: the bound of memory is too small to work with.
    """
    require_one_origin(files)
    names, kind = ", ".join(str(file.path) for file in files), _kind(files)
    for file in files:
        if for_events:
            file.train = file.train.select(~just_before_a_passage(file, steps_of(TOLERANCE_S, seconds_per_step)))
        file.drop_training_ids()
    filled = [file.train for file in files if len(file.train)]
    if not filled:
        raise DatasetError(f"{names} holds no training rows; collect with --num-positive and --num-negative above 0")
    _require_both(names, np.concatenate([part.label for part in filled]), "training rows")
    heldout = any(file.num_heldout for file in files)
    if heldout:
        validation, test = (_heldout(files, split) for split in ("validation", "test"))
        source, train = "held-out episodes", filled
        if _warn_of_unknown_tracks(files):
            source = f"held-out episodes, from {kind}s that are not known"
    else:
        split = [_substitute(part, seed) for part in filled]
        train, validation, test = ([parts[number] for parts in split] for number in range(3))
        source = "a seeded tenth of the training rows"
        logger.warning(
            "%s has no held-out episodes: threshold and figures come from %d training rows at their class balance, not "
            "at flight's, from %ss the head was trained on; they flatter. Collect with --heldout-episodes",
            names,
            sum(len(part) for part in (*validation, *test)),
            kind,
        )
    for parts, name in ((validation, "validation rows"), (test, "test rows")):
        _require_both(names, np.concatenate([part.label for part in parts]), name)
    judged = [_judged(parts, heldout, seconds_per_step) for parts in (validation, test)]
    prior = _flight_prior(files, judged[0] if heldout else None)
    # Last, since it takes what memory the others leave.
    shuffled = ShuffledRows(train, memory)
    return FinetuneRows(
        train=shuffled,
        validation=judged[0],
        test=judged[1],
        source=source,
        natural_prevalence=heldout,
        flight_prior=prior,
        negative_weight=_negative_weight(names, shuffled, prior) if for_events else 1.0,
    )


def just_before_a_passage(file: FeatureFile, steps: int) -> npt.NDArray[np.bool_]:
    """Return which training rows pass no gate, but lead to a kept one that does within so many steps.

    A firing there is a hit; the row is no example of where none must be.

    Raises:
        DatasetError: the file does not say which episode a row is of.
    """
    rows = file.train
    if rows.episode_id is None or rows.step is None:
        raise DatasetError(
            f"{file.path} does not say which episodes its training rows are of, which --objective events needs; "
            "collect with deploy-kit"
        )
    order = np.lexsort((rows.step, rows.episode_id))
    episode, step, passes = rows.episode_id[order], rows.step[order].astype(np.int64), rows.label[order]
    # The next passage at a row or after it, by going backwards.
    place = np.where(passes, np.arange(passes.size), passes.size)
    following = np.minimum.accumulate(place[::-1])[::-1]
    known = following < passes.size
    following = np.where(known, following, 0)
    near = known & ~passes & (episode[following] == episode) & (step[following] - step <= steps)
    found = np.zeros(passes.size, np.bool_)
    found[order] = near
    return found


def _negative_weight(names: str, rows: ShuffledRows, prior: float | None) -> float:
    """Return the weight that gives positives the share that they have in flight."""
    if prior is None:
        raise DatasetError(
            f"{names} does not tell how many steps of a flight are passes, which --objective events needs; collect "
            "with --heldout-episodes"
        )
    return rows.positives / (rows.rows - rows.positives) * (1 - prior) / prior


def load_heldout(files: Sequence[FeatureFile], seconds_per_step: float) -> tuple[EvaluationRows, EvaluationRows]:
    """Read the held-out episodes of feature files, validation and test.

    Args:
        files: files of one policy; see `require_one_origin`.
        seconds_per_step: duration of a step, s; see `step_duration`.

    Raises:
        DatasetError: there are none of either, or they hold one class only.
    """
    require_one_origin(files)
    _warn_of_unknown_tracks(files)
    names = ", ".join(str(file.path) for file in files)
    judged = []
    for split in ("validation", "test"):
        parts = _heldout(files, split)
        _require_both(names, np.concatenate([part.label for part in parts]), f"{split} rows")
        judged.append(_judged(parts, True, seconds_per_step))
    return judged[0], judged[1]


def require_one_origin(files: Sequence[FeatureFile]) -> None:
    """Check that several files may be used as one.

    Raises:
        DatasetError: a file is given twice, labels mean different things, or a held-out track of one file gave training
            rows in another or is for validation here and for test there.
    """
    seen: dict[str, FeatureFile] = {}
    for file in files if len(files) > 1 else ():
        other = seen.setdefault(file.sha256, file)
        if other is not file:
            raise DatasetError(f"{file.path} holds the same as {other.path}; give each file once")
    first = files[0]
    for file in files[1:]:
        rules = [_label_rule(f) for f in (first, file)]
        if rules[0] != rules[1]:
            raise DatasetError(
                f"{file.path}: labels mean {rules[1]}, in {first.path} {rules[0]}; use files of one rule"
            )
    use: dict[int, tuple[str, FeatureFile]] = {}
    kind = _kind(files)
    for file in files:
        for name, rows in _tracks(file):
            for track in set(np.unique(rows).tolist()) - {UNKNOWN_TRACK}:
                known, other = use.setdefault(track, (name, file))
                if known != name:
                    raise DatasetError(
                        f"{file.path}: {kind} {track} is for {name} here and for {known} in {other.path}, so figures "
                        f"would flatter; collect with different seeds, and give only files that do not share {kind}s"
                    )


def _label_rule(file: FeatureFile) -> tuple[str, float | None, int] | None:
    """Return what a file's labels mean; None where it does not say. NaN, which never equals itself, becomes None."""
    if file.attrs is None:
        return None
    distance = file.attrs.label_threshold_m
    return file.attrs.label_rule, None if math.isnan(distance) else distance, file.attrs.label_offset_steps


def unknown_tracks(files: Sequence[FeatureFile]) -> list[FeatureFile]:
    """Return the files that hold held-out episodes on tracks that nobody knows."""
    return [
        file
        for file in files
        if file.num_heldout and (track := file.heldout().track_id) is not None and (track == UNKNOWN_TRACK).any()
    ]


def _warn_of_unknown_tracks(files: Sequence[FeatureFile]) -> bool:
    unknown = unknown_tracks(files)
    if unknown:
        logger.warning(
            "%s: the environment did not say which %ss its episodes are from (extras['track_id']), so held-out "
            "episodes may be from %ss that the head was trained on, and figures may flatter",
            ", ".join(str(file.path) for file in unknown),
            _kind(files),
            _kind(files),
        )
    return bool(unknown)


def _kind(files: Sequence[FeatureFile]) -> str:
    """Return what a `track_id` numbers: a track in the racing task, a group of episodes in any other."""
    tasks = {str(file.attrs.env_config.get("task", TASK_ID)) for file in files if file.attrs is not None}
    return "group" if tasks - {TASK_ID} else "track"


def _tracks(file: FeatureFile) -> list[tuple[str, npt.NDArray[np.int64]]]:
    found = [("training", file.train.track_id)]
    if file.num_heldout:
        found += [(split, file.heldout(split).track_id) for split in _splits(file)]
    return [(name, track) for name, track in found if track is not None]


def _splits(file: FeatureFile) -> list[Split]:
    both: tuple[Split, Split] = ("validation", "test")
    return [split for split in both if file.has_heldout(split)]


def _heldout(files: Sequence[FeatureFile], split: Split) -> list[Rows]:
    found = [file.heldout(split) for file in files if file.has_heldout(split)]
    return found or [files[0].heldout(split)]


def _judged(parts: Sequence[Rows], whole: bool, seconds_per_step: float) -> EvaluationRows:
    episodes = [part.episode_id for part in parts]
    number: npt.NDArray[np.int64] | None = None
    if whole:
        # Episodes of different files may have the same number.
        changes = [np.concatenate([[True], e[1:] != e[:-1]]) for e in episodes if e is not None]
        number = np.cumsum(np.concatenate(changes)) - 1
    return EvaluationRows(
        torch.from_numpy(np.concatenate([part.features for part in parts])),
        np.concatenate([part.label for part in parts]),
        number,
        seconds_per_step,
    )


def _flight_prior(files: Sequence[FeatureFile], validation: EvaluationRows | None) -> float | None:
    """Return the share of positives among all rows that were flown past, else that of the validation episodes."""
    known = [file.attrs for file in files if file.attrs is not None and 0 < file.attrs.prevalence < 1]
    if known:
        seen = sum(attrs.rows_seen for attrs in known)
        return sum(attrs.prevalence * attrs.rows_seen for attrs in known) / seen
    return None if validation is None else float(validation.label.mean())


def _substitute(rows: Rows, seed: int) -> tuple[Rows, Rows, Rows]:
    part = np.random.default_rng(seed).random(len(rows))
    validation, test = part < SUBSTITUTE_SHARE, part >= 1 - SUBSTITUTE_SHARE
    return rows.select(~validation & ~test), rows.select(validation), rows.select(test)


def _require_both(where: str, label: npt.NDArray[np.bool_], name: str) -> None:
    if label.all() or not label.any():
        found = f"all {len(label)} {name} have label {int(label[0])}" if len(label) else f"there are no {name}"
        raise DatasetError(f"{where}: {found}, and both classes are needed; collect more")
