"""Kill real collect processes at random moments, fill their disk, fail their writes; count what is lost.

Usage: python benchmarks/kill_collect.py [--kills 500] [--full-disks 50] [--failed-writes 50] [--seed 0] [--out FILE]

Each try is a process of its own that collects with the embedded simulator and closes a shard every half second:

* a kill: SIGKILL at a moment drawn uniformly from the first seconds;
* a full disk: RLIMIT_FSIZE, which fails every write beyond a size that is drawn (EFBIG), as a full disk does (ENOSPC);
* a failed write: the n-th write or fsync of the process, n drawn, fails with EIO, and all that follow.

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
import sys
import tempfile
import time
from collections import Counter
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

WANTED = 2000


def options(path: Path, seed: int) -> CollectOptions:
    """Return what is collected in one try."""
    env = EnvOptions(num_envs=4, seed=seed, num_threads=1, tracks=("circular",), difficulty=0.0)
    return CollectOptions(
        checkpoint=DEMO_POLICY,
        feature_file=path,
        env=env,
        num_positive=WANTED,
        num_negative=WANTED,
        heldout_episodes=2,
        keep_observations=8,
        checkpoint_every=CheckpointEvery(seconds=0.5),
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

    os.fsync = failing(os.fsync)  # type: ignore[assignment]
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

    table._ErrorKeepingFile.__init__ = opened  # type: ignore[method-assign]


def start(path: Path, seed: int, fault: str, size: int) -> int:
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
        if fault == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        elif fault == "failed write":
            fail_writes(size)
        collect(options(path, seed))
        code = 0
    except DeployKitError:
        code = 2
    except BaseException:  # noqa: BLE001  # whatever it is, it is counted
        code = 3
    finally:
        os._exit(code)


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


def judge(path: Path) -> dict[str, Any]:
    """Make the file of what is left and count what is lost."""
    folder = path.with_name(path.name + ".partial")
    if not folder.exists() and not path.exists():
        # It ended before it had made its folder, or gave it up without a row.
        return {"shards": 0, "lost": 0, "stored": 0}
    if not folder.exists():
        with open_feature_file(path) as file:
            return {"shards": 0, "finished": True, "lost": 0, "stored": len(file.train)}
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
    want = (
        {
            (e, s)
            for e, s, one in zip(stored["episode_id"].tolist(), stored["step"].tolist(), label.tolist(), strict=True)
            if one
        }
        if stored
        else set()
    )
    lost = len(want - found) + len(heldout - mine)
    # Negatives are thinned to as many as there are positives.
    lost += max(0, min(positives or len(label), len(label) - positives) - negative_rows)
    return {"shards": count, "lost": lost, "stored": len(label), "in_file": len(features), "positives": positive_rows}


def main() -> None:
    """Parse the command line, try, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--full-disks", type=int, default=50)
    parser.add_argument("--failed-writes", type=int, default=50)
    parser.add_argument("--longest", type=float, default=6.0, help="s, longest life of a process that is killed")
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
    for number, fault in enumerate(faults):
        with tempfile.TemporaryDirectory(prefix="kill-collect-") as name:
            path = Path(name) / "features.h5"
            size = int(10 ** rng.uniform(3.5, 6.5)) if fault == "full disk" else int(rng.integers(1, 150))
            child = start(path, number, fault, size)
            life = rng.uniform(0, arguments.longest)
            deadline = time.monotonic() + (life if fault == "kill" else 3 * arguments.longest)
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            if ended[0] == 0:
                os.kill(child, signal.SIGKILL)
                killed = time.time()
                ended = os.waitpid(child, 0)
            else:
                killed = time.time()
            ages = [killed - p.stat().st_mtime for p in Path(name).glob("*.partial/shard-*.h5")]
            result: dict[str, Any] = {"fault": fault, "status": ended[1], "age_s": min(ages, default=None)}
            try:
                result |= judge(path)
            except Exception as error:  # noqa: BLE001  # counted as a file that does not open
                result |= {"error": f"{type(error).__name__}: {error}", "lost": 0}
                shutil.copytree(name, f"/tmp/kill-collect-failed-{os.getpid()}-{number}", dirs_exist_ok=True)
            results.append(result)
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
        "with_shards": sum(r.get("shards", 0) > 0 for r in results),
        "finished": sum(r.get("finished", False) for r in results),
        "rows_stored": sum(r.get("stored", 0) for r in results),
        "rows_lost": sum(r["lost"] for r in results),
        "files_that_do_not_open": sum("error" in r for r in results),
        "oldest_newest_shard_s": round(max(ages, default=0.0), 2),
        "crashed": sum(os.WIFSIGNALED(r["status"]) and os.WTERMSIG(r["status"]) != signal.SIGKILL for r in results),
        "unexpected": sum(os.WIFEXITED(r["status"]) and os.WEXITSTATUS(r["status"]) == 3 for r in results),
    }


if __name__ == "__main__":
    main()
