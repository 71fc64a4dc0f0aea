"""Finds a checkpoint the way Isaac Lab users name it: experiment, run, file, each by name, by pattern, or the latest.

As in Isaac Lab's ``get_checkpoint_path``, the run whose name sorts last is the latest, and of its files the one with
the highest number. A name that exists as it is written wins; otherwise it is a regular expression for the whole name.
A folder that finetuning wrote is a run too: its best epoch is the checkpoint.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.shipped import resolve_name

LOG_ROOT = Path("logs/rsl_rl")
"""Where Isaac Lab's training scripts write."""

CHECKPOINT_ROOT = Path("checkpoints")
"""Searched after the log root."""

DEFAULT_PATTERN = r"model_.*\.(pt|safetensors)"
"""Files taken for a run's checkpoints where none is named."""

FINETUNED_STEM = "policy_finetune_epoch-"
"""Begins the names of the checkpoints that finetuning writes, one an epoch."""

FINETUNED_PATTERN = rf"{FINETUNED_STEM}\d+\.(pt|safetensors)"
"""Those names; taken where a folder holds none of `DEFAULT_PATTERN`."""

METRICS_NAME = "metrics.json"
"""File of finetuning's figures, which names the best epoch."""

_MAX_METRICS_BYTES = 64 * 2**20
_LISTED = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointQuery:
    """How the user names a checkpoint.

    Attributes:
        checkpoint: path of a file or run folder, or name or pattern of a file within the run; the latest if None.
            ``demo``, where no run is named, is the policy that comes with deploy-kit; a file or folder of that name is
            ``./demo``.
        load_run: name or pattern of the run; the latest if None.
        experiment_name: folder under the log root; needed unless the other two tell the place.
        log_root: folder of experiments; ``logs/rsl_rl`` if None. ``checkpoints`` is searched after it.
    """

    checkpoint: str | None = None
    load_run: str | None = None
    experiment_name: str | None = None
    log_root: Path | None = None


def resolve_checkpoint(query: CheckpointQuery) -> Path:
    """Return the path of the checkpoint that a query names.

    Raises:
        CheckpointError: if there is none; the message lists what there is.
        OptionError: if nothing is named, a pattern is not valid, or several experiments fit.
    """
    if query.experiment_name is None and query.load_run is None:
        return _resolve_path(query)
    run = _resolve_run(query)
    return _pick_file(run, query.checkpoint)


def _resolve_path(query: CheckpointQuery) -> Path:
    if query.checkpoint is None:
        raise OptionError(
            "no checkpoint is named: give --checkpoint PATH (demo is the policy that comes with deploy-kit), or "
            "--experiment_name with or without --load_run"
        )
    path = resolve_name(query.checkpoint)
    if path.is_file():
        return path
    if path.is_dir():
        return _pick_file(path, None)
    if path.parent.is_dir() and (path.parent != Path() or path.suffix):
        raise CheckpointError(f"{path} does not exist; {_offer(path.name, _names(path.parent.iterdir()))}")
    experiments = sorted({folder.name for root in _roots(query) for folder in _folders(root)})
    raise CheckpointError(
        f"{path} does not exist; give an existing path, or say where to search with --experiment_name; "
        f"{_offer(path.name, experiments, 'experiments')}"
    )


def _roots(query: CheckpointQuery) -> tuple[Path, Path]:
    return query.log_root or LOG_ROOT, CHECKPOINT_ROOT


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []


def _names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths]


def _resolve_run(query: CheckpointQuery) -> Path:
    """Return the run folder; the first root that holds a matching run decides."""
    if query.experiment_name is None and query.load_run is not None and Path(query.load_run).is_dir():
        return Path(query.load_run)
    experiments = _experiments(query)
    for root in _roots(query):
        found = {
            folder.name: runs[-1]
            for folder in experiments
            if folder.parent == root and (runs := _matching(_folders(folder), query.load_run or ".*", "--load_run"))
        }
        if len(found) > 1:
            raise OptionError(
                f"--load_run {query.load_run} fits runs of several experiments under {root}: "
                f"add --experiment_name ({', '.join(sorted(found))})"
            )
        if found:
            return next(iter(found.values()))
    names = [run.name for folder in experiments for run in _folders(folder)]
    places = ", ".join(str(folder) for folder in experiments)
    wanted = query.load_run or "any name"
    raise CheckpointError(f"no run matches {wanted} in {places}; {_offer(query.load_run or '', names, 'runs')}")


