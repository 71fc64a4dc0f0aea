"""Kill real collect processes at random moments, fill their disk, fail their writes; count what is lost.

Usage: python benchmarks/kill_collect.py [--kills 500] [--full-disks 50] [--failed-writes 50] [--seed 0] [--out FILE]

Each try is a process of its own that collects with the embedded simulator and closes a shard every fifth of a second.
It is forked from a process that has collected once, so that libraries are loaded and it comes to its shards at once:

* a kill: SIGKILL at a random moment: in one try of five within the first second, in three some time after a number of
  shards that is drawn, in one while the feature file is made;
* a full disk: a small file system of its own (tmpfs, as root) that another program fills at a random moment, up to a
  rest that is drawn; where nothing can be mounted, RLIMIT_FSIZE fails every write beyond a size that is drawn;
* a failed write: the n-th write or fsync of the process, n drawn, fails with EIO, and all that follow.

In half of the tries an older feature file is there that is to be replaced. Whatever happens, at that name there must
be the older file, byte for byte, or a whole new one.

Then the feature file is made of what is left, as `collect --recover` does, and held against the shards, read with h5py
alone. Lost rows: those that the shards hold and that belong into the file but are not there. What a kill takes besides
are the rows since the last shard; the age of the newest shard at the kill is told.
"""

import argparse
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from deploy_kit.collection.run import CollectOptions, collect, recover
from deploy_kit.data.cadence import CheckpointEvery
from deploy_kit.data.reader import open_feature_file
from deploy_kit.errors import DatasetError, DeployKitError
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.sim.options import EnvOptions

MANY, FEW = 2000, 40
"""Rows of each class: more than a try comes to, and so few that it comes to its end."""

DISK_MB = 96
"""Size of the small file system; collect keeps 64 MB free unless it is told not to."""


def options(path: Path, seed: int, wanted: int) -> CollectOptions:
    """Return what is collected in one try."""
    env = EnvOptions(num_envs=4, seed=seed, num_threads=1, tracks=("circular",), difficulty=0.0)
    return CollectOptions(
        checkpoint=DEMO_POLICY,
        feature_file=path,
        env=env,
        num_positive=wanted,
        num_negative=wanted,
        heldout_episodes=2,
        keep_observations=8,
        overwrite=True,
        checkpoint_every=CheckpointEvery(seconds=0.2),
    )


def fail_writes(after: int) -> None:
    """Let the writes and fsyncs of this process fail from one of them on."""
    from deploy_kit.data import table

    count = 0

    def failing(call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*arguments)

        return wrapped

    os.fsync = failing(os.fsync)  # type: ignore[assignment]  # fails on purpose
    original = table._ErrorKeepingFile.__init__

    class Raw:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.write = failing(file.write)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opened(self: Any, path: Path) -> None:
        original(self, path)
        self._file = Raw(self._file)

    table._ErrorKeepingFile.__init__ = opened  # type: ignore[method-assign]  # likewise


def start(path: Path, seed: int, fault: str, size: int, wanted: int) -> int:
    """Start a process that collects; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if fault == "limited file":
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        elif fault == "failed write":
            fail_writes(size)
        elif fault == "full disk" and seed % 2:
            # Without the reserve, writes themselves fail, at any place.
            from deploy_kit.data import shard_writer

            shard_writer.RESERVE_BYTES = 0
        collect(options(path, seed, wanted))
        code = 0
    except DeployKitError:
        code = 2
    except BaseException:  # noqa: BLE001  # whatever it is, it is counted
        code = 3
    finally:
        os._exit(code)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system at a folder, if this process may; yield whether it is one."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, rest: int) -> None:
    """Fill a file system up to a rest, B."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**18))
        except OSError:
            file.truncate(max(0, file.tell() - rest))


