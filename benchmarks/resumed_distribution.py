"""Hold collections that were killed and resumed against uninterrupted ones, in distribution.

Usage: python benchmarks/resumed_distribution.py [--seeds 60] [--kills 3] [--first-seed 0] [--out FILE]

For each seed the demo policy collects 100 + 100 rows and 8 held-out episodes in the embedded simulator, once in one
go, and with another seed in a process that is killed up to three times and resumed until it is complete. Each kill
comes a random time after a random number of new shards. Of each file some thirty figures are taken (prevalence, rates,
tracks, episodes, steps, features, held-out episodes). The values of each figure over the seeds are compared by the
two-sample Kolmogorov-Smirnov test; files are independent, so their values are. Differing at 1 % for all figures
together, by Holm's rule: exit code 1.
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

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from deploy_kit.collection.run import CollectOptions, collect  # noqa: E402  # after the path
from deploy_kit.data.cadence import CheckpointEvery  # noqa: E402  # after the path
from deploy_kit.policy.shipped import DEMO_POLICY  # noqa: E402  # after the path
from deploy_kit.sim.options import EnvOptions  # noqa: E402  # after the path
from helpers.run_statistics import differing, p_values, statistics  # noqa: E402  # after the path


def options(path: Path, seed: int) -> CollectOptions:
    """Return what is collected."""
    env = EnvOptions(num_envs=16, seed=seed, num_threads=1, tracks=("circular", "zigzag"))
    return CollectOptions(
        checkpoint=DEMO_POLICY,
        feature_file=path,
        env=env,
        num_positive=100,
        num_negative=100,
        heldout_episodes=8,
        keep_observations=0,
        checkpoint_every=CheckpointEvery(rows=40),
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


def killed_and_resumed(path: Path, seed: int, kills: int, rng: np.random.Generator) -> int:
    """Collect with kills; return how many there were."""
    wanted, folder, done = options(path, seed), Path(f"{path}.partial"), 0
    while True:
        resume = (folder / "collection.json").exists()
        child = in_a_process(replace(wanted, resume=resume))
        goal = len(list(folder.glob("shard-*.h5"))) + int(rng.integers(1, 12))
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
                raise SystemExit(f"seed {seed}: collecting ended with status {ended[1]}")
            return done
        done += 1
        if path.exists() and not folder.exists():
            return done


def main() -> None:
    """Parse the command line, collect, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole, resumed, kills = [], [], 0
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for number, seed in enumerate(seeds, 1):
        with tempfile.TemporaryDirectory(prefix="resumed-") as name:
            path = Path(name) / "whole.h5"
            collect(options(path, seed))
            whole.append(statistics(path))
            path, rng = Path(name) / "resumed.h5", np.random.default_rng((1, seed))
            kills += killed_and_resumed(path, 10**6 + seed, arguments.kills, rng)
            resumed.append(statistics(path))
        if (number >= 8 and number % 4 == 0) or number == arguments.seeds:
            found = p_values(whole, resumed)
            smallest = min(found, key=lambda name: found[name])
            report = {"seeds": number, "kills": kills, "figures": len(found), "differing": differing(found)}
            print(json.dumps({**report, "smallest_p": [smallest, round(found[smallest], 4)]}), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps({**report, "p": found, "whole": whole, "resumed": resumed}))
    sys.exit(1 if report["differing"] else 0)


if __name__ == "__main__":
    main()
