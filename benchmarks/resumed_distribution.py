"""Hold collections that were killed and resumed against uninterrupted ones: row for row, or in distribution.

Usage: python benchmarks/resumed_distribution.py [--seeds 60] [--kills 3] [--first-seed 0] [--num-envs 4] [--rows 200]
       [--without-snapshots] [--without-settling] [--out FILE] [--join FILE …]

For each seed the demo policy collects some rows and 4 held-out episodes in the embedded simulator, in one go and in a
process that is killed (SIGKILL) up to three times and resumed until it is complete. Each kill comes a random time after
a random number of new shards, which are closed every 32 to 48 steps. With the defaults each environment flies some ten
episodes.

The simulator's state is stored with the shards, so that both files must be equal, row for row and in every attribute
but those that tell when and in how many flights they were made. Any difference: exit code 1.

With `--without-snapshots` that state is removed before each resume, as if the simulator did not offer it, and the
killed collection has another seed. Of each file some thirty figures are taken (prevalence, rates, tracks, episodes,
steps, features, held-out episodes). The values of each figure over the seeds are compared by the two-sample
Kolmogorov-Smirnov test; files are independent, so their values are. Differing at 1 % for all figures together, by
Holm's rule: exit code 1. `--without-settling` also stores the first steps of the new episodes, which is to be noticed.
`--join` adds what other such runs wrote by `--out`, of other seeds.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from deploy_kit.collection import flight  # noqa: E402  # after the path
from deploy_kit.collection.run import CollectOptions, collect  # noqa: E402  # after the path
from deploy_kit.data.cadence import CheckpointEvery  # noqa: E402  # after the path
from deploy_kit.policy.shipped import DEMO_POLICY  # noqa: E402  # after the path
from deploy_kit.sim.options import EnvOptions  # noqa: E402  # after the path
from helpers.run_statistics import differing, p_values, statistics  # noqa: E402  # after the path


def options(path: Path, seed: int, num_envs: int, rows: int) -> CollectOptions:
    """Return what is collected."""
    env = EnvOptions(num_envs=num_envs, seed=seed, num_threads=1, tracks=("circular", "zigzag"))
    return CollectOptions(
        checkpoint=DEMO_POLICY,
        feature_file=path,
        env=env,
        num_positive=rows,
        num_negative=rows,
        heldout_episodes=4,
        keep_observations=16,
        checkpoint_every=CheckpointEvery(rows=10 * num_envs),
    )


def in_a_process(wanted: CollectOptions) -> int:
    """Collect in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        collect(wanted)
        code = 0
    finally:
        os._exit(code)


def killed_and_resumed(
    wanted: CollectOptions, kills: int, shards: int, rng: np.random.Generator, without_snapshots: bool
) -> int:
    """Collect with kills, each after up to so many new shards; return how many there were."""
    path = wanted.feature_file
    folder, done = Path(f"{path}.partial"), 0
    while True:
        resume = (folder / "collection.json").exists()
        if without_snapshots:
            for snapshot in folder.glob("snapshot-*"):
                snapshot.unlink()
        child = in_a_process(replace(wanted, resume=resume))
        goal = len(list(folder.glob("shard-*.h5"))) + int(rng.integers(1, shards))
        wait = float(rng.uniform(0, 0.3))
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if done < kills and len(list(folder.glob("shard-*.h5"))) >= goal:
                time.sleep(wait)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        if ended[0]:
            if ended[1]:
                raise SystemExit(f"{path}: collecting ended with status {ended[1]}")
            return done
        done += 1
        if path.exists() and not folder.exists():
            return done


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return every dataset and attribute of a feature file but those that tell how often it was interrupted."""
    found: dict[str, tuple[str, bytes]] = {}

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (f"{item.dtype} {item.shape}", item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(take)
        for name, value in file.attrs.items():
            if name not in ("created_utc", "provenance", "layout_sha256"):
                found[f"attribute {name}"] = (type(value).__name__, np.asarray(value).astype(bytes).tobytes())
    return found


def main() -> None:
    """Parse the command line, collect, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200, help="rows of each class")
    parser.add_argument("--without-snapshots", action="store_true")
    parser.add_argument("--without-settling", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--join", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.without_settling:
        flight.settling_steps = lambda flown, longest: 0
    whole, resumed, unequal, kills, rows, flown, episodes = [], [], [], 0, 0, [], []
    for path in arguments.join:
        before = json.loads(path.read_text())
        whole, resumed, kills = whole + before["whole"], resumed + before["resumed"], kills + before["kills"]
        print(f"{path}: {len(before['whole'])} seeds, {before['kills']} kills", flush=True)
    # A shard is closed every 32 to 48 steps, and positives are some 2 % of all steps.
    shards = max(2, arguments.rows * 50 // (64 * arguments.num_envs) // max(1, arguments.kills - 1))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for number, seed in enumerate(seeds, 1):
        with tempfile.TemporaryDirectory(prefix="resumed-") as name:
            one, two = Path(name) / "whole.h5", Path(name) / "resumed.h5"
            collect(options(one, seed, arguments.num_envs, arguments.rows))
            rng = np.random.default_rng((1, seed))
            wanted = options(two, seed + 10**6 * arguments.without_snapshots, arguments.num_envs, arguments.rows)
            kills += killed_and_resumed(wanted, arguments.kills, shards, rng, arguments.without_snapshots)
            if arguments.without_snapshots:
                whole.append(statistics(one))
                resumed.append(statistics(two))
            elif contents(one) != contents(two):
                unequal.append(seed)
            with h5py.File(one) as file:
                rows += len(file["supervision"]) + len(file["heldout/supervision"])
                flown.append(float(file.attrs["rows_seen"]) / arguments.num_envs)
                episodes.append(len(np.unique(file["episode_id"])) / arguments.num_envs)
        report = {"seeds": number, "kills": kills, "steps": round(float(np.mean(flown)))}
        report["episodes"] = round(float(np.mean(episodes)), 1)
        if not arguments.without_snapshots:
            report |= {"rows": rows, "unequal": unequal}
        elif len(whole) >= 8 and (number % 4 == 0 or number == arguments.seeds):
            found = p_values(whole, resumed)
            smallest = min(found, key=lambda name: found[name])
            report |= {"figures": len(found), "differing": differing(found)}
            report |= {"smallest_p": [smallest, round(found[smallest], 4)]}
        else:
            continue
        print(json.dumps(report), flush=True)
        if arguments.out:
            more = {"p": found, "whole": whole, "resumed": resumed} if arguments.without_snapshots else {}
            arguments.out.write_text(json.dumps({**report, **more}))
    sys.exit(1 if report.get("differing") or report.get("unequal") else 0)


if __name__ == "__main__":
    main()