class Moment:
    """A random moment in the life of a process that collects.

    Args:
        rng: source of the moment.
        folder: where it collects.
    """

    def __init__(self, rng: np.random.Generator, folder: Path) -> None:
        self._folder = folder
        self.kind = str(rng.choice(["beginning", "flight", "end"], p=[0.2, 0.6, 0.2]))
        self._shards = int(rng.integers(1, 20))
        self._wait = float(rng.uniform(0, {"beginning": 1.0, "flight": 0.3, "end": 0.03}[self.kind]))
        self._since: float | None = time.monotonic() if self.kind == "beginning" else None

    def come(self) -> bool:
        """Return whether it has come."""
        if self._since is None:
            if self.kind == "flight":
                reached = len(list(self._folder.glob("*.partial/shard-*.h5"))) >= self._shards
            else:
                reached = any(self._folder.glob("*.partial/.fused.*"))
            if reached:
                self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._wait


def shards(folder: Path) -> tuple[dict[str, np.ndarray], set[int], int]:
    """Read training rows, held-out episodes and the number of shards with h5py alone."""
    rows: dict[str, list[np.ndarray]] = {}
    heldout: set[int] = set()
    found = sorted(folder.glob("shard-*.h5"))
    for path in found:
        with h5py.File(path) as file:
            for name, values in file.get("training", {}).items():
                rows.setdefault(name, []).append(values[...])
            if "heldout" in file:
                heldout |= set(file["heldout/episode_id"][...].tolist())
    return {name: np.concatenate(values) for name, values in rows.items()}, heldout, len(found)


def older_or_new(path: Path, older: bytes | None) -> None:
    """Check that what stands at the name is the older file or a whole new one.

    Raises:
        AssertionError: it is neither.
    """
    if older is None and not path.exists():
        return
    assert path.exists(), "the older file is gone"
    if path.read_bytes() != older:
        with open_feature_file(path) as file:
            assert file.attrs is not None
            assert older is None or file.attrs.complete, "the older file was replaced by a part"


def judge(path: Path, wanted: int, older: bytes | None) -> dict[str, Any]:
    """Make the file of what is left and count what is lost."""
    folder = path.with_name(path.name + ".partial")
    older_or_new(path, older)
    if not folder.exists():
        if not path.exists() or path.read_bytes() == older:
            # It ended before it had made its folder, or gave it up without a row.
            return {"shards": 0, "lost": 0, "stored": 0}
        with open_feature_file(path) as file:
            positive = int(file.train.label.sum())
            rows = len(file.train.features)
            return {"shards": 0, "finished": True, "lost": abs(wanted - positive) + abs(2 * wanted - rows), "stored": 0}
    stored, heldout, count = shards(folder)
    if count == 0:
        return {"shards": 0, "lost": 0, "stored": 0}
    label = stored["supervision"][:, 0] if stored else np.empty(0, np.int8)
    positives = int(label.sum())
    try:
        recover(path, overwrite=True)
    except DatasetError as error:
        if "no rows" not in str(error) or len(label) or heldout:
            raise
        return {"shards": count, "lost": 0, "stored": 0}
    with open_feature_file(path) as file:
        # Reads and checks every row.
        features = file.train.features
        found = set(zip(file.train.episode_id.tolist(), file.train.step.tolist(), strict=True))
        mine = set(file.heldout().episode_id.tolist()) if file.num_heldout else set()
        positive_rows = int(file.train.label.sum())
        negative_rows = len(features) - positive_rows
    lost = len(heldout - mine)
    if positives <= wanted and stored:
        names = zip(stored["episode_id"].tolist(), stored["step"].tolist(), strict=True)
        lost += len({name for name, one in zip(names, label.tolist(), strict=True) if one} - found)
    lost += max(0, min(positives, wanted) - positive_rows)
    # Negatives are thinned to as many as there are positives.
    negatives = min(len(label) - positives, wanted)
    lost += max(0, min(positives or negatives, negatives) - negative_rows)
    return {"shards": count, "lost": lost, "stored": len(label), "in_file": len(features), "positives": positive_rows}


def older_file(folder: Path) -> bytes:
    """Collect once, which loads all libraries too; return the file."""
    collect(replace(options(folder / "older.h5", 0, FEW), max_steps=300))
    return (folder / "older.h5").read_bytes()