def _experiments(query: CheckpointQuery) -> list[Path]:
    roots = _roots(query)
    every = [folder for root in roots for folder in _folders(root)]
    wanted = every if query.experiment_name is None else [path for path in every if path.name == query.experiment_name]
    if wanted:
        return wanted
    places = " and ".join(map(str, roots))
    name = query.experiment_name or ""
    what = f"no experiment {name}" if name else "there are no experiments"
    raise CheckpointError(
        f"{what} under {places}; {_offer(name, sorted({path.name for path in every}), 'experiments')} "
        "(--log-root names another folder)"
    )


def checkpoints_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's checkpoints of training and those of finetuning, the latest last."""
    files = _files(folder)
    training, finetuned = (_matching(files, pattern, "") for pattern in (DEFAULT_PATTERN, FINETUNED_PATTERN))
    return training, finetuned


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def _pick_file(run: Path, wanted: str | None) -> Path:
    files = _files(run)
    matching = _matching(files, wanted or DEFAULT_PATTERN, "--checkpoint")
    if matching:
        return matching[-1]
    if wanted is None and (epochs := _matching(files, FINETUNED_PATTERN, "--checkpoint")):
        return _pick_epoch(run, epochs)
    checkpoints = [name for name in _names(files) if Path(name).suffix in (".pt", ".safetensors")]
    what = f"no file matches {wanted}" if wanted else "no model_<n>.pt lies"
    raise CheckpointError(f"{what} in {run}; {_offer(wanted or '', checkpoints, 'checkpoints')}")


def _pick_epoch(folder: Path, epochs: list[Path]) -> Path:
    """Return the checkpoint of finetuning's best epoch, of the last one where nothing tells the best, and say which."""
    path, why = epochs[-1], f"the last epoch, since no {METRICS_NAME} names the best one"
    if best := best_epoch_file(folder):
        path, why = best, "the best epoch on the validation rows"
    _logger.info("%s: %s, %s", folder, path.name, why)
    return path


def best_epoch_file(folder: Path) -> Path | None:
    """Return the checkpoint of the best epoch of a finetuning, None where ``metrics.json`` does not tell it."""
    metrics = folder / METRICS_NAME
    try:
        if metrics.stat().st_size > _MAX_METRICS_BYTES:
            return None
        data = json.loads(metrics.read_text(encoding="utf-8"))
        names = [epoch["checkpoint"] for epoch in data["epochs"] if epoch["epoch"] == data["best_epoch"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    # A plain name in this very folder: what the file says is not trusted further.
    known = [name for name in names if isinstance(name, str) and re.fullmatch(FINETUNED_PATTERN, name)]
    return folder / known[0] if known and (folder / known[0]).is_file() else None


def _matching(paths: list[Path], wanted: str, option: str) -> list[Path]:
    """Return the path with exactly this name, else those whose whole name the pattern matches, latest last."""
    if exact := [path for path in paths if path.name == wanted]:
        return exact
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise OptionError(f"{option} {wanted} is neither an existing name nor a valid pattern: {error}") from error
    return sorted((path for path in paths if pattern.fullmatch(path.name)), key=_natural_key)


def _natural_key(path: Path) -> list[str | int]:
    """Sort model_10 after model_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _offer(wanted: str, names: list[str], what: str = "files") -> str:
    if not names:
        return f"there are no {what} there"
    near = difflib.get_close_matches(wanted, names, n=3)
    rest = [name for name in names if name not in near]
    listed = (near + rest)[:_LISTED]
    more = len(near) + len(rest) - len(listed)
    lead = f"did you mean {near[0]}? There" if near else "there"
    return f"{lead} {'is' if len(names) == 1 else 'are'} {', '.join(listed)}{f' and {more} more' if more else ''}"