def try_once(number: int, fault: str, rng: np.random.Generator, folder: Path, older: bytes) -> dict[str, Any]:
    """Collect in a process, strike, and judge what is left."""
    path = folder / "features.h5"
    before = older if number % 2 else None
    if before is not None:
        path.write_bytes(before)
    size = int(rng.integers(1, 150)) if fault == "failed write" else int(10 ** rng.uniform(3.5, 6.0))
    moment = Moment(rng, folder)
    wanted = FEW if moment.kind == "end" else MANY
    child = start(path, number, fault, size, wanted)
    struck: float | None = None
    deadline = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        if struck is None and moment.come():
            struck = time.time()
            if fault == "kill":
                os.kill(child, signal.SIGKILL)
            elif fault == "full disk":
                fill(folder, size)
        time.sleep(0.002)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    (folder / "filler").unlink(missing_ok=True)
    killed = fault == "kill" and os.WIFSIGNALED(ended[1])
    ages = [(struck or 0.0) - p.stat().st_mtime for p in folder.glob("*.partial/shard-*.h5")] if killed else []
    result: dict[str, Any] = {"fault": fault, "moment": moment.kind, "status": ended[1]}
    result["age_s"] = min(ages, default=None)
    result["hung"] = fault != "kill" and os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL
    try:
        result |= judge(path, wanted, before)
    except Exception as error:  # noqa: BLE001  # counted as a file that does not open
        result |= {"error": f"{type(error).__name__}: {error}", "lost": 0}
        shutil.copytree(folder, f"{tempfile.gettempdir()}/kill-collect-failed-{os.getpid()}-{number}")
    return result


PATIENCE_S = 60.0
"""Time after which a process is ended that nothing else has ended."""


def main() -> None:
    """Parse the command line, try, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--full-disks", type=int, default=50)
    parser.add_argument("--failed-writes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    faults = ["kill"] * arguments.kills + ["full disk"] * arguments.full_disks
    faults += ["failed write"] * arguments.failed_writes
    rng.shuffle(faults)
    results: list[dict[str, Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-collect-") as name:
        older = older_file(Path(name))
    for number, fault in enumerate(faults):
        with tempfile.TemporaryDirectory(prefix="kill-collect-") as name:
            if fault == "full disk":
                with small_disk(Path(name)) as mounted:
                    kind = fault if mounted else "limited file"
                    results.append(try_once(number, kind, rng, Path(name), older))
            else:
                results.append(try_once(number, fault, rng, Path(name), older))
        if (number + 1) % 20 == 0 or number + 1 == len(faults):
            print(json.dumps(summary(results) | {"seconds": round(time.monotonic() - began)}), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"summary": summary(results), "tries": results}, indent=1))
    total = summary(results)
    sys.exit(1 if total["rows_lost"] or total["files_that_do_not_open"] else 0)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the totals."""
    ages = [r["age_s"] for r in results if r["age_s"] is not None and r["fault"] == "kill"]
    return {
        "tries": dict(Counter(r["fault"] for r in results)),
        "moments": dict(Counter(r["moment"] for r in results if r["fault"] == "kill")),
        "with_shards": sum(r.get("shards", 0) > 0 for r in results),
        "finished": sum(r.get("finished", False) for r in results),
        "rows_stored": sum(r.get("stored", 0) for r in results),
        "rows_lost": sum(r["lost"] for r in results),
        "files_that_do_not_open": sum("error" in r for r in results),
        "oldest_newest_shard_s": round(max(ages, default=0.0), 2),
        "hung": sum(r["hung"] for r in results),
        "crashed": sum(os.WIFSIGNALED(r["status"]) and os.WTERMSIG(r["status"]) != signal.SIGKILL for r in results),
        "unexpected": sum(os.WIFEXITED(r["status"]) and os.WEXITSTATUS(r["status"]) == 3 for r in results),
    }


if __name__ == "__main__":
    main()
